package firewall

import (
	"net/netip"
	"testing"
)

// judged6 is judgedConfig with IPv6: the web server's subnet is part of the internet, the application server's is not.
func judged6() Config {
	c := judgedConfig()
	any6 := netip.MustParsePrefix("::/0")
	c.Prefixes6 = []netip.Prefix{netip.MustParsePrefix("2001:db8::/56")}
	c.Gateways6 = []netip.Addr{netip.MustParseAddr("2001:db8::1")}
	c.Subnets[0].CIDR6, c.Subnets[0].Routes6 = netip.MustParsePrefix("2001:db8::/64"), []Route{{Destination: any6, Internet: true}}
	c.Subnets[1].CIDR6 = netip.MustParsePrefix("2001:db8:0:1::/64")
	c.Interfaces[0].Addresses6 = []netip.Addr{netip.MustParseAddr("2001:db8::10")}
	c.Interfaces[1].Addresses6 = []netip.Addr{netip.MustParseAddr("2001:db8:0:1::10")}
	c.Interfaces[1].Prefixes6 = []netip.Prefix{netip.MustParsePrefix("2001:db8:0:1:5::/80")}
	web, app := &c.Groups[0], &c.Groups[1]
	web.Members6, app.Members6, app.Behind6 = c.Interfaces[0].Addresses6, c.Interfaces[1].Addresses6, c.Interfaces[1].Prefixes6
	web.Out = append(web.Out, Rule{Protocol: AnyProtocol, Prefix: any6})
	web.In = append(web.In, Rule{Protocol: protoTCP, From: 443, To: 443, Prefix: any6}, Rule{Protocol: protoICMPv6, From: echoRequest6, To: -1, Prefix: any6})
	return c
}

func TestTheJudgeKnowsWhatTheRulesLetInOfIPv6(t *testing.T) {
	for _, c := range []struct {
		name string
		flow Flow
		want bool
	}{
		{"a member of the group to the port", flow(6, "[2001:db8:0:1::10]:999", "[2001:db8::10]:8080"), true},
		{"who is behind a member to the port", flow(6, "[2001:db8:0:1:5::7]:999", "[2001:db8::10]:8080"), true},
		{"a member to another port", flow(6, "[2001:db8:0:1::10]:999", "[2001:db8::10]:8085"), false},
		{"the world to the open port", flow(6, "[2001:db8:ffff::1]:999", "[2001:db8::10]:443"), true},
		{"the world to another port", flow(6, "[2001:db8:ffff::1]:999", "[2001:db8::10]:22"), false},
		{"an echo from the world", flow(58, "[2001:db8:ffff::1]:0", "[2001:db8::10]:0"), true},
		{"an echo to who allows none", flow(58, "[2001:db8::10]:0", "[2001:db8:0:1::10]:0"), false},
		{"out, where the subnet is part of the internet", flow(6, "[2001:db8::10]:999", "[2001:db8:ffff::1]:443"), true},
		{"out, where it is not", flow(17, "[2001:db8:0:1::10]:999", "[2001:db8:ffff::1]:53"), false},
		{"to the router", flow(58, "[2001:db8:0:1::10]:0", "[2001:db8::1]:0"), true},
		{"from an address that nobody has any more", flow(6, "[2001:db8::77]:999", "[2001:db8::10]:443"), false},
		{"to an address that nobody has any more", flow(6, "[2001:db8::10]:999", "[2001:db8::77]:443"), false},
	} {
		if got := NewJudge(judged6(), netip.MustParseAddr("100.64.0.1")).Allows(c.flow); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestWhatIsTakenAwayOfIPv6Narrows(t *testing.T) {
	for name, take := range map[string]func(*Config){
		"an address":             func(c *Config) { c.Interfaces[0].Addresses6 = nil },
		"a prefix":               func(c *Config) { c.Interfaces[1].Prefixes6 = nil },
		"a block":                func(c *Config) { c.Prefixes6 = nil },
		"a router":               func(c *Config) { c.Gateways6 = nil },
		"a member":               func(c *Config) { c.Groups[1].Members6 = nil },
		"who is behind a member": func(c *Config) { c.Groups[1].Behind6 = nil },
		"a rule":                 func(c *Config) { c.Groups[0].In = c.Groups[0].In[:len(c.Groups[0].In)-1] },
		"the way out":            func(c *Config) { c.Subnets[0].Routes6 = nil },
	} {
		after := judged6()
		take(&after)
		if !Narrows(judged6(), after) {
			t.Errorf("%s was taken away, and that is said to narrow nothing", name)
		}
	}
	if Narrows(judged6(), judged6()) {
		t.Error("nothing was taken away, and that is said to narrow")
	}
}
