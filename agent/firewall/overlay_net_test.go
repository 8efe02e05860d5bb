//go:build net

package firewall

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// exampleFar is the example of both families with what other hosts have of the VPC.
func exampleFar() Config {
	c := example6()
	c.Subnets[0].ACL = exampleACL()
	c.Subnets[1].Routes = []Route{{Destination: netip.MustParsePrefix("0.0.0.0/0"), NAT: addrs("203.0.113.1")[0]}}
	c.Overlay, c.Far, c.Far6 = true, addrs("10.0.0.41", "10.0.0.42"), prefixes("2001:db8:0:101::29/128", "2001:db8:0:101:9::/80")
	c.Groups[0].Members = append(c.Groups[0].Members, c.Far...)
	return c
}

func TestTheRulesBetweenHostsReadAsAnOperatorWouldWriteThem(t *testing.T) {
	n, fd := space(t, "goldenf")
	if _, err := Apply(fd, exampleFar()); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder // of the many, those that other hosts have a part in
	for _, set := range []string{"set inet eni far4", "set inet eni far6", "map inet eni v_translated"} {
		b.WriteString(list(t, n, append([]string{"-s", "list"}, strings.Fields(set)...)...))
	}
	for _, chain := range []string{"peer", "pre", "fo", "fi", "leave", "through", "inp", "ao"} {
		b.WriteString(list(t, n, "-s", "list", "chain", "inet", "eni", chain))
	}
	golden(t, "inet-eni-peers.nft", b.String())
	host := Host{Table: "icgoldenf", Overlay: true, Peers: addrs("192.0.2.2", "192.0.2.3"), Uplinks: []Uplink{{Name: "icgolden-1", Range: netip.MustParsePrefix("100.64.0.0/31")}}}
	if _, err := ApplyHost(host); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := RemoveHost("icgoldenf"); err != nil {
			t.Error(err)
		}
	}()
	golden(t, "inet-host-peers.nft", nstest.Run(t, "nft", "-s", "list", "set", "inet", "icgoldenf", "peers")+
		nstest.Run(t, "nft", "-s", "list", "chain", "inet", "icgoldenf", "input")+nstest.Run(t, "nft", "-s", "list", "chain", "inet", "icgoldenf", "forward"))
	if again, err := ApplyHost(host); again || err != nil {
		t.Errorf("applied again: changed %v, %v", again, err)
	}
}

// Between any two of these, in both directions, a change must end where a beginning would.
func TestAChangeOfOtherHostsEndsWhereABeginningWould(t *testing.T) {
	alone, empty, more := exampleFar(), exampleFar(), exampleFar()
	alone.Overlay, alone.Far, alone.Far6 = false, nil, nil
	empty.Far, empty.Far6 = nil, nil
	more.Far = addrs("10.0.0.40", "10.0.0.42", "10.0.0.43")
	more.Far6 = more.Far6[1:]
	all := map[string]Config{"alone": alone, "empty": empty, "more": more, "example": exampleFar()}
	for from, a := range all {
		for to, b := range all {
			if from == to {
				continue
			}
			t.Run(from+" to "+to, func(t *testing.T) { endsWhereItWouldBegin(t, "difff", a, b) })
		}
	}
}
