//go:build net

package eni

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// shape is all that the namespaces of a host show, without what differs between two of the same wish: indexes,
// handles, counters, and the host's prefix.
func shape(t *testing.T, prefix string) string {
	t.Helper()
	var b strings.Builder
	names := strings.Fields(nstest.Run(t, "ls", "/run/netns"))
	for _, n := range names {
		vpc, ours := strings.CutPrefix(n, prefix+"-")
		if !ours {
			continue
		}
		fmt.Fprintf(&b, "## %s\n", vpc)
		fmt.Fprintf(&b, "# queues\n%s\n", normal(queues(t, n), false))
		for _, c := range []string{"ip -d -o link", "ip -o -4 addr", "ip -o -6 addr", "ip route show table all", "ip -6 route show table all", "ip rule", "ip neigh", "nft -s list ruleset"} {
			out := nstest.Run(t, "ip", append([]string{"netns", "exec", n}, strings.Fields(c)...)...)
			fmt.Fprintf(&b, "# %s\n%s\n", c, normal(out, strings.HasPrefix(c, "nft")))
		}
	}
	fmt.Fprintf(&b, "## root\n%s", normal(nstest.Run(t, "nft", "-s", "list", "table", "inet", prefix), true))
	return strings.ReplaceAll(b.String(), prefix, "PREFIX")
}

var (
	anyIndex  = regexp.MustCompile(`(?m)^\d+: | index \d+|if\d+|link-netnsid \d+|iif \d+`)
	anyUplink = regexp.MustCompile(`100\.\d+\.\d+\.\d+(/31)?`) // chosen by the prefix
	anyMAC    = regexp.MustCompile(`(?m)((?:up0|^[ud][0-9a-f]{12}:).*link/ether) [0-9a-f:]+`)
	elements  = regexp.MustCompile(`(?s)elements = \{(.*?)\}`)
	volatile  = regexp.MustCompile(`(?m) (used|lladdr|ref|probes) \d+\S*| (STALE|REACHABLE|DELAY|PROBE|INCOMPLETE)$| gso_ipv\S+ \d+| state (UP|DOWN|UNKNOWN|LOWERLAYERDOWN)|,LOWER_UP|NO-CARRIER,|M-DOWN`)
)

func normal(out string, rules bool) string {
	if rules {
		out = elements.ReplaceAllStringFunc(out, func(s string) string { // a hash has no order
			list := strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == '\n' || r == '\t' || r == '{' || r == '}' })
			for i := range list {
				list[i] = strings.TrimSpace(list[i])
			}
			slices.Sort(list)
			return strings.Join(list, "\n")
		})
		tables := strings.SplitAfter(anyUplink.ReplaceAllString(out, "UPLINK"), "\n}\n")
		for i, t := range tables { // nor have sets and chains; the rules of a chain have
			objects := strings.Split(t, "\n\t}\n")
			for k, o := range objects {
				objects[k] = strings.TrimSpace(strings.TrimPrefix(o, strings.SplitN(t, "\n", 2)[0]))
			}
			slices.Sort(objects)
			tables[i] = strings.SplitN(t, "\n", 2)[0] + "\n" + strings.Join(objects, "\n")
		}
		slices.Sort(tables)
		return strings.Join(tables, "\n")
	}
	out = volatile.ReplaceAllString(anyMAC.ReplaceAllString(anyUplink.ReplaceAllString(anyIndex.ReplaceAllString(out, ""), "UPLINK"), "$1 MAC"), "")
	lines := strings.Split(out, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// A host that came by many small changes to where it is must not differ from one that was made so at once.
func TestManySmallChangesLeaveWhatOneApplyMakes(t *testing.T) {
	for seed := range uint64(4) {
		d := newDice("edf", seed)
		m, end := run(t, "edf")
		var did []string
		for range 10 + 10*seed {
			did = append(did, d.roll())
			_ = m.Apply(context.Background(), d.c) // it refuses what dice want twice
		}
		got := shape(t, "edf")
		if !strings.Contains(got, "chain inp") {
			t.Fatal("nothing was made: the test proves nothing")
		}
		end()
		if err := Remove(context.Background(), "edf"); err != nil {
			t.Fatal(err)
		}
		fresh, end := run(t, "edf")
		_ = fresh.Apply(context.Background(), d.c)
		if want := shape(t, "edf"); got != want {
			t.Errorf("dice %d, after it %s:\n%s", seed, strings.Join(did, ", "), difference(t, got, want))
		}
		end()
		if err := Remove(context.Background(), "edf"); err != nil {
			t.Fatal(err)
		}
	}
}

func difference(t *testing.T, got, want string) string {
	t.Helper()
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	var out strings.Builder
	for _, l := range a {
		if !slices.Contains(b, l) {
			fmt.Fprintln(&out, "more:", l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			fmt.Fprintln(&out, "less:", l)
		}
	}
	return out.String()
}

// A caller may make his next Config in the place of the last.
func TestARepairIsOfWhatWasApplied(t *testing.T) {
	m := start(t, "edl")
	c := config("edl", guestInterface(1, "sg-default"), guestInterface(2, "sg-default"))
	apply(t, m, c)
	want := shape(t, "edl")
	<-watching(m)
	c.Interfaces = slices.Delete(c.Interfaces, 0, 1) // leaves nil in the list that Apply has had
	c.VPCs[0].Groups = c.VPCs[0].Groups[:1]
	nstest.IP(t, "-n edl-vpc-1 addr add 10.0.9.9/32 dev lo")
	var got string
	for began := time.Now(); time.Since(began) < 20*soon; {
		if got = shape(t, "edl"); got == want {
			return
		}
	}
	t.Errorf("not repaired:\n%s", difference(t, got, want))
}

// soon is how long a stranger's change may last.
const soon = time.Second

func TestForeignChangesOfLinksRoutesAndNeighboursAreRepaired(t *testing.T) {
	m := start(t, "edr")
	apply(t, m, config("edr", bounded(1, "i-1", 100), guestInterface(2, "sg-default")))
	want := shape(t, "edr")
	tap, veth := TapName(guestInterface(1).ID), ""
	for _, f := range strings.Fields(nstest.IP(t, "-o link")) {
		if name, _, ok := strings.Cut(f, "@"); ok && strings.HasPrefix(name, "edr-") {
			veth = name
		}
	}
	for _, attack := range []string{
		"-n edr-vpc-1 route del 172.31.0.11/32",
		"-n edr-vpc-1 neigh del 172.31.0.11 dev " + tap,
		"-n edr-vpc-1 neigh change 172.31.0.11 lladdr 02:00:00:00:00:66 nud permanent dev " + tap,
		"-n edr-vpc-1 neigh add 172.31.0.99 lladdr 02:00:00:00:00:66 nud permanent dev " + tap,
		"-n edr-vpc-1 route add 172.31.0.99/32 dev " + tap,
		"-n edr-vpc-1 link set " + tap + " down",
		"-n edr-vpc-1 link set " + tap + " group 0",
		"-n edr-vpc-1 link set " + tap + " address 02:00:00:00:00:66",
		"-n edr-vpc-1 link set " + tap + " mtu 1400",
		"-n edr-vpc-1 link del " + tap,
		"-n edr-vpc-1 link add txyz group 10 type veth peer name tyzx",
		"-n edr-vpc-1 route del default",
		"-n edr-vpc-1 route del blackhole 172.31.0.0/16",
		"-n edr-vpc-1 addr del 169.254.169.254/32 dev lo",
		"-n edr-vpc-1 addr add 10.9.9.9/32 dev lo",
		"-n edr-vpc-1 link set up0 group 0",
		"-n edr-vpc-1 link del up0",
		"link del " + veth,
		"link set " + veth + " down",
		"netns exec edr-vpc-1 nft flush ruleset",
		"netns exec edr-vpc-1 tc qdisc del dev " + tap + " clsact",
		"netns exec edr-vpc-1 tc filter del dev " + tap + " egress",
		"netns exec edr-vpc-1 tc qdisc del dev u" + shaper(bounded(1, "i-1", 100)).Name + " root",
		"-n edr-vpc-1 link del u" + shaper(bounded(1, "i-1", 100)).Name,
		"netns exec edr-vpc-1 sysctl -qw net.ipv4.ip_forward=0",
		"netns exec edr-vpc-1 sysctl -qw net.ipv4.conf." + tap + ".rp_filter=1",
	} {
		t.Run(attack, func(t *testing.T) {
			<-watching(m)
			nstest.IP(t, "%s", attack)
			began := time.Now()
			var got string
			for got = shape(t, "edr"); got != want && time.Since(began) < 20*soon; got = shape(t, "edr") {
			}
			took := time.Since(began)
			if got != want {
				t.Fatalf("not repaired after %v:\n%s", took, difference(t, got, want))
			}
			t.Logf("repaired within %v, which a look at it is part of", took)
		})
	}
	for setting, want := range map[string]string{"net.ipv4.ip_forward": "1", "net.ipv4.conf." + tap + ".rp_filter": "0", "net.ipv4.conf." + tap + ".proxy_arp": "1"} {
		for began := time.Now(); ; {
			got := strings.TrimSpace(nstest.IP(t, "netns exec edr-vpc-1 sysctl -n %s", setting))
			if got == want {
				break
			}
			if time.Since(began) > 20*soon {
				t.Errorf("%s: got %s, want %s", setting, got, want)
				break
			}
		}
	}
}

func TestChangesMadeWhileNobodyWatchesAreFoundByTheNextApply(t *testing.T) {
	m, err := New("eds", discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		if err := Remove(context.Background(), "eds"); err != nil {
			t.Error(err)
		}
	})
	c := config("eds", guestInterface(1, "sg-default"), guestInterface(2, "sg-default"))
	apply(t, m, c)
	want := shape(t, "eds")
	for _, attack := range []string{
		"route del 172.31.0.11/32", "link del " + TapName(guestInterface(1).ID), "netns del", "nft flush ruleset",
		"nft delete element inet eni v_in { " + TapName(guestInterface(2).ID) + " }",
	} {
		switch {
		case attack == "netns del":
			nstest.IP(t, "netns del eds-vpc-1")
		case strings.HasPrefix(attack, "nft "):
			out, err := exec.Command("ip", append([]string{"netns", "exec", "eds-vpc-1"}, strings.Fields(attack)...)...).CombinedOutput()
			if err != nil {
				t.Fatalf("%s: %s", attack, out)
			}
		default:
			nstest.IP(t, "-n eds-vpc-1 %s", attack)
		}
		apply(t, m, c)
		if got := shape(t, "eds"); got != want {
			t.Errorf("after %s:\n%s", attack, difference(t, got, want))
		}
	}
}
