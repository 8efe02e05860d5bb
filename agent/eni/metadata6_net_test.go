//go:build net

package eni

import (
	"net/netip"
	"os"
	"regexp"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// inhabited6 writes down that an instance has addresses of IPv6 in a VPC, and whether its owner wants metadata there.
func (s *services) inhabited6(id cloud.InstanceID, vpc cloud.VPCID, protocol string, addresses ...netip.Addr) {
	s.t.Helper()
	dir := s.root.Instance(id)
	if err := os.MkdirAll(string(dir), 0o755); err != nil {
		s.t.Fatal(err)
	}
	m := bundle.Metadata{Instance: id, Options: cloud.DefaultMetadataOptions(), Interfaces: []bundle.MetadataInterface{{VPC: vpc, IPv6: addresses}}}
	m.Options.HTTPProtocolIPv6 = protocol
	if err := bundle.Write(dir.Path("metadata.json"), m, 0o644); err != nil {
		s.t.Fatal(err)
	}
}

const instanceID6 = "http://[fd00:ec2::254]/latest/meta-data/instance-id"

func whoami6(n *nstest.Namespace) (string, error) {
	return n.Run("curl", "-sS", "-m", "10", instanceID6)
}

// hungUp is the end of a curl whose connection was reset: as it was made, as it sent, or as it read.
var hungUp = regexp.MustCompile(`exit status (7|55|56)\b`)

// The caller is known by its VPC and its address, which the firewall vouches for: one address in two VPCs is two instances.
func TestMetadataByIPv6IsTheCallersOwnWhereItsOwnerWantsIt(t *testing.T) {
	require(t, "curl", "curl")
	m := start(t, "em6")
	one, two := config6("em6", guest6(1, "sg-default"), guest6(2, "sg-default")), withVPC(config6("em6", guest6(1, "sg-default")), "vpc-2")
	both := one
	both.VPCs = append(both.VPCs, two.VPCs...)
	both.Interfaces = append(both.Interfaces, two.Interfaces...)
	apply(t, m, both)
	s := newServices(t, m, both.VPCs...)
	s.inhabited6("i-0000000000000000a", "vpc-1", "enabled", guestAddr6(1))
	s.inhabited6("i-0000000000000000b", "vpc-2", "enabled", guestAddr6(1))
	s.inhabited6("i-0000000000000000c", "vpc-1", "disabled", guestAddr6(2))
	s.start()
	a, c := configured6(t, m, *one.Interfaces[0]), configured6(t, m, *one.Interfaces[1])
	tap, err := m.Tap(two.Interfaces[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	b := nstest.NewGuest(t, "em6other", two.Interfaces[0].MAC, tap)
	enable6(b)
	b.IP("addr add %s/128 dev eth0 nodad", guestAddr6(1))
	b.IP("-6 route replace default via %s dev eth0", ownRouter)

	for range 3 {
		for g, want := range map[*nstest.Guest]string{a: "i-0000000000000000a", b: "i-0000000000000000b"} {
			if got, err := whoami6(g.Namespace); err != nil || got != want {
				t.Errorf("%s: got %q, %v; want %s\n%v", g.Name, got, err, want, m.Counters())
			}
		}
	}
	// Off, which is what nobody has asked about, nothing answers: not even a refusal, which clients that ask by IPv4 too would take for the end.
	for _, step := range []struct{ protocol, want string }{{"disabled", ""}, {"enabled", "i-0000000000000000c"}, {"", ""}} {
		s.inhabited6("i-0000000000000000c", "vpc-1", step.protocol, guestAddr6(2))
		got, err := whoami6(c.Namespace)
		refused := err != nil && hungUp.MatchString(err.Error())
		if step.want == "" && !refused || step.want != "" && got != step.want {
			t.Errorf("%q: got %q, %v, want %q", step.protocol, got, err, step.want)
		}
	}
	// Nothing else of the host is there, and nobody may ask as another.
	for _, at := range []string{"[fd00:ec2::254]:8773", "[fd00:ec2::254]:22", at6(gateway6, 80)} {
		if reaches(t, a.Namespace, at) {
			t.Errorf("%s is reached", at)
		}
	}
	c.IP("addr add %s/128 dev eth0 nodad", guestAddr6(1))
	if got, err := c.Run("curl", "-sS", "-m", "1", "--interface", guestAddr6(1).String(), instanceID6); err == nil {
		t.Errorf("another's address is answered with %q", got)
	}
}

// A container in a guest has an address of the instance's, or of a prefix that is delegated to it, and is one hop further. It may
// read; a token's reply reaches it only if the hop limit lets it pass.
func TestATokenByIPv6PassesNoMoreRoutersThanAllowed(t *testing.T) {
	require(t, "curl", "curl")
	m := start(t, "eh6")
	i := guest6(1, "sg-default")
	inner := guestAddr6(100)
	i.IPv6 = append(i.IPv6, inner)
	all := i.IPv6
	prefix, pod := netip.MustParsePrefix("2001:db8:0:1:7::/80"), netip.MustParseAddr("2001:db8:0:1:7::1234")
	i.Prefixes = []netip.Prefix{prefix}
	c := config6("eh6", i)
	apply(t, m, c)
	s := newServices(t, m, c.VPCs...)
	publish := func(hops int) {
		s.inhabited6("i-0000000000000000a", "vpc-1", "enabled", all...)
		dir := s.root.Instance("i-0000000000000000a")
		md, err := bundle.Read[bundle.Metadata](dir.Path("metadata.json"))
		if err == nil {
			md.Options.HopLimit, md.Interfaces[0].Prefixes = hops, i.Prefixes
			err = bundle.Write(dir.Path("metadata.json"), md, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	publish(1)
	s.start()
	i.IPv6 = i.IPv6[:1]
	g := configured6(t, m, i)
	box := nstest.New(t, "eh6box")
	g.IP("link add box type veth peer name eth0 netns %s", box.Name)
	g.IP("link set box up")
	g.Sysctl("ipv6/conf/box/disable_ipv6", "0")
	g.Sysctl("ipv6/conf/all/forwarding", "1")
	box.IP("link set eth0 up")
	g.IP("-6 addr add fe80::1/64 dev box nodad")
	box.IP("-6 addr add fe80::2/64 dev eth0 nodad")
	box.IP("-6 addr add %s/128 dev eth0 nodad", inner)
	box.IP("-6 route add default via fe80::1 dev eth0")
	g.IP("-6 route add %s/128 via fe80::2 dev box", inner)
	box.IP("-6 addr add %s/128 dev eth0 nodad", pod)
	g.IP("-6 route add %s via fe80::2 dev box", prefix)
	put := []string{"-sS", "-m", "2", "-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60", "http://[fd00:ec2::254]/latest/api/token"}
	for _, from := range []netip.Addr{inner, pod} {
		if got, err := box.Run("curl", "-sS", "-m", "10", "--interface", from.String(), instanceID6); err != nil || got != "i-0000000000000000a" {
			t.Fatalf("a container at %s reads %q, %v\n%v", from, got, err, m.Counters())
		}
	}
	if got, err := g.Run("curl", put...); err != nil || len(got) != 56 {
		t.Errorf("the guest itself gets %q, %v, want a token", got, err)
	}
	if got, err := box.Run("curl", put...); err == nil {
		t.Errorf("a container gets %q", got)
	}
	if got, err := g.Run("grep", "-E", "^Ip6InHdrErrors[[:space:]]+[1-9]", "/proc/net/snmp6"); err != nil {
		t.Errorf("but no router has dropped the reply: %q, %v", got, err)
	}
	publish(2)
	if got, err := box.Run("curl", put...); err != nil || len(got) != 56 {
		t.Errorf("with a hop limit of 2 a container gets %q, %v, want a token", got, err)
	}
}
