package firewall

import (
	"encoding/binary"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// rule is the statements of one rule. The functions below are named as in nft(8); each mirrors what nft
// 1.0.6 generates, so that `nft list` prints the rules as a human would write them.
type rule []expr.Any

func rules(parts ...rule) rule {
	var r rule
	for _, p := range parts {
		r = append(r, p...)
	}
	return r
}

// Registers: 1 to 4 are the 16-byte ones, 8 and up name their 4-byte quarters.
const (
	reg1  = 1
	reg2  = 2
	word1 = 9  // second quarter of reg1
	word2 = 10 // third quarter of reg1
	word6 = 14 // third quarter of reg2
)

// Numbers of the kernel's uapi headers that the library does not name.
const (
	linkHeader, netHeader, thHeader = expr.PayloadBaseLLHeader, expr.PayloadBaseNetworkHeader, expr.PayloadBaseTransportHeader

	nfprotoIPv4, nfprotoIPv6 = 2, 10
	protoICMP                = 1
	protoTCP                 = 6
	protoUDP                 = 17
	ctStatusDNAT             = 0x20
)

func meta(key expr.MetaKey, reg uint32) rule {
	return rule{&expr.Meta{Key: key, Register: reg}}
}

func payload(base expr.PayloadBase, offset, length, reg uint32) rule {
	return rule{&expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: length}}
}

func equal(data []byte) rule {
	return rule{&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: data}}
}

func family(nfproto byte) rule { return rules(meta(expr.MetaKeyNFPROTO, reg1), equal([]byte{nfproto})) }
func l4proto(proto byte) rule  { return rules(meta(expr.MetaKeyL4PROTO, reg1), equal([]byte{proto})) }

func iifgroup(g uint32) rule {
	return rules(meta(expr.MetaKeyIIFGROUP, reg1), equal(binaryutil.NativeEndian.PutUint32(g)))
}

func oifgroup(g uint32) rule {
	return rules(meta(expr.MetaKeyOIFGROUP, reg1), equal(binaryutil.NativeEndian.PutUint32(g)))
}

func iifname(name string) rule {
	return rules(meta(expr.MetaKeyIIFNAME, reg1), equal(ifname(name)))
}

// ifname is a link name as the kernel compares it: 16 bytes, padded with zeros.
func ifname(name string) []byte { return append([]byte(name), make([]byte, 16-len(name))...) }

func saddr(reg uint32) rule { return payload(netHeader, 12, 4, reg) }
func daddr(reg uint32) rule { return payload(netHeader, 16, 4, reg) }
func dport(reg uint32) rule { return payload(thHeader, 2, 2, reg) }

func in(set string) rule { return rule{&expr.Lookup{SourceRegister: reg1, SetName: set}} }
func notIn(set string) rule {
	return rule{&expr.Lookup{SourceRegister: reg1, SetName: set, Invert: true}}
}

// vmap ends the rule with the verdict that the map has for the key in register 1.
func vmap(set string) rule {
	return rule{&expr.Lookup{SourceRegister: reg1, SetName: set, IsDestRegSet: true, DestRegister: 0}}
}

func verdict(kind expr.VerdictKind, chain string) rule {
	return rule{&expr.Verdict{Kind: kind, Chain: chain}}
}

func accept() rule { return verdict(expr.VerdictAccept, "") }

// drop counts what it drops under the reason, in a chain of its own: were the set full, the statement that counts for
// the interface would end its rule, and must not end the drop with it.
func drop(reason string) rule { return verdict(expr.VerdictGoto, "drop_"+reason) }

func ctState(bits uint32) rule {
	return rules(rule{&expr.Ct{Key: expr.CtKeySTATE, Register: reg1}}, anyBit(bits))
}

func anyBit(bits uint32) rule {
	return rule{
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: make([]byte, 4)},
	}
}

func noBit(bits uint32) rule {
	return rule{
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: make([]byte, 4)},
	}
}

func ctStatus() rule { return rule{&expr.Ct{Key: expr.CtKeySTATUS, Register: reg1}} }

const (
	stateInvalid     = expr.CtStateBitINVALID
	stateNew         = expr.CtStateBitNEW
	stateEstablished = expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
)

// identity loads interface, MAC and address of the sender.
func identity() rule {
	return rules(
		meta(expr.MetaKeyIIFTYPE, reg1), equal(binaryutil.NativeEndian.PutUint16(1)), // ARPHRD_ETHER
		payload(linkHeader, 12, 2, reg1), equal([]byte{0x08, 0x00}), // EtherType IPv4
		meta(expr.MetaKeyIIFNAME, reg1), payload(linkHeader, 6, 6, reg2), saddr(word6),
	)
}

// perInterface counts a packet for the interface that the key names.
func perInterface(set string, key expr.MetaKey) rule {
	return rules(meta(key, reg1), rule{&expr.Dynset{
		SrcRegKey: reg1, SetName: set, Operation: 1, // NFT_DYNSET_OP_UPDATE
		Exprs: []expr.Any{&expr.Counter{}},
	}})
}

// crowded matches a connection beyond so many of the interface that the key names; the set remembers which there are.
func crowded(set string, key expr.MetaKey, most uint32) rule {
	return rules(meta(key, reg1), rule{&expr.Dynset{
		SrcRegKey: reg1, SetName: set, Operation: 0, // NFT_DYNSET_OP_ADD
		Exprs: []expr.Any{&expr.Connlimit{Count: most, Flags: expr.NFT_CONNLIMIT_F_INV}},
	}})
}

// limit passes packets of an interface beyond so many in a second; the set remembers the buckets.
func limit(set string, perSecond uint64) rule {
	return rules(meta(expr.MetaKeyIIFNAME, reg1), rule{&expr.Dynset{
		SrcRegKey: reg1, SetName: set, Operation: 1, // NFT_DYNSET_OP_UPDATE
		Exprs: []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: perSecond, Unit: expr.LimitTimeSecond, Burst: uint32(perSecond), Over: true}},
	}})
}

// linkLocal is 169.254.0.0/16 as the first two bytes of a destination.
func toLinkLocal() rule {
	return rules(payload(netHeader, 16, 2, reg1), equal([]byte{169, 254}))
}

// plain matches what is of IPv4, not to link-local addresses, and bears no mark: neither another's name, nor a way of its own.
func plain() rule {
	return rules(unmarked(), family(nfprotoIPv4), payload(netHeader, 16, 2, reg1), rule{&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: []byte{169, 254}}})
}

func unmarked() rule { return rules(meta(expr.MetaKeyMARK, reg1), equal(make([]byte, 4))) }

// asksDHCP matches a client's whole message, and spares it a connection entry: behind it, only the server's socket follows.
func asksDHCP() rule {
	return rules(l4proto(protoUDP), payload(thHeader, 0, 4, reg1), equal([]byte{0, 68, 0, 67}), whole(), rule{&expr.Notrack{}})
}

// whole matches a packet of IPv4 that is not a fragment.
func whole() rule {
	return rules(payload(netHeader, 6, 2, reg1), rule{
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 2, Mask: []byte{0x3f, 0xff}, Xor: make([]byte, 2)},
	}, equal([]byte{0, 0}))
}

func port(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }

// translate ends the rule with the address that the map has for the key in register 1.
func translate(set string, kind expr.NATType) rule {
	return rule{
		&expr.Lookup{SourceRegister: reg1, SetName: set, IsDestRegSet: true, DestRegister: reg1},
		&expr.NAT{Type: kind, Family: nfprotoIPv4, RegAddrMin: reg1},
	}
}
