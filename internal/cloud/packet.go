package cloud

import "net/netip"

// Packet is what a security group looks at in the first packet of a connection. What follows on a connection
// that was let in or out passes in both directions and is never looked at.
type Packet struct {
	Peer       netip.Addr // who sent it, or who shall get it
	PeerGroups []GroupID  // the groups that the peer's interface is in, of the same VPC
	Protocol   int
	Port       int // the destination's, of TCP and UDP
	Type, Code int // of ICMP in IPv4, and of ICMPv6 in IPv6
}

// Allows reports whether an interface in the groups may receive the packet, or send it. It is the meaning of a
// group's rules, written to be read and not to be fast: what the hosts' kernels do is tested against it.
func Allows(groups []SecurityGroup, egress bool, p Packet) bool {
	for _, g := range groups {
		for _, r := range g.Rules(egress) {
			if r.allowsProtocol(p) && r.allowsPeer(p) {
				return true
			}
		}
	}
	return false
}

func (r GroupRule) allowsPeer(p Packet) bool {
	if r.Group == "" {
		prefix, err := netip.ParsePrefix(r.CIDR)
		return err == nil && prefix.Contains(p.Peer)
	}
	for _, g := range p.PeerGroups {
		if g == r.Group {
			return true
		}
	}
	return false
}

func (r GroupRule) allowsProtocol(p Packet) bool {
	n, err := ParseProtocol(r.Protocol)
	switch {
	case err != nil:
		return false
	case n == ProtocolAll:
		return true
	case n != p.Protocol:
		return false
	}
	switch {
	case n == ProtocolTCP, n == ProtocolUDP:
		return r.FromPort <= p.Port && p.Port <= r.ToPort
	case n == ProtocolICMP && p.Peer.Is4(), n == ProtocolICMPv6 && p.Peer.Is6():
		return (r.FromPort == -1 || r.FromPort == p.Type) && (r.ToPort == -1 || r.ToPort == p.Code)
	}
	return true // a protocol that has neither ports nor types, or is not ICMP though it has its number
}
