package firewall

import (
	"net/netip"
	"testing"
)

// judgedConfig is a web server that the world may reach at 443 and the members of sg-app at 8080, an application
// server that may reach only that, and an appliance that forwards for others.
func judgedConfig() Config {
	any := netip.MustParsePrefix("0.0.0.0/0")
	addr := netip.MustParseAddr
	return Config{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")},
		Gateways: []netip.Addr{addr("10.0.0.1")},
		Services: []Service{{At: netip.MustParseAddrPort("169.254.169.254:80")}},
		Subnets: []Subnet{
			{ID: "subnet-a", CIDR: netip.MustParsePrefix("10.0.0.0/24"), Routes: []Route{{Destination: any, Internet: true}}},
			{ID: "subnet-b", CIDR: netip.MustParsePrefix("10.0.1.0/24"), Routes: []Route{
				{Destination: any, NAT: addr("203.0.113.9")}, {Destination: netip.MustParsePrefix("192.0.2.0/24"), Mark: 7},
				{Destination: netip.MustParsePrefix("192.0.2.128/25")},
			}},
		},
		Interfaces: []*Interface{
			{Name: "web", Subnet: "subnet-a", Addresses: []netip.Addr{addr("10.0.0.10"), addr("10.0.0.11")}, Groups: []string{"sg-web"}, Public: []Public{{addr("203.0.113.10"), addr("10.0.0.10")}}},
			{Name: "app", Subnet: "subnet-b", Addresses: []netip.Addr{addr("10.0.1.10")}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.1.64/28")}, Groups: []string{"sg-app"}},
			{Name: "nat", Subnet: "subnet-a", Addresses: []netip.Addr{addr("10.0.0.30")}, Groups: []string{"sg-nat"}, Mark: 7, Unchecked: true},
		},
		Groups: []Group{
			{ID: "sg-web", Members: []netip.Addr{addr("10.0.0.10"), addr("10.0.0.11")}, Out: []Rule{{Protocol: AnyProtocol, Prefix: any}}, In: []Rule{
				{Protocol: protoTCP, From: 443, To: 443, Prefix: any},
				{Protocol: protoTCP, From: 8080, To: 8090, Group: "sg-app"},
				{Protocol: protoICMP, From: 8, To: -1, Prefix: netip.MustParsePrefix("10.0.0.0/8")},
			}},
			{ID: "sg-app", Members: []netip.Addr{addr("10.0.1.10")}, Out: []Rule{
				{Protocol: protoTCP, From: 8080, To: 8080, Group: "sg-web"},
				{Protocol: protoUDP, From: 53, To: 53, Prefix: any},
				{Protocol: protoTCP, From: 443, To: 443, Prefix: netip.MustParsePrefix("192.0.2.0/24")},
			}},
			{ID: "sg-nat", Members: []netip.Addr{addr("10.0.0.30")}, Out: []Rule{{Protocol: AnyProtocol, Prefix: any}}, In: []Rule{
				{Protocol: protoTCP, From: 443, To: 443, Prefix: netip.MustParsePrefix("10.0.0.0/16")},
			}},
		},
	}
}

// flow is a connection that nobody has translated.
func flow(protocol uint8, from, to string) Flow {
	f := Flow{Protocol: protocol, Source: netip.MustParseAddrPort(from), Destination: netip.MustParseAddrPort(to)}
	f.ReplySource, f.ReplyDestination = f.Destination, f.Source
	return f
}

// as is the flow with another source outside.
func (f Flow) as(source string) Flow {
	f.ReplyDestination = netip.MustParseAddrPort(source)
	return f
}

// at is the flow with another destination inside.
func (f Flow) at(destination string) Flow {
	f.ReplySource = netip.MustParseAddrPort(destination)
	return f
}

func TestTheJudgeKnowsWhatTheRulesLetIn(t *testing.T) {
	cases := []struct {
		name string
		flow Flow
		want bool
	}{
		{"a member of the group to the port", flow(6, "10.0.1.10:999", "10.0.0.11:8080"), true},
		{"a member to a port that only the other side allows", flow(6, "10.0.1.10:999", "10.0.0.11:8085"), false},
		{"a stranger to the group's port", flow(6, "10.0.0.30:999", "10.0.0.11:8080"), false},
		{"another protocol to the port", flow(17, "10.0.1.10:999", "10.0.0.11:8080"), false},
		{"a delegated address is no member", flow(6, "10.0.1.65:999", "10.0.0.11:8080"), false},
		{"a delegated address out", flow(17, "10.0.1.65:999", "8.8.8.8:53").as("203.0.113.9:999"), true},
		{"ping from inside", flow(1, "10.0.0.30:0", "10.0.0.10:0"), true},
		{"ping that the sender may not", flow(1, "10.0.1.10:0", "10.0.0.10:0"), false},
		{"the world to the public address", flow(6, "192.0.2.1:999", "203.0.113.10:443").at("10.0.0.10:443"), true},
		{"the world to a closed port", flow(6, "192.0.2.1:999", "203.0.113.10:22").at("10.0.0.10:22"), false},
		{"the world under another public address", flow(6, "192.0.2.1:999", "203.0.113.11:443").at("10.0.0.10:443"), false},
		{"the public address of another", flow(6, "192.0.2.1:999", "203.0.113.10:443").at("10.0.0.11:443"), false},
		{"out under the public address", flow(6, "10.0.0.10:999", "192.0.2.1:80").as("203.0.113.10:999"), true},
		{"out under an earlier public address", flow(6, "10.0.0.10:999", "192.0.2.1:80").as("203.0.113.11:999"), false},
		{"out masqueraded although published", flow(6, "10.0.0.10:999", "192.0.2.1:80").as("100.64.0.1:999"), false},
		{"out masqueraded", flow(6, "10.0.0.11:999", "192.0.2.1:80").as("100.64.0.1:999"), true},
		{"out through the gateway", flow(17, "10.0.1.10:999", "8.8.8.8:53").as("203.0.113.9:999"), true},
		{"out through another gateway", flow(17, "10.0.1.10:999", "8.8.8.8:53").as("203.0.113.8:999"), false},
		{"out to what the group does not name", flow(6, "10.0.1.10:999", "8.8.8.8:80").as("203.0.113.9:999"), false},
		{"through an instance", flow(6, "10.0.1.10:999", "192.0.2.1:443"), true},
		{"through an instance that does not let it in", flow(17, "10.0.1.10:999", "192.0.2.1:53"), false},
		{"into a black hole", flow(6, "10.0.1.10:999", "192.0.2.200:443"), false},
		{"metadata", flow(6, "10.0.1.10:999", "169.254.169.254:80"), true},
		{"ping of the gateway", flow(1, "10.0.1.10:0", "10.0.0.1:0"), true},
		{"a renewal", flow(17, "10.0.1.10:68", "10.0.0.1:67"), true},
		{"a discovery", flow(17, "0.0.0.0:68", "255.255.255.255:67"), true},
		{"from an address that is nobody's", flow(6, "10.0.0.99:999", "10.0.0.10:443"), false},
		{"to an address that is nobody's", flow(6, "10.0.0.10:999", "10.0.0.99:443"), false},
	}
	judge := NewJudge(judgedConfig(), netip.MustParseAddr("100.64.0.1"))
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := judge.Allows(c.flow); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// Whether the guest knows the address now or not: what was led elsewhere stays there.
func TestTheJudgeKnowsWhatIsLedToTheFirstAddress(t *testing.T) {
	cfg := judgedConfig()
	first, further := cfg.Interfaces[0].Addresses[0], netip.MustParseAddr("10.0.0.200")
	cfg.Interfaces[0].Addresses = []netip.Addr{first, further}
	cfg.Interfaces[0].Public = append(cfg.Interfaces[0].Public, Public{netip.MustParseAddr("203.0.113.77"), further})
	judge := NewJudge(cfg, netip.MustParseAddr("100.64.0.1"))
	for name, c := range map[string]struct {
		flow Flow
		want bool
	}{
		"from inside":                      {flow(1, "10.0.0.30:0", "10.0.0.200:0").at(first.String() + ":0"), true},
		"from outside":                     {flow(6, "192.0.2.1:999", "203.0.113.77:443").at(first.String() + ":443"), true},
		"from outside to a closed port":    {flow(6, "192.0.2.1:999", "203.0.113.77:22").at(first.String() + ":22"), false},
		"the first to the further address": {flow(1, "10.0.0.30:0", first.String()+":0").at("10.0.0.200:0"), false},
		"to another interface":             {flow(6, "10.0.1.10:999", "10.0.0.200:8080").at("10.0.0.11:8080"), false},
	} {
		if got := judge.Allows(c.flow); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func TestOnlyWhatTakesAwayNarrows(t *testing.T) {
	cases := map[string]struct {
		change func(*Config)
		want   bool
	}{
		"nothing":                     {func(*Config) {}, false},
		"an interface more":           {func(c *Config) { c.Interfaces = append(c.Interfaces, &Interface{Name: "new"}) }, false},
		"an interface less":           {func(c *Config) { c.Interfaces = c.Interfaces[1:] }, true},
		"a member more":               {func(c *Config) { c.Groups[1].Members = append(c.Groups[1].Members, c.Gateways...) }, false},
		"a member less":               {func(c *Config) { c.Groups[1].Members = nil }, true},
		"a rule more":                 {func(c *Config) { c.Groups[1].In = append(c.Groups[1].In, Rule{Group: "sg-web"}) }, false},
		"a rule less":                 {func(c *Config) { c.Groups[0].In = c.Groups[0].In[1:] }, true},
		"a narrower rule":             {func(c *Config) { c.Groups[0].In[1].To = 8080 }, true},
		"a group more":                {func(c *Config) { c.Interfaces[0].Groups = []string{"sg-app", "sg-web"} }, false},
		"a group less":                {func(c *Config) { c.Interfaces[0].Groups = nil }, true},
		"an address less":             {func(c *Config) { c.Interfaces[0].Addresses = c.Interfaces[0].Addresses[:1] }, true},
		"a public address that comes": {func(c *Config) { c.Interfaces[1].Public = c.Interfaces[0].Public }, true},
		"a route more":                {func(c *Config) { c.Subnets[0].Routes = append(c.Subnets[0].Routes, Route{}) }, true},
		"a network ACL, which is asked each time": {func(c *Config) { c.Subnets[0].ACL = []Entry{{}} }, false},
		"the check is switched on":                {func(c *Config) { c.Interfaces[2].Unchecked = false }, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			after := judgedConfig()
			c.change(&after)
			if got := Narrows(judgedConfig(), after); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}
