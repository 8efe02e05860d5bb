package firewall

import (
	"net/netip"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// IPv6 lives in the same table, in chains of its own that packets of IPv4 never enter: pre6, own6, near6, out6, inp6,
// arrive6. What is woven into the chains of both families stands behind the rules that a packet of IPv4 leaves by. A VPC
// without a block of IPv6 has none of it.
//
// Who asks for neighbours, routers and addresses is answered by agent/neighbour and agent/dhcp6, which hear every frame
// before these rules do. The kernel needs none of it, and would remember neighbours by the thousand if a guest named them.
// So all that a guest says of its link ends here (near6): silently if it is what guests say, counted if it is a lie.
//
//	pre6 -> src6, src6pfx -> own6 -> conntrack      fo -> out6 -> v_out6 -> out_PROFILE    inp -> inp6 -> services6
//	     -> link6 (fe80::, ::) -> near6, the end    fi -> in_PROFILE, leave -> v_route6 -> rt6_TABLE

// Numbers of IPv6 and ICMPv6.
const (
	protoICMPv6 = 58
	// Extension headers of RFC 8200. Who judges a packet with a routing header by its destination judges one stage of its way.
	headerHopByHop = 0
	headerRouting  = 43
	// noHeader is reserved (RFC 8200 section 4.7): no packet has it, so whatever differs from it is a protocol that could be
	// found at the end of the chain of headers.
	noHeader = 255

	echoRequest6          = 128
	listenerReport        = 131
	listenerDone          = 132
	listenerReport2       = 143
	routerSolicitation    = 133
	neighbourSolicitation = 135
	redirect6             = 137
)

// six reports whether the VPC has IPv6.
func (c Config) six() bool { return len(c.Prefixes6) > 0 }

var (
	address6Key  = []nftables.SetDatatype{nftables.TypeIP6Addr}
	linkKey      = []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeEtherAddr}
	speaker6Key  = []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeIP6Addr}
	identity6Key = []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIP6Addr}
)

func saddr6(reg uint32) rule { return payload(netHeader, 8, 16, reg) }
func daddr6(reg uint32) rule { return payload(netHeader, 24, 16, reg) }

// ethernet6 matches IPv6 right behind an Ethernet header.
func ethernet6() rule {
	return rules(
		meta(expr.MetaKeyIIFTYPE, reg1), equal(binaryutil.NativeEndian.PutUint16(1)), // ARPHRD_ETHER
		payload(linkHeader, 12, 2, reg1), equal([]byte{0x86, 0xdd}), // EtherType IPv6
	)
}

// sender6 loads interface, MAC and address of the sender.
func sender6() rule { return rules(ethernet6(), link6(), saddr6(word6)) }

// link6 loads interface and MAC.
func link6() rule {
	return rules(meta(expr.MetaKeyIIFNAME, reg1), payload(linkHeader, 6, 6, reg2))
}

func icmp6(kind byte) rule {
	return rules(l4proto(protoICMPv6), payload(thHeader, 0, 1, reg1), equal([]byte{kind}))
}

// discovery matches what is said of a link, which no router passes on (RFC 4861): solicitations, advertisements, redirects.
func discovery() rule {
	return rules(l4proto(protoICMPv6), payload(thHeader, 0, 1, reg1), rule{
		&expr.Cmp{Op: expr.CmpOpGte, Register: reg1, Data: []byte{routerSolicitation}},
		&expr.Cmp{Op: expr.CmpOpLte, Register: reg1, Data: []byte{redirect6}},
	})
}

// whole6 matches ICMPv6 whose type can be read: not a fragment.
func whole6() rule {
	return rules(l4proto(protoICMPv6), payload(thHeader, 0, 1, reg1), rule{&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: []byte{redirect6}}})
}

// has matches packets with an extension header.
func has(header byte) rule {
	const present = 1 // NFT_EXTHDR_F_PRESENT of linux/netfilter/nf_tables.h
	return rule{
		&expr.Exthdr{DestRegister: reg1, Type: header, Len: 1, Flags: present, Op: expr.ExthdrOpIpv6},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{1}},
	}
}

// masked matches an address, loaded by load, that has the prefix.
func masked(load func(uint32) rule, p netip.Prefix) rule {
	switch p.Bits() {
	case 0:
		return nil
	case 128:
		return rules(load(reg1), equal(p.Addr().AsSlice()))
	}
	mask := make([]byte, 16)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return rules(load(reg1), rule{
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 16, Mask: mask, Xor: make([]byte, 16)},
	}, equal(p.Masked().Addr().AsSlice()))
}

var (
	linkLocal6 = netip.MustParsePrefix("fe80::/10")
	services6  = netip.MustParsePrefix("fd00:ec2::/32") // where EC2's link-local services answer
)

// chains6 are the chains that only IPv6 enters.
func chains6() []chain {
	silence, ip6 := verdict(expr.VerdictDrop, ""), family(nfprotoIPv6)
	udp := func(offset uint32, p uint16) rule { return rules(payload(thHeader, offset, 2, reg1), equal(port(p))) }
	return []chain{
		{"near6", nil, []rule{
			rules(icmp6(routerSolicitation), silence),
			rules(icmp6(neighbourSolicitation), silence),
			rules(discovery(), drop("nd")), // advertisements and redirects: nobody has asked a guest, and nobody is there to be told
			rules(icmp6(listenerReport), silence),
			rules(icmp6(listenerDone), silence),
			rules(icmp6(listenerReport2), silence),
			rules(l4proto(protoUDP), udp(0, 546), udp(2, 547), silence),
			drop("isolated"),
		}, true},
		{"own6", nil, []rule{
			rules(has(headerHopByHop), drop("headers")), // work for every router on the way
			rules(has(headerRouting), drop("headers")),
			rules(discovery(), verdict(expr.VerdictGoto, "near6")),
			rules(meta(expr.MetaKeyL4PROTO, reg1), rule{&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: []byte{noHeader}}}, accept()),
			drop("headers"), // a chain of headers without an end
		}, true},
		{"pre6", nil, []rule{
			rules(sender6(), in("src6"), verdict(expr.VerdictGoto, "own6")),
			rules(sender6(), in("src6pfx"), verdict(expr.VerdictGoto, "own6")),
			// A link has one guest: it may call itself there what it likes (RFC 7217), under its MAC.
			rules(ethernet6(), masked(saddr6, linkLocal6), link6(), in("link6"), verdict(expr.VerdictGoto, "near6")),
			rules(ethernet6(), masked(saddr6, netip.PrefixFrom(netip.IPv6Unspecified(), 128)), link6(), in("link6"), verdict(expr.VerdictGoto, "near6")),
			rules(ip6, masked(saddr6, linkLocal6), drop("spoof")), // also of who forwards for others
			rules(meta(expr.MetaKeyIIFNAME, reg1), in("nocheck"), setMark(markForeign), verdict(expr.VerdictGoto, "own6")),
			drop("spoof"),
		}, true},
		{"arrive6", nil, []rule{
			rules(ip6, saddr6(reg1), in("vpc6"), drop("uplink")),
			rules(ip6, daddr6(reg1), notIn("open6"), drop("uplink")), // its subnet has no internet gateway
			rules(discovery(), drop("uplink")),
			rules(has(headerRouting), drop("headers")),
			accept(),
		}, true},
		{"out6", nil, []rule{
			rules(ip6, masked(daddr6, services6), drop("linklocal")),
			rules(discovery(), drop("nd")), // put together from fragments
			rules(ip6, meta(expr.MetaKeyIIFNAME, reg1), saddr6(reg2), vmap("v_out6")),
			rules(ip6, meta(expr.MetaKeyIIFNAME, reg1), saddr6(reg2), vmap("v_out6_pfx")),
			drop("isolated"),
		}, true},
		{"inp6", nil, []rule{
			rules(sender6(), notIn("src6"), sender6(), notIn("src6pfx"), drop("spoof")),
			rules(limit("ll_rate", linkLocalRate), drop("llrate")),
			rules(discovery(), drop("nd")),
			rules(ip6, daddr6(reg1), meta(expr.MetaKeyL4PROTO, reg2), dport(word5), in("services6"), accept()),
			rules(ip6, daddr6(reg1), in("gateways6"), icmp6(echoRequest6), accept()),
			rules(ctState(stateEstablished), accept()),
			drop("isolated"),
		}, true},
	}
}

// word5 is the second quarter of reg2.
const word5 = 13

// weave leads packets of IPv6 from the chains of both families into their own.
func weave(chains []chain) []chain {
	ip6 := family(nfprotoIPv6)
	toSix := func(chain string) rule { return rules(ip6, verdict(expr.VerdictGoto, chain)) }
	for k := range chains {
		c := &chains[k]
		last := len(c.rules) - 1
		switch c.name {
		case "pre":
			c.rules[c.find(rules(ip6, drop("ipv6")))] = toSix("pre6")
		case "arrive":
			c.rules = slices.Insert(c.rules, last, toSix("arrive6"))
		case "fo":
			c.rules = slices.Insert(c.rules, last, toSix("out6"))
		case "stray": // errors and answers that no connection has asked for, whole ones
			c.rules = slices.Insert(c.rules, last,
				rules(ip6, whole6(), foreign(), verdict(expr.VerdictGoto, "passing")), rules(ip6, whole6(), verdict(expr.VerdictReturn, "")))
		case "leave":
			c.rules = slices.Insert(c.rules, last, rules(ip6, saddr6(reg1), vmap("v_route6")))
		case "inp":
			c.rules = slices.Insert(c.rules, c.find(rules(iifgroup(groupUplink), drop("uplink")))+1, toSix("inp6"))
		}
	}
	return append(chains6(), chains...)
}

// find returns the place of a rule, which must be there.
func (c chain) find(r rule) int {
	n := slices.IndexFunc(c.rules, func(o rule) bool { return reflect.DeepEqual(o, r) })
	if n < 0 {
		panic("chain " + c.name + " has lost a rule that IPv6 hangs on")
	}
	return n
}

// compile6 adds to the filter table what IPv6 needs, if the VPC has any.
func (t *table) compile6(cfg Config, who speakers, p *profiles, r *routing) {
	if !cfg.six() {
		return
	}
	src := set{name: "src6", key: identity6Key, counter: true, skeleton: true}
	srcPrefix := set{name: "src6pfx", key: identity6Key, interval: true, skeleton: true}
	link := set{name: "link6", key: linkKey, skeleton: true}
	vOut := set{name: "v_out6", key: speaker6Key, isMap: true, skeleton: true}
	vOutPrefix := set{name: "v_out6_pfx", key: speaker6Key, isMap: true, interval: true, skeleton: true}
	for k := range cfg.Interfaces {
		i := cfg.Interfaces[k]
		if len(i.Addresses6)+len(i.Prefixes6) == 0 {
			continue // its link has no IPv6 at all
		}
		name, mac := ifname(i.Name), append(slices.Clone(i.MAC[:]), 0, 0)
		link.elements = append(link.elements, element{key: slices.Concat(name, mac)})
		for _, s := range who.siblings.of(k) {
			o := cfg.Interfaces[s]
			out := p.leaving(o.Groups, anywhere6)
			for _, a := range o.Addresses6 {
				src.elements = append(src.elements, element{key: slices.Concat(name, mac, a.AsSlice())})
				vOut.elements = append(vOut.elements, element{key: slices.Concat(name, a.AsSlice()), chain: out})
			}
			for _, d := range o.Prefixes6 {
				lo, hi := ends6(d)
				srcPrefix.elements = append(srcPrefix.elements, element{key: slices.Concat(name, mac, lo), end: slices.Concat(name, mac, hi)})
				vOutPrefix.elements = append(vOutPrefix.elements, element{key: slices.Concat(name, lo), end: slices.Concat(name, hi), chain: out})
			}
		}
	}
	services := set{name: "services6", key: []nftables.SetDatatype{nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService}, skeleton: true}
	for _, s := range cfg.Services {
		if s.At.Addr().Is6() {
			services.elements = append(services.elements, s.element())
		}
	}
	gateways := set{name: "gateways6", key: address6Key, skeleton: true}
	for _, a := range cfg.Gateways6 {
		gateways.elements = append(gateways.elements, element{key: a.AsSlice()})
	}
	vRoute := bySubnet6("v_route6", cfg.Subnets, r.leave6)
	t.sets = append(t.sets, src, srcPrefix, link, vOut, vOutPrefix, services, gateways, vRoute,
		prefixSet6("vpc6", cfg.Prefixes6), prefixSet6("open6", cfg.open6()))
}

// open6 are the subnets that the internet has a way to.
func (c Config) open6() (out []netip.Prefix) {
	for _, s := range c.Subnets {
		if s.CIDR6.IsValid() && slices.ContainsFunc(s.Routes6, func(r Route) bool { return r.Internet }) {
			out = append(out, s.CIDR6)
		}
	}
	return out
}

// ends6 are the first and the last address of a prefix.
func ends6(p netip.Prefix) (lo, hi []byte) {
	lo = p.Masked().Addr().AsSlice()
	hi = slices.Clone(lo)
	for i := p.Bits(); i < 128; i++ {
		hi[i/8] |= 0x80 >> (i % 8)
	}
	return lo, hi
}

// prefixSet6 is a set of prefixes: of two that overlap, the wider.
func prefixSet6(name string, prefixes []netip.Prefix) set {
	s := set{name: name, key: address6Key, interval: true, skeleton: true}
	prefixes = slices.Clone(prefixes)
	slices.SortFunc(prefixes, comparePrefixes)
	var last netip.Prefix
	for _, p := range prefixes {
		if last.IsValid() && last.Overlaps(p) { // prefixes nest or are apart
			continue
		}
		last = p
		lo, hi := ends6(p)
		s.elements = append(s.elements, element{key: lo, end: hi})
	}
	return s
}

// comparePrefixes puts the wider of two prefixes that begin alike first.
func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Masked().Addr().Compare(b.Masked().Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// bySubnet6 is bySubnet for IPv6.
func bySubnet6(name string, subnets []Subnet, chainOf func(Subnet) string) set {
	s := set{name: name, key: address6Key, isMap: true, interval: true, skeleton: true}
	for _, sub := range subnets {
		if c := chainOf(sub); c != "" && sub.CIDR6.IsValid() {
			lo, hi := ends6(sub.CIDR6)
			s.elements = append(s.elements, element{key: lo, end: hi, chain: c})
		}
	}
	return s
}

// inside6 lets pass what stays inside a subnet.
func (s Subnet) inside6() []rule {
	if !s.CIDR6.IsValid() {
		return nil
	}
	return []rule{rules(honest(), family(nfprotoIPv6), masked(saddr6, s.CIDR6), accept())}
}

// leave6 returns the chain that decides whether a packet of the subnet may leave by the uplink: a subnet has few routes.
func (r *routing) leave6(s Subnet) string {
	routes := slices.Clone(s.Routes6)
	slices.SortStableFunc(routes, func(a, b Route) int { return b.Destination.Bits() - a.Destination.Bits() })
	var rs []rule
	for _, to := range routes {
		end := drop("blackhole")
		if to.Internet {
			end = accept()
		}
		rs = append(rs, rules(family(nfprotoIPv6), masked(daddr6, to.Destination), end))
	}
	return r.chain("rt6_", append(rs, drop("noroute")))
}
