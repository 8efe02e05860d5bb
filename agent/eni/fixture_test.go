//go:build net

package eni

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/nstest"
	"golang.org/x/sys/unix"
)

var built string // directory of a program that a test has built

func TestMain(m *testing.M) {
	if os.Getenv("ICHIRO_VICTIM") != "" {
		os.Exit(m.Run()) // in the namespaces of the test that will kill it
	}
	code := nstest.Main(m)
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

var subnet = cloud.Subnet{ID: "subnet-1", VPC: "vpc-1", CIDR: netip.MustParsePrefix("172.31.0.0/20")}

// guestInterface is the n-th interface of the test's VPC: 172.31.0.(10+n), 02:00:00:00:00:(10+n).
func guestInterface(n int, groups ...cloud.GroupID) Interface {
	return Interface{
		NetworkInterface: cloud.NetworkInterface{
			ID: cloud.InterfaceID(fmt.Sprintf("eni-%017d", n)), VPC: "vpc-1", Subnet: "subnet-1", MAC: fmt.Sprintf("02:00:00:00:00:%02x", 10+n),
			Addresses: []netip.Addr{guestAddr(n)}, Groups: groups, SourceDestCheck: true,
		},
		Network: subnet, Hostname: fmt.Sprintf("ip-172-31-0-%d", 10+n),
	}
}

func guestAddr(n int) netip.Addr { return netip.AddrFrom4([4]byte{172, 31, 0, byte(10 + n)}) }

// config is a VPC with the interfaces; group sg-default is as EC2 makes it, sg-other lets nobody in.
func config(prefix string, interfaces ...Interface) Config {
	return configOf(prefix, each(interfaces...))
}

// configOf is config with interfaces that another Config may have, too.
func configOf(prefix string, interfaces []*Interface) Config {
	c := Config{
		Prefix: prefix, Domain: "ichiro-1.compute.internal",
		VPCs: []cloud.HostNetwork{{
			VPC:     cloud.VPC{ID: "vpc-1", CIDR: netip.MustParsePrefix("172.31.0.0/16")},
			Options: cloud.DHCPOptions{ID: "dopt-1", DomainNameServers: []string{cloud.ProvidedDNS}},
			Subnets: []cloud.HostSubnet{{
				Subnet: cloud.Subnet{ID: "subnet-1", VPC: "vpc-1", CIDR: netip.MustParsePrefix("172.31.0.0/16")},
				Routes: []cloud.HostRoute{{Destination: netip.MustParsePrefix("0.0.0.0/0"), Internet: true}},
			}},
		}},
		Interfaces: interfaces,
	}
	for _, id := range []cloud.GroupID{"sg-default", "sg-other"} {
		g := cloud.HostGroup{SecurityGroup: cloud.SecurityGroup{ID: id, VPC: "vpc-1"}}
		g.Ingress, g.Egress = cloud.DefaultGroupRules(id, "sgr-1", "sgr-2")
		if id == "sg-other" {
			g.Ingress = nil
		}
		for _, i := range interfaces {
			for _, in := range i.Groups {
				if in == id {
					g.Members = append(g.Members, i.Addresses...)
				}
			}
		}
		c.VPCs[0].Groups = append(c.VPCs[0].Groups, g)
	}
	return c
}

// start returns a running manager of an empty host, and removes all that it made when the test ends.
func start(t *testing.T, prefix string) *Manager {
	t.Helper()
	m, _ := run(t, prefix)
	return m
}

// run is start with a function that ends what the manager does, as the end of its agent would.
func run(t *testing.T, prefix string) (*Manager, func()) {
	t.Helper()
	m, err := New(prefix, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := m.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	end := sync.OnceFunc(func() {
		stop()
		wg.Wait()
		m.Close()
	})
	t.Cleanup(func() {
		end()
		if err := Remove(context.Background(), prefix); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
	return m, end
}

// values is the way back of each.
func values(interfaces []*Interface) []Interface {
	out := make([]Interface, len(interfaces))
	for k, i := range interfaces {
		out[k] = *i
	}
	return out
}

func apply(t *testing.T, m *Manager, c Config) {
	t.Helper()
	if err := m.Apply(context.Background(), c); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

// boot gives the n-th interface a guest.
func boot(t *testing.T, m *Manager, n int) *nstest.Guest {
	t.Helper()
	tap, err := m.Tap(guestInterface(n).ID)
	if err != nil {
		t.Fatal(err)
	}
	return nstest.NewGuest(t, fmt.Sprintf("%sguest%d", m.prefix, n), guestInterface(n).MAC, tap)
}

// configured is a booted guest with its address and default route, without DHCP.
func configured(t *testing.T, m *Manager, n int) *nstest.Guest {
	t.Helper()
	g := boot(t, m, n)
	g.IP("addr add %s/20 dev eth0", guestAddr(n))
	g.IP("route add default via 172.31.0.1")
	return g
}

// serve accepts connections and closes them.
func serve(t *testing.T, l net.Listener) {
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
}

// listen serves an address in a namespace.
func listen(t *testing.T, n *nstest.Namespace, address string) {
	t.Helper()
	var l net.Listener
	if err := n.Do(func() (err error) { l, err = net.Listen("tcp", address); return err }); err != nil {
		t.Fatal(err)
	}
	serve(t, l)
}

// reaches reports whether the guest gets a connection within a second: the handshake of a real kernel.
func reaches(t *testing.T, g *nstest.Namespace, address string) bool {
	t.Helper()
	err := g.Do(func() error {
		// A plain socket: Go's resolver and dialer would leave this thread, and with it the namespace.
		return connect(netip.MustParseAddrPort(address))
	})
	t.Logf("%s -> %s: %v", g.Name, address, err)
	return err == nil
}

func sockaddr(to netip.AddrPort) (family int, sa unix.Sockaddr) {
	if to.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

func connect(to netip.AddrPort) error {
	family, sa := sockaddr(to)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// The send timeout bounds connect(2), see socket(7).
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return err
	}
	return unix.Connect(fd, sa)
}

// metadata serves the metadata address of the VPC.
func metadata(t *testing.T, m *Manager) {
	t.Helper()
	f, err := m.Listen("vpc-1", Service{Name: "imds", Network: "tcp", At: Metadata})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l)
}

// machine is all that the root namespace shows: links, addresses, routes, rules, namespaces.
func machine(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	for _, c := range []string{"ip -o link", "ip -o -4 addr", "ip route", "nft list ruleset", "ls /run/netns"} {
		f := strings.Fields(c)
		fmt.Fprintf(&b, "# %s\n%s", c, nstest.Run(t, f[0], f[1:]...))
	}
	return b.String()
}

// watching waits until Run follows the rules, so that a change right after an Apply is not missed.
func watching(m *Manager) <-chan struct{} {
	done := make(chan struct{})
	m.moved <- struct{}{} // taken by Run: the one before it has been worked off
	m.moved <- struct{}{}
	close(done)
	return done
}

var loss = regexp.MustCompile(`, 0% packet loss`)
