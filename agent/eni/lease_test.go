package eni

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestLeases(t *testing.T) {
	set := func(change func(*cloud.DHCPOptions)) func(*Config) {
		return func(c *Config) {
			o := cloud.DHCPOptions{ID: "dopt-2"}
			change(&o)
			c.VPCs[0].Options = o
		}
	}
	dns := func(servers ...string) func(*Config) {
		return set(func(o *cloud.DHCPOptions) { o.DomainNameServers = servers })
	}
	cases := []struct {
		name   string
		change func(*Config)
		want   string // of eni-1: domain, search, resolvers, times, NetBIOS, node, gateway, routes
	}{
		{"a VPC without a set tells no names", func(c *Config) { c.VPCs[0].Options = cloud.DHCPOptions{} }, "'' [] [] [] [] 0 172.31.0.1 []"},
		{"the VPC's resolver is told while it answers", func(c *Config) { c.VPCs[0].VPC.EnableDNS = true }, "'ichiro-1.compute.internal' [] [172.31.0.2] [] [] 0 172.31.0.1 []"},
		{"a VPC without a resolver tells none", func(c *Config) {}, "'ichiro-1.compute.internal' [] [] [] [] 0 172.31.0.1 []"},
		{"other resolvers are told as they are", dns("10.0.0.9", "10.0.0.8"), "'' [] [10.0.0.9 10.0.0.8] [] [] 0 172.31.0.1 []"},
		{"several names are a search list too", set(func(o *cloud.DHCPOptions) { o.DomainName = "a.example b.example" }), "'a.example b.example' [a.example b.example] [] [] [] 0 172.31.0.1 []"},
		{"times and NetBIOS", set(func(o *cloud.DHCPOptions) {
			o.NTPServers, o.NetBIOSNameServers, o.NetBIOSNodeType = []string{"169.254.169.123"}, []string{"10.0.0.7"}, 2
		}), "'' [] [] [169.254.169.123] [10.0.0.7] 2 172.31.0.1 []"},
		{"routes have the default route", func(c *Config) { c.ClasslessRoutes = true }, "'ichiro-1.compute.internal' [] [] [] [] 0 172.31.0.1 [{169.254.169.254/32 invalid IP} {0.0.0.0/0 172.31.0.1}]"},
		{"a second interface has a default route", func(c *Config) { c.Interfaces[1].DeviceIndex = 1 }, "'ichiro-1.compute.internal' [] [] [] [] 0 172.31.0.1 []"},
		{"a second interface has none where one is enough", func(c *Config) {
			c.Interfaces[1].DeviceIndex, c.OneDefaultRoute, c.ClasslessRoutes = 1, true, true
		}, "'ichiro-1.compute.internal' [] [] [] [] 0 invalid IP [{169.254.169.254/32 invalid IP}]"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cfg := sample()
			c.change(&cfg)
			plan, err := Compile(cfg)
			if err != nil {
				t.Fatal(err)
			}
			for i, tap := range plan.DHCP[0].Taps {
				if h := plan.DHCP[0].Hosts[i]; tap == TapName("eni-1") {
					got := fmt.Sprintf("'%s' %v %v %v %v %d %v %v", h.Domain, h.Search, h.Resolvers, h.TimeServers, h.NetBIOS, h.NetBIOSNode, h.Gateway, h.Routes)
					if got != c.want {
						t.Errorf("\ngot  %s\nwant %s", got, c.want)
					}
				}
			}
		})
	}
}

func TestOnlyInterfacesWithIPv6AreToldOfIt(t *testing.T) {
	six := func(c *Config) {
		c.VPCs[0].VPC.Blocks = []cloud.CIDRBlock{{CIDR: netip.MustParsePrefix("2001:db8::/56")}}
		c.Interfaces[1].Network.Blocks = []cloud.CIDRBlock{{CIDR: netip.MustParsePrefix("2001:db8:0:1::/64")}}
	}
	addrs := func(list ...string) func(*Config) {
		return func(c *Config) {
			for _, a := range list {
				c.Interfaces[1].IPv6 = append(c.Interfaces[1].IPv6, netip.MustParseAddr(a))
			}
		}
	}
	prefix := func(c *Config) {
		c.Interfaces[1].Prefixes = []netip.Prefix{netip.MustParsePrefix("172.31.0.64/28"), netip.MustParsePrefix("2001:db8:0:1:5::/80")}
	}
	const block = "[2001:db8::/56] "
	cases := []struct {
		name   string
		change []func(*Config)
		want   string // the VPC's blocks, then of each interface its addresses, prefixes, own, subnet
	}{
		{"a host without IPv6", nil, "[] "},
		{"a block alone is nothing to tell", []func(*Config){six}, block},
		{"an address", []func(*Config){six, addrs("2001:db8:0:1::b")}, block + "[2001:db8:0:1::b] [] [2001:db8:0:1::b/128] 2001:db8:0:1::/64"},
		{"a delegated prefix", []func(*Config){six, prefix}, block + "[] [2001:db8:0:1:5::/80] [2001:db8:0:1:5::/80] 2001:db8:0:1::/64"},
		{"an address that is not the subnet's", []func(*Config){six, addrs("2001:db8:0:2::b")}, block},
		{"an address where the subnet has no block", []func(*Config){addrs("2001:db8:0:1::b")}, "[] "},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cfg := sample()
			for _, change := range c.change {
				change(&cfg)
			}
			plan, err := Compile(cfg)
			if err != nil {
				t.Fatal(err)
			}
			l := plan.DHCP[0].IPv6
			got := fmt.Sprintf("%v ", l.Prefixes)
			for i := range l.Taps {
				got += fmt.Sprintf("%v %v %v %v", l.DHCP[i].Addresses, l.DHCP[i].Prefixes, l.Routers[i].Own, l.Routers[i].Subnet)
			}
			if got != c.want {
				t.Errorf("\ngot  %s\nwant %s", got, c.want)
			}
		})
	}
}
