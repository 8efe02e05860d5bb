package eni

import (
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func sample() Config {
	nic := func(id string, mac string, addr string, groups ...cloud.GroupID) Interface {
		return Interface{
			NetworkInterface: cloud.NetworkInterface{
				ID: cloud.InterfaceID(id), VPC: "vpc-a", MAC: mac, Addresses: []netip.Addr{netip.MustParseAddr(addr)}, Groups: groups, SourceDestCheck: true,
			},
			Network: cloud.Subnet{CIDR: netip.MustParsePrefix("172.31.0.0/20")}, Hostname: "ip-" + strings.ReplaceAll(addr, ".", "-"), Owner: 990,
		}
	}
	group := func(id cloud.GroupID, members ...string) cloud.HostGroup {
		g := cloud.HostGroup{SecurityGroup: cloud.SecurityGroup{ID: id, VPC: "vpc-a"}}
		g.Ingress, g.Egress = cloud.DefaultGroupRules(id, "sgr-1", "sgr-2")
		for _, m := range members {
			g.Members = append(g.Members, netip.MustParseAddr(m))
		}
		return g
	}
	c := Config{
		Prefix: "ic0a1b2c", Domain: "ichiro-1.compute.internal",
		VPCs: []cloud.HostNetwork{{
			VPC:     cloud.VPC{ID: "vpc-a", CIDR: netip.MustParsePrefix("172.31.0.0/16")},
			Options: cloud.DHCPOptions{ID: "dopt-1", DomainNameServers: []string{cloud.ProvidedDNS}},
			Subnets: []cloud.HostSubnet{{
				Subnet: cloud.Subnet{ID: "subnet-a", VPC: "vpc-a", CIDR: netip.MustParsePrefix("172.31.0.0/16")},
				Routes: []cloud.HostRoute{{Destination: netip.MustParsePrefix("0.0.0.0/0"), Internet: true}},
			}},
			Groups: []cloud.HostGroup{group("sg-unused"), group("sg-default", "172.31.0.11"), group("sg-web", "172.31.0.12", "172.31.9.9")},
		}},
		Interfaces: each(nic("eni-2", "02:00:00:00:00:02", "172.31.0.12", "sg-web"), nic("eni-1", "02:00:00:00:00:01", "172.31.0.11", "sg-default")),
	}
	c.VPCs[0].Groups[2].Ingress = []cloud.GroupRule{
		{Protocol: "tcp", FromPort: 443, ToPort: 443, CIDR: "0.0.0.0/0"},
		{Protocol: "icmp", FromPort: 8, ToPort: -1, CIDR: "10.0.0.0/8"},
		{Protocol: "-1", FromPort: -1, ToPort: -1, Group: "sg-default"},
		{Protocol: "tcp", FromPort: 22, ToPort: 22, CIDR: "2001:db8::/32"},
	}
	return c
}

// each returns copies that a Config may have.
func each(interfaces ...Interface) []*Interface {
	out := make([]*Interface, len(interfaces))
	for k := range interfaces {
		i := interfaces[k]
		out[k] = &i
	}
	return out
}

func TestThePlanOfASmallHost(t *testing.T) {
	plan, err := Compile(sample())
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(plan, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("testdata/plan.json", append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/plan.json")
	if err != nil {
		t.Fatal(err)
	}
	if string(got)+"\n" != string(want) {
		t.Errorf("got\n%s\nwant (testdata/plan.json)\n%s", got, want)
	}
}

func TestTheOrderOfTheWishHasNoMeaning(t *testing.T) {
	a, b := sample(), sample()
	slices.Reverse(b.Interfaces)
	slices.Reverse(b.VPCs[0].Groups)
	pa, errA := Compile(a)
	pb, errB := Compile(b)
	if errA != nil || errB != nil || !reflect.DeepEqual(pa, pb) {
		t.Errorf("got %+v, %v; want %+v, %v", pb, errB, pa, errA)
	}
}

func TestWishesThatMakeTwoGuestsOneAreRefused(t *testing.T) {
	cases := map[string]struct {
		spoil func(*Config)
		want  string
	}{
		"the same address twice":       {func(c *Config) { c.Interfaces[0].Addresses = c.Interfaces[1].Addresses }, "belongs to"},
		"the same interface twice":     {func(c *Config) { c.Interfaces[0].ID = c.Interfaces[1].ID }, "same tap"},
		"the gateway's address":        {func(c *Config) { c.Interfaces[0].Addresses = []netip.Addr{netip.MustParseAddr("172.31.0.1")} }, "not one for guests"},
		"the resolver's address":       {func(c *Config) { c.Interfaces[0].Addresses = []netip.Addr{netip.MustParseAddr("172.31.0.2")} }, "resolver's"},
		"an address outside":           {func(c *Config) { c.Interfaces[0].Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.1")} }, "not one for guests"},
		"no address":                   {func(c *Config) { c.Interfaces[0].Addresses = nil }, "no address"},
		"a broken MAC":                 {func(c *Config) { c.Interfaces[0].MAC = "02:00" }, "unicast"},
		"a multicast MAC":              {func(c *Config) { c.Interfaces[0].MAC = "01:00:5e:00:00:01" }, "unicast"},
		"the router's MAC":             {func(c *Config) { c.Interfaces[0].MAC = "02:69:63:68:69:01" }, "router's"},
		"an unknown VPC":               {func(c *Config) { c.Interfaces[0].VPC = "vpc-b" }, "not in the configuration"},
		"a VPC twice":                  {func(c *Config) { c.VPCs = append(c.VPCs, c.VPCs[0]) }, "twice"},
		"a VPC that is a path":         {func(c *Config) { c.VPCs[0].VPC.ID = "../root" }, "cannot name"},
		"a subnet outside the VPC":     {func(c *Config) { c.VPCs[0].VPC.CIDR = netip.MustParsePrefix("10.0.0.0/16") }, "not of its VPC"},
		"ports the wrong way round":    {func(c *Config) { c.VPCs[0].Groups[2].Ingress[0].ToPort = 1 }, "wrong way"},
		"a port that is too large":     {func(c *Config) { c.VPCs[0].Groups[2].Ingress[0].ToPort = 70000 }, "out of range"},
		"a protocol that is unknown":   {func(c *Config) { c.VPCs[0].Groups[2].Ingress[0].Protocol = "tpc" }, "protocol"},
		"a prefix that is not a one":   {func(c *Config) { c.VPCs[0].Groups[2].Ingress[0].CIDR = "10.0.0.0" }, "rule"},
		"an ICMP type that is too big": {func(c *Config) { c.VPCs[0].Groups[2].Ingress[1].FromPort = 256 }, "out of range"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := sample()
			c.spoil(&cfg)
			_, err := Compile(cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestWhatIsRefusedDoesNotStopTheRest(t *testing.T) {
	c := sample()
	late := *c.Interfaces[1] // wants the address that it has
	late.ID, late.MAC, late.AttachTime = "eni-0", "02:00:00:00:00:09", time.Unix(1, 0)
	c.Interfaces = append(c.Interfaces, &late)
	plan, err := Compile(c)
	var r Refused
	if !errors.As(err, &r) || r.Interface != "eni-0" {
		t.Errorf("got %v, want eni-0 refused", err)
	}
	want, _ := Compile(sample())
	if !reflect.DeepEqual(plan, want) {
		t.Errorf("got %+v, want the plan without it", plan)
	}
}

func TestNamesFitIntoTheKernel(t *testing.T) {
	if n := TapName("eni-0123456789abcdef0"); len(n) > 15 {
		t.Errorf("tap name %s is too long", n)
	}
	if p := Prefix("/run/ichiro"); len(p) != 8 {
		t.Errorf("prefix %s: want 8 bytes", p)
	}
}
