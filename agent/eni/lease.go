package eni

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/ichiro-metal/ichiro/agent/dhcp"
	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// lease is what DHCP tells the guest of an interface: what EC2 tells, and what the VPC's set of options says.
func lease(c Config, v cloud.HostNetwork, i Interface, mac [6]byte, mtu int) *dhcp.Host {
	router := i.Network.Router()
	h := &dhcp.Host{
		MAC: mac, Source: link.RouterMAC, Address: i.Primary(), Subnet: i.Network.CIDR.Masked(), Router: router, Gateway: router,
		MTU: mtu, Hostname: i.Hostname, Resolvers: resolvers(c, v), NetBIOSNode: v.Options.NetBIOSNodeType,
		TimeServers: parse(v.Options.NTPServers), NetBIOS: parse(v.Options.NetBIOSNameServers),
	}
	if i.DeviceIndex > 0 && c.OneDefaultRoute {
		h.Gateway = netip.Addr{}
	}
	if c.ClasslessRoutes {
		h.Routes = append(h.Routes, dhcp.Route{To: netip.PrefixFrom(Metadata.Addr(), 32)})
		if h.Gateway.IsValid() {
			h.Routes = append(h.Routes, dhcp.Route{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: h.Gateway})
		}
	}
	h.Domain, h.Search = domains(c, v)
	return h
}

// resolvers are the set's name servers; the VPC's own is one of them only while it answers.
func resolvers(c Config, v cloud.HostNetwork) (out []netip.Addr) {
	for _, s := range v.Options.DomainNameServers {
		if s != cloud.ProvidedDNS {
			out = append(out, parse([]string{s})...)
		} else if v.VPC.EnableDNS {
			out = append(out, v.VPC.CIDR.Masked().Addr().Next().Next())
		}
	}
	if len(out) == 0 {
		return c.Resolvers
	}
	return out
}

// domains are the set's domain name, and the list of them where there are several: EC2 has them in
// one text with spaces between, which some clients take for a list and others for a name. A set that leaves the
// name to the VPC's resolver gets the name that this resolver knows.
func domains(c Config, v cloud.HostNetwork) (domain string, search []string) {
	domain = v.Options.DomainName
	if domain == "" && provided(v.Options) {
		domain = c.Domain
	}
	if names := strings.Fields(domain); len(names) > 1 {
		search = names
	}
	return domain, search
}

func provided(o cloud.DHCPOptions) bool {
	return slices.Contains(o.DomainNameServers, cloud.ProvidedDNS)
}

// parse reads addresses; the API has refused what is none.
func parse(list []string) (out []netip.Addr) {
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}
