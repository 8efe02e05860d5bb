//go:build net

package eni

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/nstest"
)

func TestLargePacketsInsideAndTheMTUOfThePathOutside(t *testing.T) {
	world := outside(t)
	m := start(t, "emt")
	apply(t, m, open(config("emt", publicly(1, "sg-open"), guestInterface(2, "sg-open"))))
	a, b := configured(t, m, 1), configured(t, m, 2)
	for _, g := range []*nstest.Guest{a, b} {
		g.IP("link set eth0 mtu 9001")
	}
	// 8973 and 28 bytes of headers are 9001.
	if out, err := a.Run("ping", "-c", "1", "-W", "2", "-M", "do", "-s", "8973", "172.31.0.12"); err != nil {
		t.Errorf("a packet of 9001 bytes inside the VPC: %s", out)
	}
	for name, g := range map[string]*nstest.Guest{"under its public address": a, "masqueraded": b} {
		if out, err := g.Run("ping", "-c", "1", "-W", "2", "-M", "do", "-s", "8973", "203.0.113.1"); err == nil || !strings.Contains(out, "mtu") || !strings.Contains(out, "1500") {
			t.Errorf("%s: a packet of 9001 bytes to the world: want to be told 1500, got %s", name, out)
		}
		if out, err := g.Run("ping", "-c", "1", "-W", "2", "-M", "dont", "-s", "8973", "203.0.113.1"); err != nil {
			t.Errorf("%s: a packet that may be fragmented: %s\n%v", name, out, m.Counters())
		}
		g.IP("route flush cache")
	}
	const size = 4 << 20
	for name, g := range map[string]*nstest.Guest{"under its public address": a, "masqueraded": b} {
		if got := upload(t, g.Namespace, world, size); got != size {
			t.Errorf("%s: %d of %d bytes arrived: %v", name, got, size, m.Counters())
		}
	}
}

// upload sends bytes by TCP from one namespace to a server in another, and returns how many arrived.
func upload(t *testing.T, from, at *nstest.Namespace, size int) int {
	t.Helper()
	var l net.Listener
	if err := at.Do(func() (err error) { l, err = net.Listen("tcp4", "203.0.113.1:0"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	arrived := make(chan int64, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			arrived <- 0
			return
		}
		defer c.Close()
		n, _ := io.Copy(io.Discard, c)
		arrived <- n
	}()
	err := from.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 5}); err != nil {
			return err
		}
		to := netip.MustParseAddrPort(l.Addr().String())
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
			return err
		}
		for left := size; left > 0; {
			n, err := unix.Write(fd, make([]byte, min(left, 1<<16)))
			if err != nil {
				return err
			}
			left -= n
		}
		return nil
	})
	if err != nil {
		t.Logf("upload from %s: %v", from.Name, err)
		l.Close() // one that never connected must not be waited for
	}
	return int(<-arrived)
}
