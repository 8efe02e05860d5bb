//go:build net

package eni

import (
	"net"
	"strings"
	"testing"
)

func TestAGuestGetsItsAddressAndReachesTheMetadataService(t *testing.T) {
	m := start(t, "eta")
	apply(t, m, config("eta", guestInterface(1, "sg-default")))
	{
		f, err := m.Listen("vpc-1", Metadata)
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		serve(t, l)
		g := boot(t, m, 1)
		out, err := g.Run("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "3", "-T", "1", "-s", script(t))
		if err != nil {
			t.Fatalf("udhcpc: %v\n%s\n%v", err, out, m.Counters())
		}
		for _, want := range []string{"ip=172.31.0.11", "subnet=255.255.240.0", "router=172.31.0.1", "serverid=172.31.0.1", "lease=3600", "hostname=ip-172-31-0-11", "domain=ichiro-1.compute.internal", "mtu=1500", "broadcast=172.31.15.255"} {
			if !strings.Contains(out, want+"\n") {
				t.Errorf("udhcpc was not told %s:\n%s", want, out)
			}
		}
		if !reaches(t, g.Namespace, Metadata.String()) {
			t.Errorf("guest does not reach %s; counters %v", Metadata.String(), m.Counters())
		}
		for _, closed := range []string{"169.254.169.254:22", "172.31.0.1:80", "169.254.169.254:81"} {
			if reaches(t, g.Namespace, closed) {
				t.Errorf("guest reaches %s", closed)
			}
		}
		if out, err := g.Run("ping", "-c", "1", "-W", "1", "172.31.0.1"); err != nil {
			t.Errorf("ping of the gateway: %v %s", err, out)
		}
	}
}
