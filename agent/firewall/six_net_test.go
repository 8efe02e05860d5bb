//go:build net

package firewall

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// example6 is the example's VPC with a block of IPv6.
func example6() Config {
	c := example()
	any6 := netip.MustParsePrefix("::/0")
	c.Prefixes6 = prefixes("2001:db8:0:100::/56")
	c.Gateways6 = addrs("2001:db8:0:101::1")
	c.Services = append(c.Services, Service{At: netip.MustParseAddrPort("[fd00:ec2::254]:80")})
	c.Subnets[0].CIDR6 = netip.MustParsePrefix("2001:db8:0:101::/64")
	c.Subnets[0].Routes6 = []Route{{Destination: any6, Internet: true}, {Destination: netip.MustParsePrefix("2001:db8:dead::/48")}}
	c.Subnets[0].ACL = []Entry{
		{Egress: true, Allow: true, Protocol: AnyProtocol, Prefix: any6, From: -1, To: -1},
		{Allow: true, Protocol: protoTCP, Prefix: netip.MustParsePrefix("2001:db8:5::/48"), From: 80, To: 80},
		{Allow: true, Protocol: protoICMPv6, Prefix: any6, From: 128, To: -1},
		{Protocol: AnyProtocol, Prefix: netip.MustParsePrefix("192.0.2.0/24"), From: -1, To: -1},
	}
	c.Interfaces[0].Addresses6 = addrs("2001:db8:0:101::b")
	c.Interfaces[1].Addresses6, c.Interfaces[1].Prefixes6 = addrs("2001:db8:0:101::15"), prefixes("2001:db8:0:101:5::/80")
	web, app := &c.Groups[0], &c.Groups[1]
	web.Members6, web.Behind6 = addrs("2001:db8:0:101::b", "2001:db8:0:101::15"), prefixes("2001:db8:0:101:5::/80")
	app.Members6 = addrs("2001:db8:0:101::15")
	web.Out = append(web.Out, Rule{Protocol: AnyProtocol, From: -1, To: -1, Prefix: any6})
	web.In = append(web.In,
		Rule{Protocol: protoTCP, From: 443, To: 443, Prefix: any6},
		Rule{Protocol: protoTCP, From: 400, To: 500, Prefix: netip.MustParsePrefix("2001:db8:7::/48")}, // overlaps the first
		Rule{Protocol: protoICMPv6, From: 128, To: -1, Prefix: any6})
	app.In = append(app.In, Rule{Protocol: protoICMPv6, From: -1, To: -1, Group: "sg-web"})
	return c
}

func TestTheRulesOfIPv6ReadAsAnOperatorWouldWriteThem(t *testing.T) {
	n, fd := space(t, "golden6")
	if _, err := Apply(fd, example6()); err != nil {
		t.Fatal(err)
	}
	golden(t, "inet-eni-six.nft", list(t, n, "-s", "list", "table", "inet", "eni"))
	if again, err := Apply(fd, example6()); again || err != nil {
		t.Errorf("applied again: changed %v, %v", again, err)
	}
}

// What nft(8) has printed it must be able to load, to the same rules.
func TestTheRulesOfIPv6SurviveARoundTrip(t *testing.T) {
	n, fd := space(t, "round6")
	if _, err := Apply(fd, example6()); err != nil {
		t.Fatal(err)
	}
	before := list(t, n, "-s", "list", "ruleset")
	path := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(path, []byte("flush ruleset\n"+before), 0o600); err != nil {
		t.Fatal(err)
	}
	list(t, n, "-f", path)
	if after := list(t, n, "-s", "list", "ruleset"); after != before {
		t.Errorf("got\n%s\nwant\n%s", after, before)
	}
}

// Between any two of these, in both directions, a change must end where a beginning would.
func TestAChangeOfIPv6EndsWhereABeginningWould(t *testing.T) {
	without, more, fewer := example6(), example6(), example6()
	without.Prefixes6 = nil // the block is gone, and all that was of it
	without.Gateways6 = nil
	for k := range without.Interfaces {
		without.Interfaces[k].Addresses6, without.Interfaces[k].Prefixes6 = nil, nil
	}
	more.Interfaces[2].Addresses6 = addrs("2001:db8:0:101::16") // beside one that is there
	more.Groups[0].Members6 = append(more.Groups[0].Members6, addrs("2001:db8:0:101::16")...)
	fewer.Interfaces[1].Prefixes6, fewer.Groups[0].Behind6 = nil, nil
	fewer.Groups[0].In = fewer.Groups[0].In[:4]
	all := map[string]Config{"without": without, "more": more, "fewer": fewer, "example": example6()}
	for from, a := range all {
		for to, b := range all {
			if from == to {
				continue
			}
			t.Run(from+" to "+to, func(t *testing.T) { endsWhereItWouldBegin(t, "diff6", a, b) })
		}
	}
}
