package firewall

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Groups of links, as agent/link gives them. A link in no group is treated as a guest's.
const (
	groupTap    = 10
	groupUplink = 20
	groupPeer   = 30
)

// linkLocalRate is EC2's limit of packets to link-local services, per interface and second.
// dhcpRate bounds what a guest can make the DHCP server do: a boot needs fewer than ten.
// arpRate is far above what a kernel asks that has lost all its neighbours.
const (
	linkLocalRate = 1024
	dhcpRate      = 64
	arpRate       = 256
)

// table is a wanted table. Its skeleton (base chains, counters, the sets they use) never changes while
// the program is the same; sets' elements and further chains follow the configuration.
type table struct {
	family   nftables.TableFamily
	name     string
	counters []string
	sets     []set
	chains   []chain // in the order in which they may refer to each other
	named    string  // what layout returns, if it is known
}

type set struct {
	name     string
	key      []nftables.SetDatatype
	data     nftables.SetDatatype // of a map
	isMap    bool
	interval bool
	counter  bool
	dynamic  bool          // filled by rules: never compared
	forget   time.Duration // of a dynamic set: how long an element stays that nobody uses. A full set takes no more
	skeleton bool
	elements []element
	// Of addresses there are thousands in a group: they become elements where they make a difference.
	addresses []netip.Addr
}

// element has inclusive ends; end is nil in a set without intervals.
type element struct {
	key, end []byte
	value    []byte // address map
	chain    string // verdict map: goto, or accepted
}

type chain struct {
	name     string
	base     *base
	rules    []rule
	skeleton bool // its name is not of its content
}

type base struct {
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority nftables.ChainPriority
	drop     bool
}

// compile decides the three tables of a VPC.
func compile(cfg Config) []table {
	who := identities(cfg)
	return []table{compileFilter(cfg, who), compileARP(who), compileNAT(cfg)}
}

// reasons of drops in the filter table, each with the end of the packet's way that it is charged to. The counter of a
// reason has its name; what groups drop is one counter.
var reasons = []struct {
	name, counter string
	charged       expr.MetaKey
}{
	{"aclin", "acl", expr.MetaKeyOIFNAME},
	{"aclout", "acl", expr.MetaKeyIIFNAME},
	{"blackhole", "blackhole", expr.MetaKeyIIFNAME},
	{"dhcprate", "dhcprate", expr.MetaKeyIIFNAME},
	{"foreign", "foreign", expr.MetaKeyIIFNAME},
	{"headers", "headers", expr.MetaKeyIIFNAME},
	{"invalid", "invalid", expr.MetaKeyIIFNAME},
	{"ipv6", "ipv6", expr.MetaKeyIIFNAME},
	{"isolated", "isolated", expr.MetaKeyIIFNAME},
	{"linklocal", "linklocal", expr.MetaKeyIIFNAME},
	{"llrate", "llrate", expr.MetaKeyIIFNAME},
	{"nd", "nd", expr.MetaKeyIIFNAME},
	{"noroute", "noroute", expr.MetaKeyIIFNAME},
	{"sgin", "sgdrop", expr.MetaKeyOIFNAME},
	{"sgout", "sgdrop", expr.MetaKeyIIFNAME},
	{"spoof", "spoof", expr.MetaKeyIIFNAME},
	{"uplink", "uplink", expr.MetaKeyIIFNAME},
}

// arpReasons are those of the ARP table.
var arpReasons = []string{"rate", "spoof"}

// dropped is the set that counts for interfaces what was dropped for the reason.
func dropped(reason string) set {
	return set{name: "n_" + reason, key: ifnameKey, dynamic: true, skeleton: true}
}

func dropChain(reason, counter string, charged expr.MetaKey) chain {
	return chain{name: "drop_" + reason, skeleton: true, rules: []rule{
		perInterface("n_"+reason, charged),
		rules(rule{&expr.Objref{Type: 1, Name: counter}}, verdict(expr.VerdictDrop, "")),
	}}
}

func compileFilter(cfg Config, who speakers) table {
	t := table{family: nftables.TableFamilyINet, name: "eni"}
	n := len(cfg.Interfaces)
	vIn := set{name: "v_in", key: ifnameKey, isMap: true, skeleton: true, elements: make([]element, 0, n)}
	vOut := set{name: "v_out", key: speakerKey, isMap: true, skeleton: true, elements: make([]element, 0, n)}
	vOutPrefix := set{name: "v_out_pfx", key: speakerKey, isMap: true, interval: true, skeleton: true}
	vAny := set{name: "v_any", key: ifnameKey, isMap: true, skeleton: true}
	nocheck := set{name: "nocheck", key: ifnameKey, skeleton: true}
	p, r := newProfiles(cfg.Groups, cfg.six()), newRouting(cfg.Prefixes, family(nfprotoIPv4))
	keys, led := make(keys, 0, n*(16+20)), guided(cfg)
	for k := range cfg.Interfaces {
		i := cfg.Interfaces[k]
		name := keys.name(i.Name)
		in := p.profile("in", i.Groups)
		if led[i.Name] != nil {
			in = p.entrance(in, led[i.Name], owners(cfg))
		}
		vIn.elements = append(vIn.elements, element{key: name, chain: in})
		for _, s := range who.siblings.of(k) { // the groups are those of the address's owner
			o := cfg.Interfaces[s]
			out := p.leaving(o.Groups, anywhere)
			for _, a := range o.Addresses {
				vOut.elements = append(vOut.elements, element{key: keys.speaker(i.Name, a), chain: out})
			}
			for _, d := range o.Prefixes {
				b := bounds(d)
				vOutPrefix.elements = append(vOutPrefix.elements, element{
					key: slices.Concat(name, bytes4(b.lo)), end: slices.Concat(name, bytes4(b.hi)), chain: out,
				})
			}
		}
		if i.Unchecked {
			nocheck.elements = append(nocheck.elements, element{key: name})
			vAny.elements = append(vAny.elements, element{key: name, chain: p.profile("out", i.Groups)})
		}
	}
	vRoute := bySubnet("v_route", true, cfg.Subnets, r.leave)
	t.sets = []set{
		who.set("src4"), who.prefixes("src4pfx"), nocheck, vIn, vOut, vOutPrefix, vAny, vRoute,
		prefixSet("vpc4", cfg.Prefixes),
		addressSet("gateways", cfg.Gateways, true),
		serviceSet("services", cfg.Services, func(Service) bool { return true }),
		serviceSet("bulk", cfg.Services, func(s Service) bool { return s.Bulk }),
		{name: "ll_rate", key: ifnameKey, dynamic: true, skeleton: true, forget: time.Minute},
		{name: "dhcp_rate", key: ifnameKey, dynamic: true, skeleton: true, forget: time.Minute},
	}
	t.sets[0].counter = true
	for _, reason := range reasons {
		if !slices.Contains(t.counters, reason.counter) {
			t.counters = append(t.counters, reason.counter)
		}
		t.sets = append(t.sets, dropped(reason.name))
		t.chains = append(t.chains, dropChain(reason.name, reason.counter, reason.charged))
	}
	if cfg.six() {
		t.chains = append(t.chains, weave(filterChains())...)
	} else {
		t.chains = append(t.chains, filterChains()...)
	}
	t.compile6(cfg, who, p, r)
	t.overlay(cfg, r)
	t.steering(cfg, r)
	t.acls(cfg, r)
	t.mending(cfg, r)
	t.sets = slices.Concat(t.sets, p.sets, r.sets)
	t.chains = slices.Concat(t.chains, p.groupChains, p.chains, r.chains)
	return t
}

// siblings are for each interface, by its place, the places of those whose addresses it may use: those of its instance,
// itself among them.
type siblings [][]int

func newSiblings(list []*Interface) siblings {
	first := make([]int, len(list)) // itself; one array for all
	of, by := make(siblings, len(list)), map[string][]int{}
	for k := range list {
		first[k] = k
		if id := list[k].Instance; id != "" {
			by[id] = append(by[id], k)
		}
	}
	for k := range list {
		of[k] = first[k : k+1 : k+1]
		if id := list[k].Instance; id != "" {
			of[k] = by[id]
		}
	}
	return of
}

func (s siblings) of(k int) []int { return s[k] }

// speakers are who may say what: interface, MAC and address, or prefix.
type speakers struct {
	siblings             siblings
	addresses, delegated []element
}

func identities(cfg Config) speakers {
	n := len(cfg.Interfaces)
	s := speakers{siblings: newSiblings(cfg.Interfaces), addresses: make([]element, 0, n)}
	keys := make(keys, 0, n*identitySize)
	for k := range cfg.Interfaces {
		i := cfg.Interfaces[k]
		for _, n := range s.siblings.of(k) {
			o := cfg.Interfaces[n]
			for _, a := range o.Addresses {
				s.addresses = append(s.addresses, element{key: keys.identity(i, a)})
			}
			for _, p := range o.Prefixes {
				b := bounds(p)
				lo, hi := netip.AddrFrom4([4]byte(bytes4(b.lo))), netip.AddrFrom4([4]byte(bytes4(b.hi)))
				s.delegated = append(s.delegated, element{key: keys.identity(i, lo), end: keys.identity(i, hi)})
			}
		}
	}
	return s
}

func (s speakers) set(name string) set {
	return set{name: name, key: identityKey, skeleton: true, elements: s.addresses}
}

func (s speakers) prefixes(name string) set {
	return set{name: name, key: identityKey, interval: true, skeleton: true, elements: s.delegated}
}

// beforeDefrag is where a packet is still as it came: behind it, a fragment in another's name would be put together
// with that other's own.
const beforeDefrag = -450 // NF_IP_PRI_RAW_BEFORE_DEFRAG

// filterChains is the skeleton of `inet eni`.
func filterChains() []chain {
	filter := func(hook *nftables.ChainHook, priority nftables.ChainPriority, drop bool) *base {
		return &base{nftables.ChainTypeFilter, hook, priority, drop}
	}
	ip4 := family(nfprotoIPv4)
	return []chain{
		{"arrive", nil, []rule{ // from the uplink
			rules(ip4, saddr(reg1), in("vpc4"), drop("uplink")),
			rules(l4proto(protoICMP), payload(thHeader, 0, 1, reg1), equal([]byte{5}), drop("uplink")), // a redirect
			accept(),
		}, true},
		{"pre", filter(nftables.ChainHookPrerouting, beforeDefrag, false), []rule{ // a spoofed packet costs no connection entry
			rules(identity(), in("src4"), accept()), // most packets: so it is asked first
			rules(iifgroup(groupUplink), verdict(expr.VerdictGoto, "arrive")),
			rules(iifname("lo"), accept()),
			rules(family(nfprotoIPv6), drop("ipv6")),
			rules(identity(), in("src4pfx"), accept()),
			// A guest has no address yet, or one that it has lost and must be refused. The input chain bounds how often.
			rules(ip4, daddr(reg1), equal([]byte{255, 255, 255, 255}), asksDHCP(), accept()),
			rules(ip4, daddr(reg1), in("gateways"), asksDHCP(), accept()),
			rules(meta(expr.MetaKeyIIFNAME, reg1), in("nocheck"), setMark(markForeign), accept()),
			drop("spoof"),
		}, true},
		{"fo", filter(nftables.ChainHookForward, 0, true), []rule{
			rules(ctState(stateEstablished), plain(), accept()), // most packets, and what follows would say the same of them
			rules(rule{&expr.Ct{Key: expr.CtKeySTATE, Register: reg1}}, noBit(stateNew), verdict(expr.VerdictJump, "later")),
			rules(meta(expr.MetaKeyMARK, reg1), rule{&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: make([]byte, 4)}}, verdict(expr.VerdictJump, "later")),
			rules(ip4, toLinkLocal(), drop("linklocal")),
			rules(ip4, meta(expr.MetaKeyIIFNAME, reg1), saddr(reg2), vmap("v_out")),
			rules(iifgroup(groupUplink), verdict(expr.VerdictGoto, "enter")),
			rules(ip4, meta(expr.MetaKeyIIFNAME, reg1), saddr(reg2), vmap("v_out_pfx")),
			drop("isolated"),
		}, true},
		// What does not begin a connection, or does so in another's name.
		{"later", nil, []rule{
			rules(ctState(stateInvalid), verdict(expr.VerdictJump, "stray")),
			rules(ip4, toLinkLocal(), drop("linklocal")),
			rules(foreign(), asks(), verdict(expr.VerdictGoto, "passing")),
			rules(ctState(stateEstablished), accept()),
		}, true},
		{"enter", nil, []rule{
			rules(ip4, daddr(reg1), in("vpc4"), ctStatus(), noBit(ctStatusDNAT), drop("uplink")),
			accept(),
		}, true},
		// What belongs to no connection and cannot begin one. Of ICMP these are answers and errors that nobody asked for, which
		// a group may allow; but not at the uplink, where what has no connection has no translation either, and no redirects.
		{"stray", nil, []rule{
			rules(iifgroup(groupUplink), drop("invalid")),
			rules(oifgroup(groupUplink), drop("invalid")),
			rules(l4proto(protoICMP), payload(thHeader, 0, 1, reg1), equal([]byte{5}), drop("invalid")),
			rules(l4proto(protoICMP), foreign(), verdict(expr.VerdictGoto, "passing")),
			rules(l4proto(protoICMP), verdict(expr.VerdictReturn, "")),
			drop("invalid"),
		}, true},
		// What is forwarded in another's name has been here before, on its way to who forwards it: that its connection is
		// established says nothing. Only answers need no rule.
		{"passing", nil, []rule{rules(meta(expr.MetaKeyIIFNAME, reg1), vmap("v_any")), drop("isolated")}, true},
		{"held", nil, []rule{rules(foreign(), asks(), verdict(expr.VerdictReturn, "")), accept()}, true},
		{"leave", nil, []rule{ // by the uplink: a route has no memory of connections
			rules(foreign(), drop("foreign")), // it would leave under the public address of another
			rules(ip4, saddr(reg1), vmap("v_route")),
			drop("noroute"),
		}, true},
		{"fi", filter(nftables.ChainHookForward, 10, true), []rule{ // of its own: accept in fo does not skip it
			rules(oifgroup(groupUplink), verdict(expr.VerdictGoto, "leave")),
			rules(ctState(stateEstablished), unmarked(), accept()), // most packets, as in fo
			rules(ctState(stateEstablished), verdict(expr.VerdictJump, "held")),
			rules(meta(expr.MetaKeyOIFNAME, reg1), vmap("v_in")),
			drop("isolated"),
		}, true},
		{"inp", filter(nftables.ChainHookInput, 0, true), []rule{
			rules(iifname("lo"), accept()),
			rules(iifgroup(groupUplink), ctState(stateEstablished), accept()),
			rules(iifgroup(groupUplink), drop("uplink")),
			rules(l4proto(protoUDP), dport(reg1), equal(port(67)), limit("dhcp_rate", dhcpRate), drop("dhcprate")),
			rules(l4proto(protoUDP), dport(reg1), equal(port(67)), accept()),
			rules(identity(), notIn("src4"), identity(), notIn("src4pfx"), drop("spoof")),                 // who may forward for others is still itself here
			rules(ip4, daddr(reg1), meta(expr.MetaKeyL4PROTO, word1), dport(word2), in("bulk"), accept()), // an object is more than 1,024 packets
			rules(limit("ll_rate", linkLocalRate), drop("llrate")),
			rules(ip4, daddr(reg1), meta(expr.MetaKeyL4PROTO, word1), dport(word2), in("services"), accept()),
			rules(ip4, daddr(reg1), in("gateways"), l4proto(protoICMP), payload(thHeader, 0, 1, reg1), equal([]byte{8}), accept()),
			rules(ctState(stateEstablished), accept()),
			drop("isolated"),
		}, true},
	}
}

// arpInput is NF_ARP_IN: hooks of the ARP family are numbered apart from the others'.
var arpInput = nftables.ChainHookRef(0)

func compileARP(who speakers) table {
	sender := rules(meta(expr.MetaKeyIIFNAME, reg1), payload(netHeader, 8, 6, reg2), payload(netHeader, 14, 4, word6))
	return table{
		family: nftables.TableFamilyARP, name: "eni", counters: arpReasons,
		sets: []set{
			who.set("asrc"), who.prefixes("asrcpfx"), dropped("rate"), dropped("spoof"),
			{name: "arp_rate", key: ifnameKey, dynamic: true, skeleton: true, forget: time.Minute},
		},
		chains: []chain{
			dropChain("rate", "rate", expr.MetaKeyIIFNAME),
			dropChain("spoof", "spoof", expr.MetaKeyIIFNAME),
			{"in", &base{nftables.ChainTypeFilter, arpInput, 0, false}, []rule{
				rules(iifgroup(groupUplink), accept()),
				rules(limit("arp_rate", arpRate), drop("rate")),
				rules(sender, in("asrc"), accept()),
				rules(sender, in("asrcpfx"), accept()),
				rules(payload(netHeader, 14, 4, reg1), equal([]byte{0, 0, 0, 0}), payload(netHeader, 6, 2, reg1), equal([]byte{0, 1}), accept()), // a probe
				drop("spoof"),
			}, true},
		},
	}
}

// compileNAT decides the table of addresses. A guest that asks for a public address of its own VPC leaves and comes
// back by the uplink, as through an internet gateway: so its peer's groups see who it is outside.
func compileNAT(cfg Config) table {
	moved := set{name: "moved", key: addressKey, isMap: true, data: nftables.TypeIPAddr, skeleton: true}
	to := make(map[netip.Addr]netip.Addr, len(cfg.Moved))
	for _, m := range cfg.Moved {
		to[m.From] = m.To
		moved.elements = append(moved.elements, element{key: m.From.AsSlice(), value: m.To.AsSlice()})
	}
	dn := set{name: "dn", key: addressKey, isMap: true, data: nftables.TypeIPAddr, skeleton: true}
	sn := set{name: "sn", key: addressKey, isMap: true, data: nftables.TypeIPAddr, skeleton: true}
	for _, i := range cfg.Interfaces {
		for _, p := range i.Public {
			private := p.Private
			if first, ok := to[private]; ok {
				private = first
			}
			dn.elements = append(dn.elements, element{key: p.Public.AsSlice(), value: private.AsSlice()})
			sn.elements = append(sn.elements, element{key: p.Private.AsSlice(), value: p.Public.AsSlice()})
		}
	}
	var masqueraded []netip.Prefix
	for _, s := range cfg.Subnets {
		if s.masqueraded() {
			masqueraded = append(masqueraded, s.CIDR)
		}
	}
	r := newRouting(cfg.Prefixes, nil)
	vNAT := bySubnet("v_nat", true, cfg.Subnets, r.translate)
	toUplink := func(then rule) rule { return rules(oifgroup(groupUplink), then) }
	post := []rule{toUplink(rules(saddr(reg1), vmap("v_nat")))}
	for _, p := range publish() {
		post = append(post, toUplink(p))
	}
	return table{
		family: nftables.TableFamilyIPv4, name: "enat",
		sets: append([]set{dn, sn, moved, vNAT, prefixSet("nat_subnets", masqueraded)}, r.sets...),
		chains: append([]chain{
			{"pre", &base{nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -100, false}, []rule{
				rules(iifgroup(groupUplink), daddr(reg1), translate("dn", expr.NATTypeDestNAT)),
				rules(iifgroup(groupUplink), accept()), // or a private address would look as if it had been translated
				rules(daddr(reg1), translate("moved", expr.NATTypeDestNAT)),
			}, true},
			{"post", &base{nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 100, false}, post, true},
		}, r.chains...),
	}
}

// compileHost decides the table of the root namespace. It looks only at packets from and to our uplinks.
func compileHost(h Host) table {
	uplinks := set{name: "uplinks", key: ifnameKey, skeleton: true}
	sources := set{name: "sources", key: speakerKey, skeleton: true}
	public := set{name: "public", key: addressKey, skeleton: true}
	var ranges []netip.Prefix
	for _, u := range h.Uplinks {
		name := ifname(u.Name)
		ranges = append(ranges, u.Range)
		uplinks.elements = append(uplinks.elements, element{key: name})
		sources.elements = append(sources.elements, element{key: slices.Concat(name, u.Range.Masked().Addr().Next().AsSlice())})
		for _, a := range u.Public {
			sources.elements = append(sources.elements, element{key: slices.Concat(name, a.AsSlice())})
			public.elements = append(public.elements, element{key: a.AsSlice()})
		}
	}
	fromUplink := rules(meta(expr.MetaKeyIIFNAME, reg1), in("uplinks"))
	toUplink := rules(meta(expr.MetaKeyOIFNAME, reg1), in("uplinks"))
	toPublic := rules(family(nfprotoIPv4), daddr(reg1), in("public"), accept())
	filter := func(hook *nftables.ChainHook) *base { return &base{nftables.ChainTypeFilter, hook, 0, false} }
	reasons := []string{"crowded", "isolated", "linklocal", "spoof", "unasked"}
	var crowd []rule
	if h.Connections > 0 {
		crowd = []rule{
			rules(fromUplink, ctState(stateNew), crowded("conns", expr.MetaKeyIIFNAME, h.Connections), drop("crowded")),
			rules(toUplink, ctState(stateNew), crowded("conns", expr.MetaKeyOIFNAME, h.Connections), drop("crowded")),
		}
	}
	t := table{
		family: nftables.TableFamilyINet, name: h.Table, counters: reasons,
		sets: []set{
			uplinks, sources, public, prefixSet("ranges", ranges),
			{name: "conns", key: ifnameKey, dynamic: true, skeleton: true},
		},
	}
	for _, r := range reasons {
		t.sets = append(t.sets, dropped(r))
		t.chains = append(t.chains, dropChain(r, r, expr.MetaKeyIIFNAME))
	}
	t.chains = append(t.chains,
		chain{"input", filter(nftables.ChainHookInput), []rule{
			rules(fromUplink, ctState(stateEstablished), accept()),
			rules(fromUplink, drop("isolated")),
		}, true},
		chain{"forward", filter(nftables.ChainHookForward), slices.Concat([]rule{
			rules(fromUplink, family(nfprotoIPv4), toLinkLocal(), drop("linklocal")),
			rules(fromUplink, family(nfprotoIPv4), meta(expr.MetaKeyIIFNAME, reg1), saddr(reg2), notIn("sources"), drop("spoof")),
		}, crowd, []rule{
			rules(toUplink, toPublic), // also from another VPC, or the same
			rules(toUplink, ctState(stateEstablished), accept()),
			rules(fromUplink, toUplink, drop("isolated")), // one VPC to another
			rules(fromUplink, accept()),
			rules(toUplink, drop("unasked")),
		}), true},
		chain{"post", &base{nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 100, false}, []rule{
			// Also towards an uplink: a namespace takes no packet from its own address.
			rules(family(nfprotoIPv4), saddr(reg1), in("ranges"), rule{&expr.Masq{}}),
		}, true})
	t.host6(h.Uplinks, fromUplink, toUplink)
	t.hostOverlay(h, fromUplink)
	return t
}

var (
	ifnameKey   = []nftables.SetDatatype{nftables.TypeIFName}
	addressKey  = []nftables.SetDatatype{nftables.TypeIPAddr}
	speakerKey  = []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeIPAddr}
	identityKey = []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr}
)

// keys holds the keys of many elements one after the other: one piece of memory instead of thousands.
type keys []byte

// identitySize is the size of an identity: name, MAC filled up to four bytes, address.
const identitySize = 16 + 8 + 4

func (k *keys) cut(from int) []byte { return (*k)[from:len(*k):len(*k)] }

func (k *keys) name(name string) []byte {
	from := len(*k)
	*k = append(append(*k, name...), zeros[:16-len(name)]...)
	return k.cut(from)
}

func (k *keys) speaker(name string, a netip.Addr) []byte {
	from, ip := len(*k), a.As4()
	k.name(name)
	*k = append(*k, ip[:]...)
	return k.cut(from)
}

func (k *keys) identity(i *Interface, a netip.Addr) []byte {
	from, ip := len(*k), a.As4()
	k.name(i.Name)
	*k = append(append(append(*k, i.MAC[:]...), 0, 0), ip[:]...)
	return k.cut(from)
}

var zeros [16]byte

func prefixSet(name string, prefixes []netip.Prefix) set {
	s := set{name: name, key: addressKey, interval: true, skeleton: true}
	for _, r := range mergePrefixes(prefixes) {
		s.elements = append(s.elements, element{key: bytes4(r.lo), end: bytes4(r.hi)})
	}
	return s
}

// addressSet is a set of addresses, each there once.
func addressSet(name string, addrs []netip.Addr, skeleton bool) set {
	return set{name: name, key: addressKey, skeleton: skeleton, addresses: addrs}
}

func ofAddresses(addrs []netip.Addr) []element {
	elements := make([]element, 0, len(addrs))
	keys := make(keys, 0, 4*len(addrs))
	for _, a := range addrs {
		from := len(keys)
		keys = append(keys, a.AsSlice()...)
		elements = append(elements, element{key: keys.cut(from)})
	}
	return elements
}

func serviceSet(name string, services []Service, which func(Service) bool) set {
	s := set{name: name, key: []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService}, skeleton: true}
	for _, a := range services {
		if a.At.Addr().Is4() && which(a) {
			s.elements = append(s.elements, a.element())
		}
	}
	return s
}

func (s Service) element() element {
	proto := byte(protoTCP)
	if s.UDP {
		proto = protoUDP
	}
	return element{key: slices.Concat(s.At.Addr().AsSlice(), pad(proto), pad(port(s.At.Port())...))}
}

// layout names the skeleton by its content: a table with another layout is replaced as a whole.
func (t table) layout() string {
	if t.named != "" {
		return t.named
	}
	var parts []any
	for _, c := range t.chains {
		if c.base != nil {
			parts = append(parts, c.base.kind, c.base.hook, c.base.priority, c.base.drop)
		}
		if c.skeleton {
			parts = append(parts, c.name, c.rules)
		}
	}
	for _, s := range t.sets {
		if s.skeleton {
			parts = append(parts, s.name, s.key, s.interval, s.isMap, s.counter, s.dynamic, s.forget)
		}
	}
	return "layout_" + digest(parts, t.counters)
}

// digest is a short name for any value that JSON can write.
func digest(v ...any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // expressions are plain structs
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:4])
}

// object makes an ID a name that nft(8) can parse.
func object(id string) string { return strings.ReplaceAll(id, "-", "_") }
