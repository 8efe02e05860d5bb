package eni

import (
	"github.com/ichiro-metal/ichiro/agent/dhcp"
	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// lease is what DHCP tells the guest of an interface.
func lease(c Config, _ cloud.HostNetwork, i Interface, mac [6]byte, mtu int) dhcp.Host {
	return dhcp.Host{
		MAC: mac, Source: link.RouterMAC, Address: i.Primary(), Subnet: i.Network.CIDR.Masked(), Router: i.Network.Router(), MTU: mtu,
		Hostname: i.Hostname, Domain: c.Domain, Resolvers: c.Resolvers,
	}
}
