//go:build net

package dhcp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/nstest"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

func TestMain(m *testing.M) {
	if n, err := strconv.Atoi(os.Getenv(relayed)); err == nil {
		if err := serveRelay(n); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(nstest.Main(m))
}

// serve runs a server with one network until the test ends.
func serve(t *testing.T, n Network) *Server {
	t.Helper()
	s := New(slog.New(slog.DiscardHandler))
	if err := s.Apply([]Network{n}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	t.Cleanup(func() { stop(); wg.Wait(); s.Close() })
	return s
}

func TestARealClientGetsALeaseRenewsAndIsRefusedAnother(t *testing.T) {
	side, client := nstest.New(t, "dhcpserver"), nstest.New(t, "dhcpclient")
	side.IP("link add tap0 type veth peer name eth0 netns dhcpclient")
	client.IP("link set eth0 address %s", net.HardwareAddr(guest.MAC[:]))
	side.IP("link set tap0 up")
	client.IP("link set eth0 up")
	h := guest
	h.Index, _ = strconv.Atoi(strings.SplitN(side.IP("-o link show tap0"), ":", 2)[0])

	s := serve(t, Network{Name: "one", Enter: side.Do, Hosts: []*Host{&h}})
	ctx := context.Background()
	c := dial(t, client)
	lease, err := c.Request(ctx)
	if err != nil {
		t.Fatalf("request: %v; counters %v", err, s.Counts())
	}
	if got := lease.ACK.YourIPAddr.String(); got != guest.Address.String() {
		t.Errorf("leased %s, want %s", got, guest.Address)
	}
	if _, err := c.Renew(ctx, lease); err != nil {
		t.Errorf("renew: %v", err)
	}
	wrong, err := dhcpv4.NewDiscovery(guest.MAC[:], wish("172.31.16.99"), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := c.SendAndRead(ctx, nclient4.DefaultServers, wrong, nil)
	if err != nil || answer.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("another address: got %v, %v; want a NAK", answer, err)
	}
	// The link goes away and comes back: the server is still there.
	side.IP("link set tap0 down")
	side.IP("link set tap0 up")
	if _, err := dial(t, client).Request(ctx); err != nil {
		t.Errorf("request after the link was down: %v", err)
	}
}

func dial(t *testing.T, n *nstest.Namespace) *nclient4.Client {
	t.Helper()
	var c *nclient4.Client
	if err := n.Do(func() (err error) { c, err = nclient4.New("eth0"); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
