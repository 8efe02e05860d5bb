//go:build net

package firewall_test

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/agent/eni"
	"github.com/ichiro-metal/ichiro/agent/firewall"
	frames "github.com/ichiro-metal/ichiro/agent/wire"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// The model of IPv6 is that of IPv4 in other addresses: the last 32 bits of each are IPv4's, so that a prefix has one
// that holds the same. Groups have rules of both families, the packets are of IPv6.

var subnet6 = netip.MustParsePrefix("2001:db8:0:a00::/64")

func six(a netip.Addr) netip.Addr {
	raw, low := subnet6.Addr().As16(), a.As4()
	copy(raw[12:], low[:])
	return netip.AddrFrom16(raw)
}

// sixRule is the rule for the same packets of IPv6.
func sixRule(r cloud.GroupRule) cloud.GroupRule {
	if r.Protocol == "icmp" {
		r.Protocol = "icmpv6"
		r.FromPort = sixKind(r.FromPort)
	}
	switch p, err := netip.ParsePrefix(r.CIDR); {
	case err != nil: // a group
	case p.Addr().Is6():
		r.CIDR = "0.0.0.0/0"
	case p.Bits() == 0:
		r.CIDR = "::/0"
	default:
		r.CIDR = netip.PrefixFrom(six(p.Addr()), 96+p.Bits()).String()
	}
	return r
}

// sixKind is the ICMPv6 type for one of ICMP: both ask something, or the kernel would call them invalid.
func sixKind(kind int) int {
	switch kind {
	case 8:
		return 128 // an echo
	case 13, 15, 17:
		return 139 // who are you (RFC 4620)
	}
	return kind
}

// both returns the VPC with rules of both families, about half of each. The groups that the test needs open are it for both.
func (v vpc) both(rng *rand.Rand) vpc {
	out := vpc{groups: map[cloud.GroupID]cloud.SecurityGroup{}, of: v.of, ordered: v.ordered}
	for id, g := range v.groups {
		for _, list := range []*[]cloud.GroupRule{&g.Ingress, &g.Egress} {
			var rules []cloud.GroupRule
			for _, r := range *list {
				if id == open || id == ends || rng.IntN(3) > 0 {
					rules = append(rules, sixRule(r))
				}
				if id == open || id == ends || rng.IntN(3) == 0 {
					rules = append(rules, r)
				}
			}
			*list = rules
		}
		out.groups[id] = g
	}
	return out
}

// six is the packet of IPv6 for one of IPv4.
func (p probe) six() probe {
	p.src, p.dst = six(p.src), six(p.dst)
	if p.protocol == 1 {
		p.protocol, p.kind = 58, sixKind(p.kind)
	}
	return p
}

// allows6 is what the model says of the packet of IPv6.
func (v vpc) allows6(p probe) bool {
	s := p.six()
	groups := func(a netip.Addr) (out []cloud.SecurityGroup) {
		ids := v.of[a]
		if v.through(a) == appliance {
			ids = []cloud.GroupID{open}
		}
		for _, id := range ids {
			out = append(out, v.groups[id])
		}
		return out
	}
	packet := cloud.Packet{Protocol: s.protocol, Port: s.port, Type: s.kind, Code: s.code}
	packet.Peer, packet.PeerGroups = s.dst, v.of[p.dst]
	if !cloud.Allows(groups(p.src), true, packet) {
		return false
	}
	packet.Peer, packet.PeerGroups = s.src, v.of[p.src]
	return cloud.Allows(groups(p.dst), false, packet)
}

// config6 is the VPC with both families as a host is told of it.
func (v vpc) config6() eni.Config {
	c := v.config()
	n := &c.VPCs[0]
	n.VPC.Blocks = []cloud.CIDRBlock{{ID: "vpc-cidr-assoc-1", CIDR: netip.PrefixFrom(subnet6.Addr(), 56)}}
	blocks := []cloud.CIDRBlock{{ID: "subnet-cidr-assoc-1", CIDR: subnet6}}
	n.Subnets[0].Blocks = blocks
	for k := range n.Groups {
		g := &n.Groups[k]
		for _, a := range g.Members {
			g.Members = append(g.Members, six(a))
		}
	}
	for k := range c.Interfaces {
		i := c.Interfaces[k]
		i.Network.Blocks, i.IPv6 = blocks, []netip.Addr{six(i.Primary())}
	}
	return c
}

// wire6 is the wire for packets of IPv6.
type wire6 struct{ *wire }

// prepare gives the wire IPv6 as agent/link does.
func (w wire6) prepare() {
	n := w.space
	err := n.Do(func() error {
		for _, key := range []string{"all/forwarding", "default/forwarding"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+key, []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
	link := func(mac net.HardwareAddr) netip.Addr { return netip.AddrFrom16(frames.LinkLocal([6]byte(mac))) }
	for k := range guests + 1 {
		name := eni.TapName(interfaceID(k))
		n.IP("-6 route add %s/128 dev %s", six(address(k)), name)
		n.IP("-6 neigh add %s lladdr %s dev %s nud permanent", six(address(k)), mac(k), name)
		n.IP("-6 neigh add %s lladdr %s dev %s nud permanent", link(mac(k)), mac(k), name)
	}
	for _, p := range away {
		n.IP("-6 route add %s/%d via %s dev %s", six(p.Addr()), 96+p.Bits(), link(mac(appliance)), eni.TapName(interfaceID(appliance)))
	}
}

func TestTheKernelAllowsWhatTheModelAllowsOfIPv6(t *testing.T) {
	const rounds, probes = 40, 250
	rng := rand.New(rand.NewPCG(6, 2))
	w := wire6{newWire(t)}
	w.prepare()
	var allowed, denied, wrong int
	for round := range rounds {
		v := randomVPC(rng).both(rng)
		plan, err := eni.Compile(v.config6())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := firewall.Apply(w.fd, plan.Firewall["vpc-1"]); err != nil {
			t.Fatal(err)
		}
		if err := w.space.Do(forget); err != nil {
			t.Fatalf("forget connections: %v", err)
		}
		batch := make([]probe, probes)
		for k := range batch {
			batch[k] = v.randomProbe(rng, uint32(round*probes+k))
		}
		batch = strangers(batch)
		arrived := w.send(batch)
		for _, p := range batch {
			want := v.allows6(p)
			if want {
				allowed++
			} else {
				denied++
			}
			if got := arrived[p.seq]; want && got != v.tapOf(p.dst) || !want && got != "" {
				wrong++
				t.Errorf("round %d: %s: it arrived at tap %q, the model says %v\nfrom %s\nto %s", round, p.six(), got, want, v.show(p.src, true), v.show(p.dst, false))
			}
		}
	}
	t.Logf("%d packets: %d allowed, %d denied, %d not as the model says", allowed+denied, allowed, denied, wrong)
	if allowed < rounds*probes/10 || denied < rounds*probes/10 {
		t.Errorf("%d allowed and %d denied: a test of one verdict alone says little", allowed, denied)
	}
}

// send puts the packets on the wire as those of IPv6, and returns the tap at which each arrived.
func (w wire6) send(batch []probe) map[uint32]string {
	w.Helper()
	write := func(p probe) {
		n := vpc{}.through(p.src)
		tap, s := eni.TapName(interfaceID(n)), p.six()
		if _, err := w.taps[tap].Write(nstest.Ethernet(w.macs[tap], mac(n), 0x86dd, nstest.IPv6(s.src, s.dst, byte(s.protocol), s.payload6()))); err != nil {
			w.Fatalf("send %s: %v", s, err)
		}
	}
	for _, p := range batch {
		write(p)
	}
	arrived := map[uint32]string{}
	for n := range guests + 1 { // what ends the batch comes behind it at each tap
		name := eni.TapName(interfaceID(n))
		p := probe{seq: ^uint32(n), src: address(appliance), dst: address(n), protocol: 17, port: endPort}
		if n == appliance {
			p.src = address(0)
		}
		write(p)
		if err := w.taps[name].SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			w.Fatal(err)
		}
		buf := make([]byte, 2048)
		for arrived[p.seq] == "" {
			k, err := w.taps[name].Read(buf)
			if err != nil {
				w.Fatalf("the end of the batch does not arrive at %s: %v", name, err)
			}
			if seq, ok := readProbe6(buf[:k]); ok {
				arrived[seq] = name
			}
		}
	}
	return arrived
}

// payload6 is payload with the checksums of IPv6.
func (p probe) payload6() []byte {
	mark := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, magic), p.seq)
	source := uint16(10000 + p.seq%20000)
	switch p.protocol {
	case 58:
		body := binary.BigEndian.AppendUint16(nil, uint16(p.seq))
		body = append(append(body, 0, 1), make([]byte, 8)...)
		return nstest.ICMPv6(p.src, p.dst, byte(p.kind), byte(p.code), append(body, mark...))
	case 6:
		b := binary.BigEndian.AppendUint16(nil, source)
		b = binary.BigEndian.AppendUint16(b, uint16(p.port))
		b = append(b, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0) // SYN
		b = append(b, mark...)
		binary.BigEndian.PutUint16(b[16:], ^nstest.Sum6(p.src, p.dst, 6, b))
		return b
	case 17:
		return nstest.UDP6(netip.AddrPortFrom(p.src, source), netip.AddrPortFrom(p.dst, uint16(p.port)), mark)
	}
	return append(make([]byte, 8), mark...)
}

func readProbe6(frame []byte) (seq uint32, ok bool) {
	if len(frame) < 62 || binary.BigEndian.Uint16(frame[12:]) != 0x86dd {
		return 0, false
	}
	end := 54 + int(binary.BigEndian.Uint16(frame[18:]))
	if end > len(frame) || end < 62 || binary.BigEndian.Uint32(frame[end-8:]) != magic {
		return 0, false
	}
	return binary.BigEndian.Uint32(frame[end-4:]), true
}
