//go:build net

package dhcp

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/nstest"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

// relayed is the variable that makes the test binary a server for the bench: a number of hosts, from which on the
// MACs count up as perfdhcp counts them.
const relayed = "ICHIRO_DHCP_RELAYED"

// serveRelay answers the relay 10.64.0.1 on the link "relay" of the namespace that it was started in. On each line of
// its standard input it tells the counters, so that whoever measures knows that it has been heard; it ends with its input.
func serveRelay(hosts int) error {
	link, err := net.InterfaceByName("relay")
	if err != nil {
		return err
	}
	n := Network{Name: "bench", Enter: func(f func() error) error { return f() }, Relays: []Relay{{link.Index, netip.MustParseAddr("10.64.0.1")}}}
	address := netip.MustParseAddr("10.64.1.0")
	for i := range hosts {
		mac := uint32(0x01020304 + i)
		n.Hosts = append(n.Hosts, &Host{
			Index: link.Index, MAC: [6]byte{0, 0x0c, byte(mac >> 24), byte(mac >> 16), byte(mac >> 8), byte(mac)}, Source: [6]byte(link.HardwareAddr),
			Address: address, Subnet: netip.MustParsePrefix("10.64.0.0/16"), Router: netip.MustParseAddr("10.64.0.2"), Gateway: netip.MustParseAddr("10.64.0.2"),
			MTU: 1500, Hostname: fmt.Sprintf("ip-%d", i), Domain: "ichiro-1.compute.internal", Resolvers: []netip.Addr{netip.MustParseAddr("10.64.0.2")},
		})
		address = address.Next()
	}
	s := New(slog.Default())
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { stop(); <-done; s.Close() }()
	fmt.Println("idle")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if err := s.Apply([]Network{n}); err != nil {
			return err
		}
		fmt.Println(s.Counts())
	}
	return nil
}

func TestARelayIsAnsweredWhereItIs(t *testing.T) {
	side, relay := nstest.New(t, "dhcpserver"), nstest.New(t, "dhcprelay")
	side.IP("link add relay type veth peer name load netns dhcprelay")
	side.IP("addr add 10.64.0.2/16 dev relay")
	side.IP("link set relay up")
	relay.IP("addr add 10.64.0.1/16 dev load")
	relay.IP("link set load up")
	h := guest
	h.Index, _ = strconv.Atoi(strings.SplitN(side.IP("-o link show relay"), ":", 2)[0])
	serve(t, Network{Name: "relay", Enter: side.Do, Hosts: []*Host{&h}, Relays: []Relay{{h.Index, netip.MustParseAddr("10.64.0.1")}}})

	var agent *net.UDPConn
	err := relay.Do(func() (err error) {
		agent, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IP{10, 64, 0, 1}, Port: 67})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	send := func(giaddr net.IP) {
		t.Helper()
		if _, err := agent.WriteToUDP(ask(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithGatewayIP(giaddr)), &net.UDPAddr{IP: net.IP{10, 64, 0, 2}, Port: 67}); err != nil {
			t.Fatal(err)
		}
	}
	send(net.IP{10, 64, 0, 7}) // another relay: would be answered first, and elsewhere
	send(net.IP{10, 64, 0, 1})
	buf := make([]byte, 1500)
	n, from, err := agent.ReadFromUDP(buf)
	if err != nil {
		t.Fatal(err)
	}
	m, err := dhcpv4.FromBytes(buf[:n])
	if err != nil || m.MessageType() != dhcpv4.MessageTypeOffer || from.Port != 67 || !m.GatewayIPAddr.Equal(net.IP{10, 64, 0, 1}) {
		t.Errorf("got %v, %v from %s", m, err, from)
	}
}
