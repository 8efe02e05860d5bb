//go:build net

package eni

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// bounded is the n-th interface as one of an instance of so many Mbit/s.
func bounded(n int, id cloud.InstanceID, mbit int) Interface {
	i := guestInterface(n, "sg-default")
	i.Instance, i.Bandwidth = id, Bandwidth{Baseline: mbit, Peak: mbit}
	return i
}

// transfer sends so many bytes by TCP from one guest to another's address, and returns how long the receiver needed for
// them.
func transfer(t *testing.T, from, to *nstest.Namespace, addr netip.Addr, bytes int64) time.Duration {
	t.Helper()
	var l net.Listener
	at := netip.AddrPortFrom(addr, 5001)
	if err := to.Do(func() (err error) { l, err = net.Listen("tcp", at.String()); return err }); err != nil {
		t.Error(err)
		return 0
	}
	defer l.Close()
	took := make(chan time.Duration, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
			took <- 0
			return
		}
		defer c.Close()
		began := time.Now()
		if n, err := io.Copy(io.Discard, c); n != bytes || err != nil {
			t.Errorf("got %d of %d bytes: %v", n, bytes, err)
		}
		took <- time.Since(began)
	}()
	var f *os.File
	err := from.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			f = os.NewFile(uintptr(fd), "transfer")
			err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()})
		}
		return err
	})
	if err == nil {
		_, err = f.Write(make([]byte, bytes))
	}
	if f != nil {
		f.Close()
	}
	if err != nil {
		t.Error(err)
		l.Close()
	}
	return <-took
}

// A token bucket lets no more through than its burst and what its rate gives in the time: that holds however busy the
// machine is. That it lets through what it should is asked for a third only.
func within(t *testing.T, what string, bytes int64, took time.Duration, mbit int) {
	t.Helper()
	const burst = 128 << 10
	rate := float64(bytes) * 8 / 1e6 / took.Seconds()
	least := time.Duration(float64(bytes-burst) * 8 / float64(mbit) * 1000)
	if took < least || rate < float64(mbit)/3 {
		t.Errorf("%s: %d bytes in %v, %.1f Mbit/s: want %d, and no less than %v", what, bytes, took, rate, mbit, least)
	}
	t.Logf("%s: %.1f Mbit/s of %d", what, rate, mbit)
}

func TestAnInstanceHasTheBandwidthOfItsType(t *testing.T) {
	m := start(t, "esa")
	const mbit, bytes = 16, 2 << 20
	apply(t, m, config("esa", bounded(1, "i-1", mbit), guestInterface(2, "sg-default"), guestInterface(3, "sg-default")))
	small, big, other := configured(t, m, 1), configured(t, m, 2), configured(t, m, 3)
	within(t, "sent", bytes, transfer(t, small.Namespace, big.Namespace, guestAddr(2), bytes), mbit)
	within(t, "received", bytes, transfer(t, big.Namespace, small.Namespace, guestAddr(1), bytes), mbit)
	if took := transfer(t, big.Namespace, other.Namespace, guestAddr(3), bytes); float64(bytes)*8/1e6/took.Seconds() < 2*mbit {
		t.Errorf("between instances without bounds %d bytes took %v", bytes, took)
	}
	flood := datagram(big, guestAddr(2), guestAddr(1), strings.Repeat("flood", 200))
	dropped := fmt.Sprintf("ichiro_network_dropped_packets_total %s bandwidth_in", guestInterface(1).ID)
	for metered(t, m)[dropped] == 0 { // ends when the queue is full
		for range 300 {
			big.Inject(flood)
		}
	}
	for name := range metered(t, m) {
		if strings.Contains(name, string(guestInterface(2).ID)) && strings.Contains(name, "bandwidth") {
			t.Errorf("%s is there without bounds", name)
		}
	}
}

func TestInterfacesOfOneInstanceShareItsBandwidth(t *testing.T) {
	m := start(t, "esb")
	const mbit, bytes = 16, 1 << 20
	apply(t, m, config("esb", bounded(1, "i-1", mbit), bounded(2, "i-1", mbit), guestInterface(3, "sg-default"), guestInterface(4, "sg-default")))
	g := cards(t, m, 2)
	peers := []*nstest.Guest{configured(t, m, 3), configured(t, m, 4)}
	g.IP("route add %s dev eth0", guestAddr(3))
	g.IP("route add %s dev eth1", guestAddr(4))
	for _, name := range []string{"all", "eth0", "eth1"} {
		g.Sysctl("ipv4/conf/"+name+"/rp_filter", "0")
	}
	for what, one := range map[string]func(n int){
		"sent":     func(n int) { transfer(t, g.Namespace, peers[n].Namespace, guestAddr(3+n), bytes) },
		"received": func(n int) { transfer(t, peers[n].Namespace, g.Namespace, guestAddr(1+n), bytes) },
	} {
		var both sync.WaitGroup
		began := time.Now()
		for n := range peers {
			both.Go(func() { one(n) })
		}
		both.Wait()
		within(t, what+" by both", 2*bytes, time.Since(began), mbit)
	}
}

// queues is all that a namespace shows of shaping.
func queues(t *testing.T, name string) string {
	t.Helper()
	var b strings.Builder
	for _, line := range strings.Split(nstest.Run(t, "ip", "netns", "exec", name, "tc", "qdisc", "show"), "\n") {
		if strings.Contains(line, "tbf") || strings.Contains(line, "clsact") {
			fmt.Fprintln(&b, line)
		}
	}
	for _, line := range strings.Split(nstest.IP(t, "-n %s -o link", name), "\n") {
		if f := strings.Fields(line); len(f) > 1 && !strings.HasPrefix(f[1], "lo:") {
			dev := strings.TrimSuffix(strings.Split(f[1], "@")[0], ":")
			for _, way := range []string{"ingress", "egress"} {
				for _, l := range strings.Split(nstest.Run(t, "ip", "netns", "exec", name, "tc", "filter", "show", "dev", dev, way), "\n") {
					if strings.Contains(l, "mirred") {
						fmt.Fprintln(&b, dev, way, strings.TrimSpace(l))
					}
				}
			}
		}
	}
	return b.String()
}

func TestShapingIsReconciled(t *testing.T) {
	m, err := New("esc", discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		if err := Remove(context.Background(), "esc"); err != nil {
			t.Error(err)
		}
	})
	burst := bounded(1, "i-1", 64)
	burst.Bandwidth.Peak = 5000
	c := config("esc", burst, bounded(2, "i-1", 64), guestInterface(3, "sg-default"))
	c.Interfaces[1].Bandwidth = burst.Bandwidth
	apply(t, m, c)
	want := queues(t, "esc-vpc-1")
	tap, links := TapName(burst.ID), shaper(burst)
	for _, part := range []string{"rate 64Mbit burst 2.14062e+06Kb peakrate 5Gbit", "clsact ffff: dev " + tap, tap + " ingress action order 1: mirred (Egress Redirect to device u" + links.Name} {
		if !strings.Contains(want, part) {
			t.Errorf("no %q in\n%s", part, want)
		}
	}
	if strings.Contains(want, TapName(guestInterface(3).ID)) {
		t.Errorf("an interface without bounds has a queue:\n%s", want)
	}
	changes := nstest.Changes(t, "esc-vpc-1")
	apply(t, m, c)
	m.Close()
	if m, err = New("esc", discard); err != nil {
		t.Fatal(err)
	}
	apply(t, m, c)
	if got := changes(); got != "" || queues(t, "esc-vpc-1") != want {
		t.Errorf("the second Apply, or that of a successor, changed:\n%s\n%s", got, queues(t, "esc-vpc-1"))
	}
	for _, attack := range []string{
		"tc qdisc del dev " + tap + " clsact",
		"tc filter del dev " + tap + " ingress",
		"tc qdisc del dev u" + links.Name + " root",
		"tc qdisc change dev d" + links.Name + " root handle 1: tbf rate 1mbit burst 10k limit 10k",
		"ip link set u" + links.Name + " down",
		"ip link del d" + links.Name,
		"ip link add name uforeign type ifb",
	} {
		nstest.IP(t, "netns exec esc-vpc-1 %s", attack)
		apply(t, m, c)
		if got := queues(t, "esc-vpc-1"); got != want || strings.Contains(nstest.IP(t, "-n esc-vpc-1 link"), "uforeign") {
			t.Errorf("after %s:\n%s\nwant\n%s", attack, got, want)
		}
		if out := nstest.IP(t, "-n esc-vpc-1 -o link show u%s", links.Name); !strings.Contains(out, ",UP") {
			t.Errorf("after %s: %s", attack, out)
		}
	}
	faster := config("esc", values(c.Interfaces)...)
	for n := range 2 {
		faster.Interfaces[n].Bandwidth = Bandwidth{Baseline: 128, Peak: 5000}
	}
	apply(t, m, faster)
	if got := queues(t, "esc-vpc-1"); strings.Count(got, "rate 128Mbit") != 2 || strings.Count(got, "mirred") != 4 {
		t.Errorf("another type's bandwidth:\n%s", got)
	}
	apply(t, m, config("esc", values(faster.Interfaces[1:])...)) // one of the two that share it goes
	if got := queues(t, "esc-vpc-1"); strings.Count(got, "rate 128Mbit") != 2 || strings.Contains(got, tap) {
		t.Errorf("with one interface of two:\n%s", got)
	}
	faster.Interfaces[1].Bandwidth = Bandwidth{}
	apply(t, m, config("esc", values(faster.Interfaces[1:])...))
	if got := queues(t, "esc-vpc-1"); got != "" || strings.Contains(nstest.IP(t, "-n esc-vpc-1 -d link"), "ifb") {
		t.Errorf("without bounds:\n%s", got)
	}
}
