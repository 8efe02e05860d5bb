package netconf

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/fetch"
	"github.com/ichiro-metal/ichiro/internal/lease"
	"github.com/ichiro-metal/ichiro/internal/network"
)

var (
	subnet = netip.MustParsePrefix("10.0.0.0/24")
	router = netip.MustParseAddr("10.0.0.1")
	eth0   = network.Interface{Name: "eth0", Index: 2, MAC: [6]byte{2, 0, 0, 0, 0, 0}}
	eth1   = network.Interface{Name: "eth1", Index: 3, MAC: [6]byte{2, 0, 0, 0, 0, 1}}
)

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// wish is device n with the addresses 10.0.0.N given by their last bytes.
func wish(i network.Interface, n int, last ...int) Wish {
	w := Wish{MAC: i.MAC, Number: n, Subnet: subnet}
	for _, l := range last {
		w.Addresses = append(w.Addresses, addrs(fmt.Sprintf("10.0.0.%d", l))...)
	}
	return w
}

func set(index int, prefix string, protocol byte) network.Address {
	return network.Address{Index: index, Prefix: netip.MustParsePrefix(prefix), Protocol: protocol, Alone: protocol == Protocol}
}

func answer(prefix string) lease.Answer {
	return lease.Answer{Address: netip.MustParsePrefix(prefix), Routes: []lease.Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: router}}}
}

// after returns the view when a plan has been carried out.
func after(v View, p Plan) View {
	v.Addresses = append(slices.DeleteFunc(slices.Clone(v.Addresses), func(a network.Address) bool { return slices.Contains(p.Addresses.Delete, a) }), p.Addresses.Add...)
	v.Routes = append(slices.DeleteFunc(slices.Clone(v.Routes), func(r network.Route) bool { return slices.Contains(p.Routes.Delete, r) }), p.Routes.Add...)
	v.Rules = append(slices.DeleteFunc(slices.Clone(v.Rules), func(r network.Rule) bool { return slices.Contains(p.Rules.Delete, r) }), p.Rules.Add...)
	return v
}

func (p Plan) String() string {
	var b strings.Builder
	for _, i := range p.Ask {
		fmt.Fprintf(&b, "ask on %s\n", i.Name)
	}
	for sign, c := range map[string][]network.Address{"- ": p.Addresses.Delete, "+ ": p.Addresses.Add} {
		for _, a := range c {
			fmt.Fprintf(&b, "%saddress %s on %d\n", sign, a.Prefix, a.Index)
		}
	}
	for sign, c := range map[string][]network.Route{"- ": p.Routes.Delete, "+ ": p.Routes.Add} {
		for _, r := range c {
			fmt.Fprintf(&b, "%sroute %s via %s on %d table %d metric %d\n", sign, r.To, r.Via, r.Index, r.Table, r.Metric)
		}
	}
	for sign, c := range map[string][]network.Rule{"- ": p.Rules.Delete, "+ ": p.Rules.Add} {
		for _, r := range c {
			fmt.Fprintf(&b, "%srule %d from %s to %d\n", sign, r.Priority, r.From, r.Table)
		}
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestDecide(t *testing.T) {
	boot := set(2, "10.0.0.10/24", 0) // by whoever booted the guest
	up := View{
		Wishes: []Wish{wish(eth0, 0, 10), wish(eth1, 1, 20)}, Links: []network.Interface{eth0, eth1},
		Addresses: []network.Address{boot}, Leases: map[int]lease.Answer{3: answer("10.0.0.20/24")},
	}
	done := after(up, Decide(up))
	change := func(v View, f func(*View)) View {
		v.Wishes, v.Links, v.Addresses = slices.Clone(v.Wishes), slices.Clone(v.Links), slices.Clone(v.Addresses)
		f(&v)
		return v
	}
	for _, c := range []struct {
		name string
		v    View
		want string
	}{
		{"a guest with one interface and one address is left alone", View{Wishes: up.Wishes[:1], Links: up.Links[:1], Addresses: up.Addresses}, ""},
		{"what the metadata announces and is not there yet is waited for", View{Wishes: up.Wishes, Links: up.Links[:1], Addresses: up.Addresses}, ""},
		{"a further interface asks for its address", change(up, func(v *View) { v.Leases = nil }), "ask on eth1"},
		{"it gets a table, and a rule that leads there", up, `+ address 10.0.0.20/24 on 3
+ route 0.0.0.0/0 via 10.0.0.1 on 3 table 10001 metric 513
+ route 0.0.0.0/0 via 10.0.0.1 on 3 table 254 metric 513
+ route 10.0.0.0/24 via invalid IP on 3 table 10001 metric 513
+ route 10.0.0.0/24 via invalid IP on 3 table 254 metric 513
+ rule 10001 from 10.0.0.20/32 to 10001`},
		{"an answer without a default route leaves one in its own table only", change(up, func(v *View) {
			v.Leases = map[int]lease.Answer{3: {Address: netip.MustParsePrefix("10.0.0.20/24")}}
		}), `+ address 10.0.0.20/24 on 3
+ route 0.0.0.0/0 via 10.0.0.1 on 3 table 10001 metric 513
+ route 10.0.0.0/24 via invalid IP on 3 table 10001 metric 513
+ route 10.0.0.0/24 via invalid IP on 3 table 254 metric 513
+ rule 10001 from 10.0.0.20/32 to 10001`},
		{"the second time there is nothing to do", done, ""},
		{"another process finds what the last one did, and asks again", change(done, func(v *View) { v.Leases = nil }), "ask on eth1"},
		{"secondary addresses appear where they were assigned",
			change(done, func(v *View) { v.Wishes = []Wish{wish(eth0, 0, 10, 11), wish(eth1, 1, 20, 21)} }),
			"+ address 10.0.0.11/32 on 2\n+ address 10.0.0.21/32 on 3\n+ rule 10001 from 10.0.0.21/32 to 10001"},
		{"and go when they are not any more", change(done, func(v *View) {
			v.Addresses = append(v.Addresses, set(2, "10.0.0.11/32", Protocol), set(3, "10.0.0.21/32", Protocol))
			v.Rules = append(slices.Clone(v.Rules), network.Rule{From: netip.MustParsePrefix("10.0.0.21/32"), Table: 10001, Priority: 10001, Protocol: Protocol})
		}), "- address 10.0.0.11/32 on 2\n- address 10.0.0.21/32 on 3\n- rule 10001 from 10.0.0.21/32 to 10001"},
		{"an address that the owner has set stays, and is not set twice", change(up, func(v *View) {
			v.Wishes, v.Links = []Wish{wish(eth0, 0, 10, 11)}, up.Links[:1]
			v.Addresses = append(v.Addresses, set(2, "10.0.0.11/24", 0), set(2, "10.0.0.99/32", 0))
		}), ""},
		{"of an interface that went the rule goes, the kernel has taken the rest", change(done, func(v *View) {
			v.Links, v.Routes = up.Links[:1], nil
			v.Addresses = slices.DeleteFunc(v.Addresses, func(a network.Address) bool { return a.Index == 3 })
		}), "- rule 10001 from 10.0.0.20/32 to 10001"},
		{"of a dead interface that the metadata has no more all goes", change(done, func(v *View) { v.Wishes = up.Wishes[:1] }), `- address 10.0.0.20/24 on 3
- route 0.0.0.0/0 via 10.0.0.1 on 3 table 10001 metric 513
- route 0.0.0.0/0 via 10.0.0.1 on 3 table 254 metric 513
- route 10.0.0.0/24 via invalid IP on 3 table 10001 metric 513
- route 10.0.0.0/24 via invalid IP on 3 table 254 metric 513
- rule 10001 from 10.0.0.20/32 to 10001`},
		{"an interface with another manager is theirs but for secondary addresses", change(up, func(v *View) {
			v.Managed, v.Wishes[1] = map[int]Managed{3: Elsewhere}, wish(eth1, 1, 20, 21)
			v.Addresses, v.Leases = append(v.Addresses, set(3, "10.0.0.20/24", 0)), nil
		}), "+ address 10.0.0.21/32 on 3"},
		{"which wait until it is up", change(up, func(v *View) {
			v.Managed, v.Wishes[1], v.Leases = map[int]Managed{3: Elsewhere}, wish(eth1, 1, 20, 21), nil
		}), ""},
		{"an undecided manager is waited for", change(up, func(v *View) { v.Managed, v.Leases = map[int]Managed{3: Undecided}, nil }), ""},
		{"an interface that somebody has given an address is theirs", change(up, func(v *View) {
			v.Addresses, v.Leases = append(v.Addresses, set(3, "10.0.0.20/24", 0)), nil
		}), ""},
		{"unless it is one that it gave itself", change(up, func(v *View) {
			v.Addresses, v.Leases = append(v.Addresses, set(3, "169.254.7.7/16", 0), set(3, "fe80::1/64", 0)), nil
		}), "ask on eth1"},
		{"on a kernel that does not keep who set an address, our rule tells", change(done, func(v *View) {
			v.Leases = nil
			for n := range v.Addresses {
				v.Addresses[n].Protocol = 0
			}
		}), "ask on eth1"},
		{"addresses of IPv6 appear on every interface", change(done, func(v *View) {
			v.Wishes[0].IPv6, v.Wishes[1].IPv6 = addrs("2001:db8::a", "2001:db8::b"), addrs("2001:db8::c")
		}), "+ address 2001:db8::a/128 on 2\n+ address 2001:db8::b/128 on 2\n+ address 2001:db8::c/128 on 3"},
		{"and go when they are not any more", change(done, func(v *View) {
			v.Addresses = append(v.Addresses, set(2, "2001:db8::a/128", Protocol), set(2, "fe80::1/64", 0))
		}), "- address 2001:db8::a/128 on 2"},
		{"another manager's interface has IPv6 if he wants it", change(up, func(v *View) {
			v.Managed, v.Leases, v.Wishes = map[int]Managed{2: Elsewhere}, nil, v.Wishes[:1]
			v.Wishes[0].IPv6 = addrs("2001:db8::a", "2001:db8::b")
		}), ""},
		{"and then the further addresses too", change(up, func(v *View) {
			v.Managed, v.Leases, v.Wishes = map[int]Managed{2: Elsewhere}, nil, v.Wishes[:1]
			v.Wishes[0].IPv6 = addrs("2001:db8::a", "2001:db8::b")
			v.Addresses = append(v.Addresses, set(2, "2001:db8::a/128", 0))
		}), "+ address 2001:db8::b/128 on 2"},
		{"where Amazon's tool is at work we are not", change(up, func(v *View) { v.Amazon, v.Wishes[0] = true, wish(eth0, 0, 10, 11) }), ""},
		{"a primary address that has changed is asked for anew", change(done, func(v *View) { v.Wishes[1] = wish(eth1, 1, 30) }), `+ address 10.0.0.30/32 on 3
+ rule 10001 from 10.0.0.30/32 to 10001
- rule 10001 from 10.0.0.20/32 to 10001
ask on eth1`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Decide(c.v).String(); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// What a manager leaves of an interface says whose that is.
func TestManaged(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  Managed
	}{
		{"nobody is there", nil, Unmanaged},
		{"networkd has not seen it", map[string]string{"run/systemd/netif/state": ""}, Undecided},
		{"networkd has not decided", map[string]string{"run/systemd/netif/state": "", "run/systemd/netif/links/3": "ADMIN_STATE=pending\n"}, Undecided},
		{"networkd leaves it", map[string]string{"run/systemd/netif/state": "", "run/systemd/netif/links/3": "# private\nADMIN_STATE=unmanaged\n"}, Unmanaged},
		{"networkd has it", map[string]string{"run/systemd/netif/state": "", "run/systemd/netif/links/3": "ADMIN_STATE=configured\n"}, Elsewhere},
		{"NetworkManager has not seen it", map[string]string{"run/NetworkManager/NetworkManager.pid": "1"}, Undecided},
		{"NetworkManager leaves it", map[string]string{"run/NetworkManager/devices/3": "[device]\nmanaged=false\n"}, Unmanaged},
		{"NetworkManager has it", map[string]string{"run/NetworkManager/devices/3": "[device]\nmanaged=true\n"}, Elsewhere},
		{"ifupdown has another", map[string]string{"run/network/ifstate": "lo=lo\neth0=eth0\n"}, Unmanaged},
		{"ifupdown has it", map[string]string{"run/network/ifstate": "eth1=eth1\n"}, Elsewhere},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for name, text := range c.files {
				path := filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := managed(root, eth1); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

// Whatever a metadata service answers, what is believed of it are interfaces with addresses of their own subnet.
func FuzzMetadata(f *testing.F) {
	f.Add("02:00:00:00:00:01/\n", "1", "0", "10.0.0.20\n10.0.0.21", "10.0.0.0/24", "2001:db8::a\n2001:db8::b")
	f.Add("02:00:00:00:00:01/", "200", "", "10.0.0.20", "::/0", "fe80::1")
	f.Fuzz(func(t *testing.T, list, number, card, addresses, subnet, six string) {
		macs, err := parseList(list)
		if err != nil {
			return
		}
		var paths []string
		var answers []fetch.Response
		for range macs {
			for _, text := range []string{number, card, addresses, subnet, six} {
				paths = append(paths, "path")
				answers = append(answers, fetch.Response{Status: 200, Body: []byte(text)})
			}
		}
		wishes, err := collect(macs, paths, answers)
		if err != nil {
			return
		}
		for _, w := range wishes {
			if w.Number < 0 || w.Number > 99 || w.Card < 0 || w.Card > 99 || !w.Subnet.Addr().Is4() {
				t.Errorf("believed %+v", w)
			}
			for _, a := range w.Addresses {
				if !w.Subnet.Contains(a) {
					t.Errorf("believed %s in %s", a, w.Subnet)
				}
			}
			for _, a := range w.IPv6 {
				if !a.Is6() || !a.IsGlobalUnicast() {
					t.Errorf("believed %s", a)
				}
			}
		}
	})
}
