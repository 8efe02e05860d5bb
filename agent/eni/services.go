package eni

import (
	"net/netip"

	"github.com/ichiro-metal/ichiro/agent/firewall"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Where guests ask: the addresses are EC2's.
var (
	Metadata  = netip.MustParseAddrPort("169.254.169.254:80")
	Metadata6 = netip.MustParseAddrPort("[fd00:ec2::254]:80")
	Gateway   = netip.MustParseAddrPort("169.254.169.254:8774") // Run Command's; EC2 has no such port
	Stock     = netip.MustParseAddrPort("169.254.169.254:443")  // Run Command's for the stock agent, by TLS
	API       = netip.MustParseAddrPort("169.254.169.254:8773") // the endpoint of everything that is signed; EC2's are on the Internet
	Resolver  = netip.MustParseAddrPort("169.254.169.253:53")   // beside the one in the VPC's own block
	TimeOfDay = netip.MustParseAddrPort("169.254.169.123:123")
)

// Service is an address in a VPC's namespace at which a daemon of this host answers guests.
type Service struct {
	Name    string // of the service in package handover
	Network string // tcp | udp
	At      netip.AddrPort
	Bulk    bool // objects pass there: not held to the packets of the other services
}

// Socket is the socket's name among those of its service; one that a service had by itself has none.
func (s Service) Socket() string {
	switch s.At {
	case Metadata, Gateway, API:
		return ""
	}
	return s.Network + " " + s.At.String()
}

// Services returns all that a guest of the VPC may ask, and nothing else of the host is reachable. Each address has a
// socket of its own, so that an answer leaves from where the question went.
func Services(v cloud.VPC) []Service {
	out := []Service{
		{Name: "imds", Network: "tcp", At: Metadata},
		{Name: "runcmd", Network: "tcp", At: Gateway},
		{Name: "runcmd", Network: "tcp", At: Stock},
		{Name: "api", Network: "tcp", At: API, Bulk: true},
		{Name: "ntp", Network: "udp", At: TimeOfDay},
	}
	if len(blocks6(v)) > 0 {
		out = append(out, Service{Name: "imds", Network: "tcp", At: Metadata6})
	}
	for _, at := range []netip.AddrPort{Resolver, netip.AddrPortFrom(VPCResolver(v), Resolver.Port())} {
		if at.IsValid() {
			out = append(out, Service{Name: "dns", Network: "udp", At: at}, Service{Name: "dns", Network: "tcp", At: at})
		}
	}
	return out
}

// VPCResolver is where a VPC's resolver answers beside 169.254.169.253: the second address after the base of its primary
// block. It is the zero Addr if that is not of IPv4.
func VPCResolver(v cloud.VPC) netip.Addr {
	if !v.CIDR.IsValid() || !v.CIDR.Addr().Is4() {
		return netip.Addr{}
	}
	return v.CIDR.Masked().Addr().Next().Next()
}

// allow opens the host to what guests may ask.
func allow(services []Service) (local, local6 []netip.Addr, rules []firewall.Service) {
	seen := map[netip.Addr]bool{}
	for _, s := range services {
		a := s.At.Addr()
		switch {
		case seen[a]:
		case a.Is6():
			local6 = append(local6, a)
		default:
			local = append(local, a)
		}
		seen[a] = true
		rules = append(rules, firewall.Service{UDP: s.Network == "udp", At: s.At, Bulk: s.Bulk})
	}
	return local, local6, rules
}
