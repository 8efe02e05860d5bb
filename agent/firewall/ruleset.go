package firewall

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Groups of links, as agent/link gives them. A link in no group is treated as a guest's.
const (
	groupTap    = 10
	groupUplink = 20
)

// linkLocalRate is EC2's limit of packets to link-local services, per interface and second.
// dhcpRate bounds what a guest can make the DHCP server do: a boot needs fewer than ten.
const (
	linkLocalRate = 1024
	dhcpRate      = 64
)

// table is a wanted table. Its skeleton (base chains, counters, the sets they use) never changes while
// the program is the same; sets' elements and further chains follow the configuration.
type table struct {
	family   nftables.TableFamily
	name     string
	counters []string
	sets     []set
	chains   []chain // in the order in which they may refer to each other
}

type set struct {
	name     string
	key      []nftables.SetDatatype
	data     nftables.SetDatatype // of a map
	isMap    bool
	interval bool
	counter  bool
	dynamic  bool // filled by rules: never compared
	skeleton bool
	elements []element
}

// element has inclusive ends; end is nil in a set without intervals.
type element struct {
	key, end []byte
	value    []byte // address map
	chain    string // verdict map: goto
}

type chain struct {
	name  string
	base  *base
	rules []rule
}

type base struct {
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority nftables.ChainPriority
	drop     bool
}

// compile decides the three tables of a VPC.
func compile(cfg Config) []table {
	return []table{compileFilter(cfg), compileARP(cfg), compileNAT(cfg)}
}

func compileFilter(cfg Config) table {
	t := table{family: nftables.TableFamilyINet, name: "eni", counters: []string{"dhcprate", "ipv6", "isolated", "linklocal", "llrate", "sgdrop", "spoof", "uplink"}}
	src4 := set{name: "src4", key: identityKey, counter: true, skeleton: true}
	nocheck := set{name: "nocheck", key: ifnameKey, skeleton: true}
	vIn := set{name: "v_in", key: ifnameKey, isMap: true, skeleton: true}
	vOut := set{name: "v_out", key: []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeIPAddr}, isMap: true, skeleton: true}
	vAny := set{name: "v_any", key: ifnameKey, isMap: true, skeleton: true}
	p := newProfiles(cfg.Groups)
	for _, i := range cfg.Interfaces {
		name := ifname(i.Name)
		out := p.profile("out", i.Groups)
		vIn.elements = append(vIn.elements, element{key: name, chain: p.profile("in", i.Groups)})
		for _, a := range i.Addresses {
			ip := a.As4()
			src4.elements = append(src4.elements, element{key: identityOf(i, a)})
			vOut.elements = append(vOut.elements, element{key: slices.Concat(name, ip[:]), chain: out})
		}
		if i.Unchecked {
			nocheck.elements = append(nocheck.elements, element{key: name})
			vAny.elements = append(vAny.elements, element{key: name, chain: out})
		}
	}
	t.sets = append([]set{
		src4, nocheck, vIn, vOut, vAny,
		prefixSet("vpc4", cfg.Prefixes),
		addressSet("gateways", cfg.Gateways, true),
		serviceSet(cfg.Services),
		{name: "ll_rate", key: ifnameKey, dynamic: true, skeleton: true},
		{name: "dhcp_rate", key: ifnameKey, dynamic: true, skeleton: true},
	}, p.sets...)
	t.chains = append(filterChains(), append(p.groupChains, p.chains...)...)
	return t
}

// filterChains is the skeleton of `inet eni`.
func filterChains() []chain {
	filter := func(hook *nftables.ChainHook, priority nftables.ChainPriority, drop bool) *base {
		return &base{nftables.ChainTypeFilter, hook, priority, drop}
	}
	ip4 := family(nfprotoIPv4)
	return []chain{
		{"pre", filter(nftables.ChainHookPrerouting, -300, false), []rule{ // raw: a spoofed packet costs no connection entry
			rules(iifgroup(groupUplink), accept()),
			rules(iifname("lo"), accept()),
			rules(family(nfprotoIPv6), drop("ipv6")),
			rules(identity(), in("src4"), accept()),
			rules(ip4, saddr(reg1), equal([]byte{0, 0, 0, 0}), daddr(reg1), equal([]byte{255, 255, 255, 255}),
				l4proto(protoUDP), payload(thHeader, 0, 4, reg1), equal([]byte{0, 68, 0, 67}), accept()),
			rules(meta(expr.MetaKeyIIFNAME, reg1), in("nocheck"), accept()),
			drop("spoof"),
		}},
		{"fo", filter(nftables.ChainHookForward, 0, true), []rule{
			rules(ctState(stateInvalid), verdict(expr.VerdictDrop, "")),
			rules(ip4, toLinkLocal(), drop("linklocal")),
			rules(ctState(stateEstablished), accept()),
			rules(iifgroup(groupUplink), ip4, daddr(reg1), in("vpc4"), ctStatus(), noBit(ctStatusDNAT), drop("uplink")),
			rules(iifgroup(groupUplink), accept()),
			rules(ip4, meta(expr.MetaKeyIIFNAME, reg1), saddr(reg2), vmap("v_out")),
			rules(meta(expr.MetaKeyIIFNAME, reg1), vmap("v_any")),
		}},
		{"fi", filter(nftables.ChainHookForward, 10, true), []rule{ // of its own: accept in fo does not skip it
			rules(ctState(stateEstablished), accept()),
			rules(oifgroup(groupUplink), accept()),
			rules(meta(expr.MetaKeyOIFNAME, reg1), vmap("v_in")),
		}},
		{"inp", filter(nftables.ChainHookInput, 0, true), []rule{
			rules(iifname("lo"), accept()),
			rules(iifgroup(groupUplink), ctState(stateEstablished), accept()),
			rules(iifgroup(groupUplink), drop("uplink")),
			rules(l4proto(protoUDP), dport(reg1), equal(port(67)), limit("dhcp_rate", dhcpRate), drop("dhcprate")),
			rules(l4proto(protoUDP), dport(reg1), equal(port(67)), accept()),
			rules(identity(), notIn("src4"), drop("spoof")), // who may forward for others is still itself here
			rules(limit("ll_rate", linkLocalRate), drop("llrate")),
			rules(ip4, daddr(reg1), meta(expr.MetaKeyL4PROTO, word1), dport(word2), in("services"), accept()),
			rules(ip4, daddr(reg1), in("gateways"), l4proto(protoICMP), payload(thHeader, 0, 1, reg1), equal([]byte{8}), accept()),
			rules(ctState(stateEstablished), accept()),
			drop("isolated"),
		}},
	}
}

// arpInput is NF_ARP_IN: hooks of the ARP family are numbered apart from the others'.
var arpInput = nftables.ChainHookRef(0)

func compileARP(cfg Config) table {
	asrc := set{name: "asrc", key: identityKey, skeleton: true}
	for _, i := range cfg.Interfaces {
		for _, a := range i.Addresses {
			asrc.elements = append(asrc.elements, element{key: identityOf(i, a)})
		}
	}
	return table{
		family: nftables.TableFamilyARP, name: "eni", counters: []string{"spoof"}, sets: []set{asrc},
		chains: []chain{{"in", &base{nftables.ChainTypeFilter, arpInput, 0, false}, []rule{
			rules(iifgroup(groupUplink), accept()),
			rules(meta(expr.MetaKeyIIFNAME, reg1), payload(netHeader, 8, 6, reg2), payload(netHeader, 14, 4, word6), in("asrc"), accept()),
			rules(payload(netHeader, 14, 4, reg1), equal([]byte{0, 0, 0, 0}), payload(netHeader, 6, 2, reg1), equal([]byte{0, 1}), accept()), // a probe
			drop("spoof"),
		}}},
	}
}

func compileNAT(cfg Config) table {
	return table{
		family: nftables.TableFamilyIPv4, name: "enat",
		sets: []set{
			{name: "dn", key: addressKey, isMap: true, data: nftables.TypeIPAddr, skeleton: true},
			{name: "sn", key: addressKey, isMap: true, data: nftables.TypeIPAddr, skeleton: true},
			prefixSet("vpc4", cfg.Prefixes),
			prefixSet("nat_subnets", cfg.Translate),
		},
		chains: []chain{
			{"pre", &base{nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -100, false}, []rule{
				rules(daddr(reg1), translate("dn", expr.NATTypeDestNAT)),
			}},
			{"post", &base{nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 100, false}, []rule{
				rules(oifgroup(groupUplink), saddr(reg1), translate("sn", expr.NATTypeSourceNAT)),
				rules(oifgroup(groupUplink), saddr(reg1), in("nat_subnets"), rule{&expr.Masq{}}),
				// Hairpin: the peer sees the public address, as behind an internet gateway.
				rules(oifgroup(groupTap), ctStatus(), anyBit(ctStatusDNAT), saddr(reg1), in("vpc4"), saddr(reg1), translate("sn", expr.NATTypeSourceNAT)),
			}},
		},
	}
}

// compileHost decides the table of the root namespace. It looks only at packets from and to our uplinks.
func compileHost(h Host) table {
	uplinks := set{name: "uplinks", key: ifnameKey, skeleton: true}
	for _, u := range h.Uplinks {
		uplinks.elements = append(uplinks.elements, element{key: ifname(u)})
	}
	fromUplink := rules(meta(expr.MetaKeyIIFNAME, reg1), in("uplinks"))
	toUplink := rules(meta(expr.MetaKeyOIFNAME, reg1), in("uplinks"))
	filter := func(hook *nftables.ChainHook) *base { return &base{nftables.ChainTypeFilter, hook, 0, false} }
	return table{
		family: nftables.TableFamilyINet, name: h.Table, counters: []string{"isolated", "linklocal", "unasked"},
		sets: []set{uplinks, prefixSet("ranges", h.Ranges)},
		chains: []chain{
			{"input", filter(nftables.ChainHookInput), []rule{
				rules(fromUplink, ctState(stateEstablished), accept()),
				rules(fromUplink, drop("isolated")),
			}},
			{"forward", filter(nftables.ChainHookForward), []rule{
				rules(fromUplink, family(nfprotoIPv4), toLinkLocal(), drop("linklocal")),
				rules(fromUplink, toUplink, drop("isolated")), // one VPC to another
				rules(fromUplink, family(nfprotoIPv4), saddr(reg1), notIn("ranges"), drop("isolated")),
				rules(fromUplink, accept()),
				rules(toUplink, ctState(stateEstablished), accept()),
				rules(toUplink, drop("unasked")),
			}},
			{"post", &base{nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 100, false}, []rule{
				rules(family(nfprotoIPv4), saddr(reg1), in("ranges"), meta(expr.MetaKeyOIFNAME, reg1), notIn("uplinks"), rule{&expr.Masq{}}),
			}},
		},
	}
}

var (
	ifnameKey   = []nftables.SetDatatype{nftables.TypeIFName}
	addressKey  = []nftables.SetDatatype{nftables.TypeIPAddr}
	identityKey = []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr}
)

func identityOf(i Interface, a netip.Addr) []byte {
	ip := a.As4()
	return slices.Concat(ifname(i.Name), i.MAC[:], []byte{0, 0}, ip[:])
}

func prefixSet(name string, prefixes []netip.Prefix) set {
	s := set{name: name, key: addressKey, interval: true, skeleton: true}
	for _, r := range mergePrefixes(prefixes) {
		s.elements = append(s.elements, element{key: bytes4(r.lo), end: bytes4(r.hi)})
	}
	return s
}

func addressSet(name string, addrs []netip.Addr, skeleton bool) set {
	s := set{name: name, key: addressKey, skeleton: skeleton}
	for _, a := range addrs {
		s.elements = append(s.elements, element{key: a.AsSlice()})
	}
	return s
}

func serviceSet(services []Service) set {
	s := set{name: "services", key: []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService}, skeleton: true}
	for _, a := range services {
		proto := byte(protoTCP)
		if a.UDP {
			proto = protoUDP
		}
		s.elements = append(s.elements, element{key: slices.Concat(a.At.Addr().AsSlice(), pad(proto), pad(port(a.At.Port())...))})
	}
	return s
}

// layout names the skeleton by its content: a table with another layout is replaced as a whole.
func (t table) layout() string {
	var parts []any
	for _, c := range t.chains {
		if c.base != nil {
			parts = append(parts, c.name, c.base.kind, c.base.hook, c.base.priority, c.base.drop, c.rules)
		}
	}
	for _, s := range t.sets {
		if s.skeleton {
			parts = append(parts, s.name, s.key, s.interval, s.isMap, s.counter, s.dynamic)
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
