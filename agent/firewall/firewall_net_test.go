//go:build net

package firewall

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

var update = flag.Bool("update", false, "rewrite the golden files")

// space is an empty namespace with its descriptor.
func space(t *testing.T, name string) (*nstest.Namespace, int) {
	t.Helper()
	n := nstest.New(t, name)
	f, err := os.Open("/run/netns/" + name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return n, int(f.Fd())
}

func list(t *testing.T, n *nstest.Namespace, args ...string) string {
	t.Helper()
	out, err := n.Run("nft", args...)
	if err != nil {
		t.Fatalf("nft: %v %s", err, out)
	}
	return out
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant (%s)\n%s", got, path, want)
	}
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// example is a VPC with a web tier, an application tier that only the web tier may use, and an appliance.
func example() Config {
	any := netip.MustParsePrefix("0.0.0.0/0")
	out := []Rule{{Protocol: AnyProtocol, From: -1, To: -1, Prefix: any}}
	return Config{
		Prefixes: prefixes("10.0.0.0/16", "10.1.0.0/16"),
		Subnets: []Subnet{
			{ID: "subnet-open", CIDR: netip.MustParsePrefix("10.0.0.0/20"), Routes: []Route{{Destination: any, Internet: true}}},
			{ID: "subnet-next", CIDR: netip.MustParsePrefix("10.0.16.0/20")},
		},
		Gateways: addrs("10.0.0.1", "10.0.16.1"),
		Services: []Service{{At: netip.MustParseAddrPort("169.254.169.254:80")}, {At: netip.MustParseAddrPort("169.254.169.254:8774")}, {At: netip.MustParseAddrPort("169.254.169.254:8773"), Bulk: true}, {UDP: true, At: netip.MustParseAddrPort("169.254.169.253:53")}},
		Interfaces: []*Interface{
			{
				Name: "t1", MAC: [6]byte{2, 0, 0, 0, 0, 1}, Subnet: "subnet-open", Instance: "i-1", Addresses: addrs("10.0.0.11", "10.0.0.12"),
				Groups: []string{"sg-web"}, Public: []Public{{addrs("203.0.113.12")[0], addrs("10.0.0.12")[0]}},
			},
			{Name: "t2", MAC: [6]byte{2, 0, 0, 0, 0, 2}, Subnet: "subnet-open", Addresses: addrs("10.0.0.21"), Groups: []string{"sg-app", "sg-web"}},
			{Name: "t3", MAC: [6]byte{2, 0, 0, 0, 0, 3}, Subnet: "subnet-open", Addresses: addrs("10.0.0.31"), Unchecked: true},
			{Name: "t4", MAC: [6]byte{2, 0, 0, 0, 0, 4}, Subnet: "subnet-open", Instance: "i-1", Addresses: addrs("10.0.0.13"), Groups: []string{"sg-app"}},
			{Name: "t5", MAC: [6]byte{2, 0, 0, 0, 0, 5}, Subnet: "subnet-next", Addresses: addrs("10.0.16.11"), Prefixes: prefixes("10.0.16.64/28")},
		},
		Groups: []Group{
			{ID: "sg-web", Members: addrs("10.0.0.11", "10.0.0.12", "10.0.0.21"), Out: out, In: []Rule{
				{Protocol: protoTCP, From: 80, To: 80, Prefix: any},
				{Protocol: protoTCP, From: 22, To: 90, Prefix: netip.MustParsePrefix("192.0.2.0/24")}, // overlaps the first
				{Protocol: protoICMP, From: 8, To: -1, Prefix: any},
			}},
			{ID: "sg-app", Members: addrs("10.0.0.21"), Out: out, In: []Rule{
				{Protocol: protoTCP, From: 8080, To: 8090, Group: "sg-web"},
				{Protocol: protoICMP, From: -1, To: -1, Group: "sg-web"},
				{Protocol: AnyProtocol, From: -1, To: -1, Group: "sg-app"},
			}},
		},
		Moved: []Moved{{addrs("10.0.0.12")[0], addrs("10.0.0.11")[0]}},
		Ways: []Way{ // the guest of i-1 takes its neighbours' packets by t1 only
			{addrs("10.0.0.13")[0], netip.MustParsePrefix("10.0.0.0/20"), "t1", 0x10000001},
			{To: addrs("10.0.0.13")[0], From: any},
		},
	}
}

func exampleACL() []Entry {
	any := netip.MustParsePrefix("0.0.0.0/0")
	return []Entry{
		{Allow: false, Protocol: AnyProtocol, Prefix: netip.MustParsePrefix("198.51.100.0/25")},
		{Allow: true, Protocol: protoTCP, Prefix: any, From: 80, To: 80},
		{Allow: true, Protocol: protoTCP, Prefix: netip.MustParsePrefix("192.0.2.7/32"), From: 1024, To: 65535},
		{Allow: true, Protocol: protoICMP, Prefix: any, From: 8, To: -1},
		{Egress: true, Allow: true, Protocol: AnyProtocol, Prefix: any},
	}
}

// full is the example with all that a VPC can have.
func full() Config {
	c := example()
	any := netip.MustParsePrefix("0.0.0.0/0")
	c.Subnets[0].ACL = exampleACL()
	c.Subnets[1].Routes = []Route{
		{Destination: any, NAT: addrs("203.0.113.1")[0]},
		{Destination: netip.MustParsePrefix("192.0.2.0/24"), Mark: 0x1000007},
		{Destination: netip.MustParsePrefix("192.0.2.128/25")},
		{Destination: netip.MustParsePrefix("198.51.100.0/24"), Internet: true},
	}
	return c
}

func TestTheRulesReadAsAHumanWouldWriteThem(t *testing.T) {
	n, fd := space(t, "golden")
	if _, err := Apply(fd, full()); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"inet eni", "arp eni", "ip enat"} {
		name := strings.ReplaceAll(table, " ", "-") + ".nft"
		golden(t, name, list(t, n, append([]string{"-s", "list", "table"}, strings.Fields(table)...)...))
	}
	if _, err := ApplyHost(Host{Table: "icgolden", Connections: 32768, Uplinks: []Uplink{
		{Name: "icgolden-1", Range: netip.MustParsePrefix("100.64.0.0/31"), Public: addrs("203.0.113.12")},
		{Name: "icgolden-2", Range: netip.MustParsePrefix("100.64.0.4/31")},
	}}); err != nil {
		t.Fatal(err)
	}
	golden(t, "inet-host.nft", nstest.Run(t, "nft", "-s", "list", "table", "inet", "icgolden"))
	if err := RemoveHost("icgolden"); err != nil {
		t.Fatal(err)
	}
	if got := nstest.Run(t, "nft", "list", "ruleset"); got != "" {
		t.Errorf("RemoveHost leaves\n%s", got)
	}
}

func TestTheListingCanBeLoadedAgain(t *testing.T) {
	n, fd := space(t, "round")
	if _, err := Apply(fd, full()); err != nil {
		t.Fatal(err)
	}
	before := list(t, n, "-s", "list", "ruleset")
	path := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(path, []byte("flush ruleset\n"+before), 0o644); err != nil {
		t.Fatal(err)
	}
	list(t, n, "-f", path)
	if after := list(t, n, "-s", "list", "ruleset"); after != before {
		t.Errorf("got\n%s\nwant\n%s", after, before)
	}
}

func TestASecondApplyIsNoTransaction(t *testing.T) {
	_, fd := space(t, "twice")
	for i, want := range []bool{true, false} {
		if changed, err := Apply(fd, full()); err != nil || changed != want {
			t.Errorf("apply %d: changed %v, %v; want %v", i+1, changed, err, want)
		}
	}
}

// Every step from one configuration to another must end where a fresh start would.
func TestEveryChangeEndsWhereAFreshStartWould(t *testing.T) {
	steps := map[string]func(*Config){
		"an interface goes":          func(c *Config) { c.Interfaces = c.Interfaces[1:] },
		"an interface leaves groups": func(c *Config) { c.Interfaces[1].Groups = []string{"sg-app"} },
		"an address is added":        func(c *Config) { c.Interfaces[2].Addresses = addrs("10.0.0.31", "10.0.0.32") },
		"a rule is revoked":          func(c *Config) { c.Groups[0].In = c.Groups[0].In[1:] },
		"a wider rule comes": func(c *Config) {
			c.Groups[0].In = append(c.Groups[0].In, Rule{Protocol: protoTCP, From: 0, To: 65535, Prefix: netip.MustParsePrefix("0.0.0.0/0")})
		},
		"a reference goes":                    func(c *Config) { c.Groups[1].In = c.Groups[1].In[2:] },
		"members change":                      func(c *Config) { c.Groups[0].Members = addrs("10.0.0.99") },
		"a VPC prefix goes":                   func(c *Config) { c.Prefixes = c.Prefixes[:1] },
		"the internet goes":                   func(c *Config) { c.Subnets[0].Routes = nil },
		"the internet comes to the neighbour": func(c *Config) { c.Subnets[1].Routes = c.Subnets[0].Routes },
		"a black hole is cut out": func(c *Config) {
			c.Subnets[0].Routes = append(c.Subnets[0].Routes, Route{Destination: netip.MustParsePrefix("192.0.2.0/24")})
		},
		"translation replaces the internet": func(c *Config) {
			c.Subnets[0].Routes = []Route{{Destination: netip.MustParsePrefix("0.0.0.0/0"), NAT: addrs("203.0.113.1")[0]}}
		},
		"an instance is in the way": func(c *Config) {
			c.Subnets[1].Routes = []Route{{Destination: netip.MustParsePrefix("0.0.0.0/0"), Mark: 77}}
		},
		"a subnet gets rules": func(c *Config) { c.Subnets[0].ACL = exampleACL() },
		"a public address moves": func(c *Config) {
			c.Interfaces[0].Public[0].Private = c.Interfaces[0].Addresses[0]
		},
		"an instance is two":       func(c *Config) { c.Interfaces[0].Instance = "i-2" },
		"a prefix goes":            func(c *Config) { c.Interfaces[4].Prefixes = nil },
		"the check is switched on": func(c *Config) { c.Interfaces[2].Unchecked = false },
		"all interfaces go":        func(c *Config) { c.Interfaces = nil },
	}
	i := 0
	for name, step := range steps {
		i++
		t.Run(name, func(t *testing.T) {
			changed := example()
			step(&changed)
			endsWhereItWouldBegin(t, fmt.Sprintf("step%d", i), example(), changed)
		})
	}
}

// endsWhereItWouldBegin checks that a change of a configuration leaves the rules that the second alone would have made, and
// that these are then known for what they are. Names of namespaces begin with name.
func endsWhereItWouldBegin(t *testing.T, name string, a, b Config) {
	t.Helper()
	n, fd := space(t, name)
	fresh, freshFD := space(t, name+"f")
	rules := NewRules(func(f func(int) error) error { return f(fd) }) // with a memory, as an agent's
	defer rules.Close()
	for _, c := range []Config{a, b} {
		if _, err := rules.Apply(c); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Apply(freshFD, b); err != nil {
		t.Fatal(err)
	}
	got, want := sorted(list(t, n, "-s", "list", "ruleset")), sorted(list(t, fresh, "-s", "list", "ruleset"))
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if again, err := Apply(fd, b); again || err != nil {
		t.Errorf("applied again: changed %v, %v", again, err)
	}
}

// sorted takes the order of chains and sets out of a listing: it is the order of their making.
func sorted(listing string) string {
	blocks := strings.Split(listing, "\n\n")
	for i := range blocks {
		blocks[i] = strings.Trim(strings.TrimSuffix(strings.TrimSpace(blocks[i]), "\n}"), "\n\t ")
	}
	return strings.Join(sortedLines(blocks), "\n\n")
}

func sortedLines(blocks []string) []string {
	var all []string
	for _, b := range blocks {
		all = append(all, strings.Split(b, "\n\t}\n")...)
	}
	for i := range all {
		all[i] = strings.Trim(strings.ReplaceAll(all[i], "\n\t}", ""), "\n\t} ")
	}
	slices.Sort(all)
	return all
}

func TestManyElementsArrive(t *testing.T) {
	_, fd := space(t, "many")
	c := Config{Prefixes: prefixes("10.0.0.0/8")}
	for i := range 5000 { // 64 KiB of elements in one message would lose most of them
		c.Interfaces = append(c.Interfaces, &Interface{
			Name: fmt.Sprintf("t%d", i), MAC: [6]byte{2, 0, 0, 0, byte(i >> 8), byte(i)}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})},
		})
	}
	if _, err := Apply(fd, c); err != nil {
		t.Fatal(err)
	}
	if changed, err := Apply(fd, c); changed || err != nil {
		t.Errorf("applied again: changed %v, %v: some did not arrive", changed, err)
	}
	c.Interfaces = c.Interfaces[:1]
	if _, err := Apply(fd, c); err != nil {
		t.Fatal(err)
	}
}
