//go:build net

package netconf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/handover"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

// netTest is a host with the real metadata service, and a guest of namespaces. Each interface of the guest is a veth whose
// other end has a DHCP server and the gateway's address.
type netTest struct {
	t           *testing.T
	host, guest *nstest.Namespace
	root        bundle.Root
	metadata    bundle.Metadata
}

const (
	netVPC = cloud.VPCID("vpc-00000000000000001")
	netID  = cloud.InstanceID("i-00000000000000001")
)

func newNetTest(t *testing.T) *netTest {
	t.Helper()
	for _, tool := range []string{"busybox", "ip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	dir, err := os.MkdirTemp("", "net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &netTest{t: t, root: bundle.Root(filepath.Join(dir, "run")), host: nstest.New(t, "nch"), guest: nstest.New(t, "ncg")}
	n.metadata = bundle.Metadata{Instance: netID, Options: cloud.MetadataOptions{HTTPTokens: "required", HTTPEndpoint: "enabled", HopLimit: 1}}
	n.host.IP("link set lo up")
	n.guest.IP("link set lo up")
	n.host.IP("addr add 169.254.169.254/32 dev lo")
	n.plug(0)
	n.guest.IP("addr add 10.0.0.10/24 dev eth0")
	n.guest.IP("route add default via 10.0.0.1 dev eth0")
	for _, d := range []string{string(n.root.Instance(netID)), filepath.Dir(n.root.Admin("imds")), filepath.Join(dir, "keys")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n.announce(n.nic(0, "10.0.0.10"))
	n.serve(dir)
	return n
}

// nic is the metadata of the n-th interface.
func (n *netTest) nic(number int, addrs ...string) bundle.MetadataInterface {
	i := bundle.MetadataInterface{
		ID: cloud.InterfaceID(fmt.Sprintf("eni-%017d", number)), MAC: fmt.Sprintf("02:00:00:00:00:%02x", number), DeviceNumber: number,
		VPC: netVPC, SubnetPrefix: netip.MustParsePrefix("10.0.0.0/24"),
	}
	for _, a := range addrs {
		i.Addresses = append(i.Addresses, netip.MustParseAddr(a))
	}
	return i
}

func (n *netTest) announce(nics ...bundle.MetadataInterface) {
	n.t.Helper()
	n.metadata.Interfaces = nics
	if err := bundle.Write(n.root.Instance(netID).Path("metadata.json"), n.metadata, 0o644); err != nil {
		n.t.Fatal(err)
	}
}

// plug gives the guest interface eth0, eth1 ... and the host a DHCP server for it, which knows 10.0.0.(10+10n).
func (n *netTest) plug(number int) {
	n.t.Helper()
	peer, eth := fmt.Sprintf("tap%d", number), fmt.Sprintf("eth%d", number)
	n.host.IP("link add %s type veth peer name %s netns ncg", peer, eth)
	n.guest.IP("link set %s address 02:00:00:00:00:%02x", eth, number)
	n.host.IP("link set %s up", peer)
	n.host.IP("addr add 10.0.0.1/32 dev %s", peer)
	n.host.IP("route add 10.0.0.%d dev %s", 10+10*number, peer)
	if number == 0 {
		n.guest.IP("link set eth0 up")
		return
	}
	conf := filepath.Join(n.t.TempDir(), "udhcpd.conf")
	text := fmt.Sprintf("start 10.0.0.%[1]d\nend 10.0.0.%[1]d\ninterface %s\nlease_file %s\npidfile %s.pid\noption subnet 255.255.255.0\noption router 10.0.0.1\noption lease 3600\n",
		10+10*number, peer, conf+".leases", conf)
	err := errors.Join(os.WriteFile(conf, []byte(text), 0o644), os.WriteFile(conf+".leases", nil, 0o644))
	if err != nil {
		n.t.Fatal(err)
	}
	n.run("nch", "busybox", "udhcpd", "-f", "-I", "10.0.0.1", conf)
}

// run runs a program in a namespace until the test ends.
func (n *netTest) run(space string, argv ...string) *exec.Cmd {
	n.t.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", space}, argv...)...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// serve starts the metadata service on the socket that an agent would hand it.
func (n *netTest) serve(dir string) {
	n.t.Helper()
	agent := handover.NewServer(n.root.Handover(), slog.New(slog.DiscardHandler))
	agent.Admit("imds", uint32(os.Getuid()))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { agent.Run(ctx) })
	<-agent.Ready()
	n.t.Cleanup(func() { cancel(); running.Wait(); agent.Withdraw(netVPC) })
	err := agent.Offer("imds", netVPC, "", func() (f *os.File, err error) {
		err = n.host.Do(func() error {
			l, err := net.Listen("tcp4", "169.254.169.254:80")
			if err != nil {
				return err
			}
			defer l.Close()
			f, err = l.(*net.TCPListener).File()
			return err
		})
		return f, err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	imds := filepath.Join(dir, "ichiro-imds")
	if out, err := exec.Command("go", "build", "-o", imds, "../../imds").CombinedOutput(); err != nil {
		n.t.Fatalf("build the metadata service: %v\n%s", err, out)
	}
	cmd := exec.Command(imds, "--run", string(n.root), "--token-key", filepath.Join(dir, "keys", "token"))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
}

// state is what the guest's kernel has been told.
func (n *netTest) state() string {
	n.t.Helper()
	return nstest.IP(n.t, "-n ncg -4 addr show scope global") + nstest.IP(n.t, "-n ncg rule") + nstest.IP(n.t, "-n ncg -4 route show table all")
}

// await waits until the guest's network satisfies ok.
func (n *netTest) await(what string, ok func(state string) bool) time.Duration {
	n.t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(n.t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		s := n.state()
		if ok(s) {
			return time.Since(began)
		}
		select {
		case <-ctx.Done():
			n.t.Fatalf("%s: not after %v:\n%s", what, time.Since(began), s)
		case <-tick.C:
		}
	}
}

// A guest's further interfaces and addresses come and go by themselves, and an answer leaves by the interface on which
// the question came.
func TestTheGuestsNetworkFollowsItsMetadata(t *testing.T) {
	n := newNetTest(t)
	before := n.state()
	program := filepath.Join(t.TempDir(), "ichiro-runcmd")
	if out, err := exec.Command("go", "build", "-o", program, "..").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	lock := filepath.Join(t.TempDir(), "lock")
	agent := n.run("ncg", program, "network", "--network-lock", lock)

	n.announce(n.nic(0, "10.0.0.10"), n.nic(1, "10.0.0.20", "10.0.0.21"))
	n.plug(1)
	t.Logf("configured after %v", n.await("eth1", func(s string) bool {
		return strings.Contains(s, "inet 10.0.0.20/24") && strings.Contains(s, "10001:\tfrom 10.0.0.20 lookup 10001") && strings.Contains(s, "from 10.0.0.21 lookup 10001")
	}))
	// The host knows the way to this address by eth1 alone: an answer by eth0 would be one to nobody.
	nstest.IP(t, "-n nch route add 10.0.0.21 dev tap1")
	nstest.IP(t, "-n nch addr add 198.51.100.1/32 dev lo")
	n.host.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/tap1/rp_filter", []byte("1"), 0) })
	n.host.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("1"), 0) })
	for _, addr := range []string{"10.0.0.20", "10.0.0.21"} {
		if out, err := n.host.Run("ping", "-c", "1", "-W", "2", "-I", "198.51.100.1", addr); err != nil {
			t.Errorf("ping of %s: %v\n%s\n%s", addr, err, out, n.state())
		}
	}
	settled := n.state()

	// A further process waits for the first, and goes on where that one was when it is killed. Nobody tells either of what has
	// changed: the file is there before the second begins, which reads it once.
	n.announce(n.nic(0, "10.0.0.10", "10.0.0.11"), n.nic(1, "10.0.0.20"))
	next := n.run("ncg", program, "network", "--network-lock", lock)
	agent.Process.Signal(syscall.SIGKILL)
	t.Logf("followed by its successor after %v", n.await("addresses", func(s string) bool {
		return strings.Contains(s, "inet 10.0.0.11/32") && !strings.Contains(s, "10.0.0.21")
	}))
	n.announce(n.nic(0, "10.0.0.10"), n.nic(1, "10.0.0.20", "10.0.0.21"))
	next.Process.Signal(syscall.SIGHUP)
	n.await("addresses as before", func(s string) bool { return s == settled })

	// A metadata service that is not there takes nothing away, whatever else happens.
	nstest.IP(t, "-n nch addr del 169.254.169.254/32 dev lo")
	next.Process.Signal(syscall.SIGHUP)
	n.guest.IP("addr add 192.0.2.1/32 dev eth0")
	n.guest.IP("addr del 192.0.2.1/32 dev eth0")
	n.await("still the same", func(s string) bool { return s == settled })
	nstest.IP(t, "-n nch addr add 169.254.169.254/32 dev lo")

	// It goes: the device first, as in a machine.
	nstest.IP(t, "-n nch link del tap1")
	n.announce(n.nic(0, "10.0.0.10"))
	t.Logf("gone after %v", n.await("as in the beginning", func(s string) bool { return s == before }))
}
