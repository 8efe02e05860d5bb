package cloud_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func n(v int64) *int64 { return &v }

func TestRulesAreKeptAsEC2ShowsThem(t *testing.T) {
	for name, c := range map[string]struct {
		protocol   string
		from, to   *int64
		cidr, want string // want is the rule, or an error's code
	}{
		"ports":                               {"tcp", n(22), n(80), "10.0.0.0/8", "tcp ports 22 to 80 with 10.0.0.0/8"},
		"upper case":                          {"TCP", n(1), n(1), "10.0.0.0/8", "tcp ports 1 to 1 with 10.0.0.0/8"},
		"the number of a protocol with name":  {"17", n(53), n(53), "10.0.0.0/8", "udp ports 53 to 53 with 10.0.0.0/8"},
		"ICMPv6 by number":                    {"58", n(128), n(-1), "fe80::/10", "icmpv6 type 128 code -1 with fe80::/10"},
		"ICMPv6 without type means all":       {"icmpv6", nil, nil, "::/0", "icmpv6 type -1 code -1 with ::/0"},
		"all ICMP":                            {"icmp", n(-1), n(-1), "0.0.0.0/0", "icmp type -1 code -1 with 0.0.0.0/0"},
		"one ICMP type and code":              {"icmp", n(3), n(4), "0.0.0.0/0", "icmp type 3 code 4 with 0.0.0.0/0"},
		"everything":                          {"-1", nil, nil, "0.0.0.0/0", "protocol -1 with 0.0.0.0/0"},
		"ports of everything are ignored":     {"-1", n(22), n(22), "0.0.0.0/0", "protocol -1 with 0.0.0.0/0"},
		"ports of what has none are ignored":  {"50", n(22), n(22), "0.0.0.0/0", "protocol 50 with 0.0.0.0/0"},
		"host bits are taken away":            {"-1", nil, nil, "100.68.0.18/18", "protocol -1 with 100.68.0.0/18"},
		"host bits of IPv6 are taken away":    {"-1", nil, nil, "2001:DB8::1/32", "protocol -1 with 2001:db8::/32"},
		"no protocol":                         {"", n(1), n(1), "10.0.0.0/8", "MissingParameter"},
		"a protocol that is none":             {"tcpp", n(1), n(1), "10.0.0.0/8", "InvalidPermission.Malformed"},
		"a protocol's number too high":        {"256", nil, nil, "10.0.0.0/8", "InvalidPermission.Malformed"},
		"a number below -1":                   {"-2", nil, nil, "10.0.0.0/8", "InvalidPermission.Malformed"},
		"TCP without ports":                   {"tcp", nil, nil, "10.0.0.0/8", "InvalidPermission.Malformed"},
		"TCP with half a range":               {"tcp", n(1), nil, "10.0.0.0/8", "InvalidPermission.Malformed"},
		"ICMP without type":                   {"icmp", nil, nil, "10.0.0.0/8", "InvalidPermission.Malformed"},
		"ICMPv6 with a type and without code": {"icmpv6", n(1), nil, "::/0", "InvalidPermission.Malformed"},
		"TCP ports of -1":                     {"tcp", n(-1), n(-1), "10.0.0.0/8", "InvalidParameterValue"},
		"a port too high":                     {"udp", n(0), n(65536), "10.0.0.0/8", "InvalidParameterValue"},
		"a range the wrong way round":         {"tcp", n(80), n(22), "10.0.0.0/8", "InvalidParameterValue"},
		"an ICMP type too high":               {"icmp", n(256), n(-1), "10.0.0.0/8", "InvalidParameterValue"},
		"an ICMP code too low":                {"icmp", n(8), n(-2), "10.0.0.0/8", "InvalidParameterValue"},
		"a code of all types":                 {"icmp", n(-1), n(0), "10.0.0.0/8", "InvalidParameterValue"},
		"an address alone":                    {"-1", nil, nil, "10.0.0.1", "InvalidParameterValue"},
		"a prefix too long":                   {"-1", nil, nil, "10.0.0.0/33", "InvalidParameterValue"},
		"IPv4 in IPv6":                        {"-1", nil, nil, "::ffff:10.0.0.0/104", "InvalidParameterValue"},
		"a zone":                              {"-1", nil, nil, "fe80::%eth0/64", "InvalidParameterValue"},
	} {
		r, err := cloud.NewGroupRule(c.protocol, c.from, c.to)
		if err == nil {
			r, err = r.WithCIDR(c.cidr, strings.Contains(c.cidr, ":"))
		}
		got := r.String()
		if err != nil {
			got = cloud.Code(err)
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
	for _, cross := range []struct {
		text string
		ipv6 bool
	}{{"::/0", false}, {"0.0.0.0/0", true}} {
		if _, err := (cloud.GroupRule{}).WithCIDR(cross.text, cross.ipv6); cloud.Code(err) != "InvalidParameterValue" {
			t.Errorf("%s where the other family belongs: got %v", cross.text, err)
		}
	}
}

func TestNamesOfGroups(t *testing.T) {
	for name, want := range map[string]string{
		"web": "web", "a b  ": "a b", "._-:/()#,@[]+=&;{}!$*": "._-:/()#,@[]+=&;{}!$*", strings.Repeat("x", 255): strings.Repeat("x", 255),
		"": "InvalidParameterValue", "  ": "InvalidParameterValue", "default": "InvalidGroup.Reserved", "default ": "InvalidGroup.Reserved",
		"sg-12345678": "InvalidParameterValue", "SG-x": "InvalidParameterValue", "a<b": "InvalidParameterValue", "ä": "InvalidParameterValue",
		"a\x00": "InvalidParameterValue", strings.Repeat("x", 256): "InvalidParameterValue",
	} {
		got, err := cloud.GroupName(name)
		if err != nil {
			got = cloud.Code(err)
		}
		if got != want {
			t.Errorf("%.20q: got %s, want %s", name, got, want)
		}
	}
	for text, want := range map[string]string{"what it is for": "", "": "MissingParameter", "a<b": "InvalidParameterValue"} {
		if got := cloud.Code(cloud.ValidateGroupDescription(text)); got != want {
			t.Errorf("description %q: got %s, want %s", text, got, want)
		}
	}
}

func TestANewGroupLetsEverythingOut(t *testing.T) {
	id := func() cloud.RuleID { return "sgr-1" }
	v := cloud.VPC{CIDR: netip.MustParsePrefix("10.0.0.0/16")}
	if got := fmt.Sprint(cloud.NewGroupEgress(v, id)); got != "[protocol -1 with 0.0.0.0/0]" {
		t.Errorf("got %s", got)
	}
	v.Blocks = []cloud.CIDRBlock{{CIDR: netip.MustParsePrefix("2001:db8::/56")}}
	if got := fmt.Sprint(cloud.NewGroupEgress(v, id)); got != "[protocol -1 with 0.0.0.0/0 protocol -1 with ::/0]" {
		t.Errorf("with IPv6: got %s", got)
	}
}

// ports returns rules for one port each.
func ports(cidr string, group cloud.GroupID, from, to int) (out []cloud.GroupRule) {
	for p := from; p <= to; p++ {
		out = append(out, cloud.GroupRule{ID: cloud.RuleID(fmt.Sprintf("sgr-%08d", p)), Protocol: "tcp", FromPort: p, ToPort: p, CIDR: cidr, Group: group})
	}
	return out
}

func TestRulesPerGroupAreCountedByFamilyAndDirection(t *testing.T) {
	const limit = "RulesPerSecurityGroupLimitExceeded"
	g := cloud.SecurityGroup{ID: "sg-1"}
	for k, step := range []struct {
		egress bool
		rules  []cloud.GroupRule
		want   string
	}{
		{false, ports("10.0.0.0/8", "", 1, 61), limit},
		{false, ports("10.0.0.0/8", "", 1, 60), ""},
		{false, ports("::/0", "", 1, 59), ""},
		{false, ports("10.0.0.0/8", "", 61, 61), limit},
		{false, ports("", "sg-2", 1, 1), limit}, // counts for IPv4, which is full
		{true, ports("10.0.0.0/8", "", 1, 59), ""},
		{true, ports("", "sg-2", 1, 1), ""},
		{true, ports("", "sg-2", 2, 2), limit},
		{true, ports("::/0", "", 1, 59), ""},
		{true, ports("::/0", "", 60, 60), limit}, // the group's rule counts for IPv6 too
		{true, ports("10.0.0.0/8", "", 1, 1), "InvalidPermission.Duplicate"},
		{true, append(ports("10.0.0.0/8", "", 99, 99), ports("10.0.0.0/8", "", 99, 99)...), "InvalidParameterValue"},
	} {
		next, err := g.Authorize(step.egress, step.rules)
		if cloud.Code(err) != step.want {
			t.Errorf("step %d: got %v, want %q", k, err, step.want)
		}
		if err == nil {
			g = next
		}
	}
	if _, err := g.Modify([]cloud.GroupRule{ports("10.0.0.0/8", "", 1, 1)[0]}); err != nil {
		t.Errorf("a rule that becomes what it is: %v", err)
	}
	six := ports("10.0.0.0/8", "", 900, 900)[0] // an IPv6 rule's ID, and there are 60 of IPv4
	six.ID, g.Ingress[60].ID = "sgr-99999999", "sgr-99999999"
	if _, err := g.Modify([]cloud.GroupRule{six}); cloud.Code(err) != limit {
		t.Errorf("a rule that changes its family: got %v", err)
	}
}

// Whatever is authorized and revoked in whatever order: the list is what a set of permissions would be.
func TestAuthorizeAndRevokeAreThoseOfASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := cloud.SecurityGroup{ID: "sg-1"}
		want := map[cloud.Permission]bool{}
		for step := range rapid.IntRange(1, 30).Draw(t, "steps") {
			r := ports(rapid.SampledFrom([]string{"10.0.0.0/8", "::/0"}).Draw(t, "cidr"), "", 1, 1)[0]
			r.FromPort = rapid.IntRange(0, 3).Draw(t, "port")
			r.ToPort, r.ID = r.FromPort, cloud.RuleID(fmt.Sprintf("sgr-%08d", step))
			was := g
			if rapid.Bool().Draw(t, "authorize") {
				next, err := g.Authorize(false, []cloud.GroupRule{r})
				if (err != nil) != want[r.Permission()] {
					t.Fatalf("authorize %s: got %v, and it was there: %v", r, err, want[r.Permission()])
				}
				if err == nil {
					g, want[r.Permission()] = next, true
				}
			} else {
				next, unknown := g.Revoke(false, []cloud.GroupRule{r})
				if (len(unknown) > 0) == want[r.Permission()] {
					t.Fatalf("revoke %s: unknown are %v, and it was there: %v", r, unknown, want[r.Permission()])
				}
				g = next
				delete(want, r.Permission())
			}
			got := map[cloud.Permission]bool{}
			for _, r := range g.Ingress {
				got[r.Permission()] = true
			}
			if !reflect.DeepEqual(got, want) || len(got) != len(g.Ingress) || len(g.Egress) > 0 {
				t.Fatalf("got %v from %v, want %v", g, was, want)
			}
		}
	})
}

func TestAGroupThatIsChangedStaysAsItWas(t *testing.T) {
	g := cloud.SecurityGroup{ID: "sg-1", Ingress: ports("10.0.0.0/8", "", 1, 3), Egress: ports("10.0.0.0/8", "", 4, 5)}
	g.Ingress[0].Tags = cloud.Tags{"a": "1"}
	before := fmt.Sprintf("%+v", g)
	moved := ports("192.0.2.0/24", "", 9, 9)[0]
	moved.ID = "sgr-00000001"
	next, err := g.Modify([]cloud.GroupRule{moved})
	if err != nil || next.Ingress[0].CIDR != "192.0.2.0/24" || next.Ingress[0].Tags["a"] != "1" {
		t.Errorf("modify: got %v %v, want the new permission and the old tags", next, err)
	}
	if next, err = g.RevokeIDs(false, []cloud.RuleID{"sgr-00000002"}); err != nil || len(next.Ingress) != 2 {
		t.Errorf("revoke: got %v %v", next, err)
	}
	if next, err = g.DescribeIDs(true, map[cloud.RuleID]string{"sgr-00000004": "four"}); err != nil || next.Egress[0].Description != "four" {
		t.Errorf("describe: got %v %v", next, err)
	}
	if after := fmt.Sprintf("%+v", g); after != before {
		t.Errorf("got %s, want %s", after, before)
	}
	for name, err := range map[string]error{
		"a rule of the other direction": second(g.RevokeIDs(false, []cloud.RuleID{"sgr-00000004"})),
		"a rule that is not there":      second(g.Modify(ports("10.0.0.0/8", "", 7, 7))),
		"no description for it":         second(g.DescribeIDs(false, map[cloud.RuleID]string{"sgr-00000004": "x"})),
	} {
		if cloud.Code(err) != "InvalidSecurityGroupRuleId.NotFound" {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := second(g.RevokeIDs(false, []cloud.RuleID{"sgr-x"})); cloud.Code(err) != "InvalidSecurityGroupRuleId.Malformed" {
		t.Errorf("an ID that is none: got %v", err)
	}
	same := ports("10.0.0.0/8", "", 2, 2)[0]
	same.ID = "sgr-00000001"
	if err := second(g.Modify([]cloud.GroupRule{same})); cloud.Code(err) != "InvalidPermission.Duplicate" {
		t.Errorf("a rule that becomes like another: got %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestWhatGroupsAllow(t *testing.T) {
	web := cloud.SecurityGroup{ID: "sg-web", Ingress: []cloud.GroupRule{
		{Protocol: "tcp", FromPort: 80, ToPort: 90, CIDR: "203.0.113.0/24"},
		{Protocol: "icmp", FromPort: 8, ToPort: -1, CIDR: "0.0.0.0/0"},
		{Protocol: "icmp", FromPort: 3, ToPort: 4, CIDR: "0.0.0.0/0"},
		{Protocol: "icmpv6", FromPort: 128, ToPort: -1, CIDR: "::/0"},
		{Protocol: "50", FromPort: -1, ToPort: -1, CIDR: "198.51.100.0/24"},
	}, Egress: []cloud.GroupRule{{Protocol: "udp", FromPort: 53, ToPort: 53, CIDR: "10.0.0.2/32"}}}
	app := cloud.SecurityGroup{ID: "sg-app", Ingress: []cloud.GroupRule{{Protocol: "-1", FromPort: -1, ToPort: -1, Group: "sg-web"}}}
	in := func(a string) netip.Addr { return netip.MustParseAddr(a) }
	for name, c := range map[string]struct {
		groups []cloud.SecurityGroup
		egress bool
		packet cloud.Packet
		want   bool
	}{
		"nothing without groups":                 {nil, false, cloud.Packet{Peer: in("203.0.113.9"), Protocol: 6, Port: 80}, false},
		"the first port":                         {[]cloud.SecurityGroup{web}, false, cloud.Packet{Peer: in("203.0.113.9"), Protocol: 6, Port: 80}, true},
		"the last port":                          {[]cloud.SecurityGroup{web}, false, cloud.Packet{Peer: in("203.0.113.9"), Protocol: 6, Port: 90}, true},
		"a port above":                           {[]cloud.SecurityGroup{web}, false, cloud.Packet{Peer: in("203.0.113.9"), Protocol: 6, Port: 91}, false},
		"another peer":                           {[]cloud.SecurityGroup{web}, false, cloud.Packet{Peer: in("203.0.114.9"), Protocol: 6, Port: 80}, false},
		"another protocol":                       {[]cloud.SecurityGroup{web}, false, cloud.Packet{Peer: in("203.0.113.9"), Protocol: 17, Port: 80}, false},
		"any code of a type":                     {[]cloud.SecurityGroup{web}, false, cloud.Packet{Peer: in("192.0.2.1"), Protocol: 1, Type: 8, Code: 7}, true},
		"another code":                           {[]cloud.SecurityGroup{web}, false, cloud.Packet{Peer: in("192.0.2.1"), Protocol: 1, Type: 3, Code: 1}, false},
		"ICMPv6":                                 {[]cloud.SecurityGroup{web}, false, cloud.Packet{Peer: in("2001:db8::1"), Protocol: 58, Type: 128}, true},
		"another type of ICMPv6":                 {[]cloud.SecurityGroup{web}, false, cloud.Packet{Peer: in("2001:db8::1"), Protocol: 58, Type: 129}, false},
		"a protocol without ports":               {[]cloud.SecurityGroup{web}, false, cloud.Packet{Peer: in("198.51.100.1"), Protocol: 50}, true},
		"IPv6 is not in a prefix of IPv4":        {[]cloud.SecurityGroup{web}, false, cloud.Packet{Peer: in("2001:db8::1"), Protocol: 1, Type: 8}, false},
		"what comes in need not go out":          {[]cloud.SecurityGroup{web}, true, cloud.Packet{Peer: in("203.0.113.9"), Protocol: 6, Port: 80}, false},
		"what goes out":                          {[]cloud.SecurityGroup{web}, true, cloud.Packet{Peer: in("10.0.0.2"), Protocol: 17, Port: 53}, true},
		"a member of a group":                    {[]cloud.SecurityGroup{app}, false, cloud.Packet{Peer: in("10.0.0.9"), PeerGroups: []cloud.GroupID{"sg-web"}, Protocol: 6, Port: 1}, true},
		"no member, whatever the address":        {[]cloud.SecurityGroup{app}, false, cloud.Packet{Peer: in("10.0.0.9"), PeerGroups: []cloud.GroupID{"sg-app"}, Protocol: 6, Port: 1}, false},
		"one of several groups allows it":        {[]cloud.SecurityGroup{app, web}, false, cloud.Packet{Peer: in("203.0.113.9"), Protocol: 6, Port: 80}, true},
		"rules of several groups do not combine": {[]cloud.SecurityGroup{app, web}, false, cloud.Packet{Peer: in("203.0.113.9"), Protocol: 6, Port: 79}, false},
	} {
		if got := cloud.Allows(c.groups, c.egress, c.packet); got != c.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
