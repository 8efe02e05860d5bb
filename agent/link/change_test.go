package link

import (
	"encoding/binary"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/agent/notice"
	"golang.org/x/sys/unix"
)

func TestOnlyWhatMakesTheMemoryUntrueContradictsIt(t *testing.T) {
	tap := Tap{Name: "t1", Alias: "eni-1", MTU: 1500, Guest: [6]byte{2, 0, 0, 0, 0, 1}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.5")}, Addresses6: []netip.Addr{netip.MustParseAddr("2001:db8::5")}}
	six, sixLink := netip.MustParsePrefix("2001:db8::5/128"), netip.PrefixFrom(tap.guest6(), 128)
	bounded := Tap{Name: "t2", Shaper: Shaper{Name: "abc", Rate: 1}}
	m := &memory{
		at: map[string]int{"t1": 7, "t2": 19}, expected: map[int]Tap{7: tap, 19: bounded}, since: time.Now(),
		shapes: newShapes(),
	}
	m.shapes.put(shape{Shaper: bounded.Shaper, links: [2]int{11, 12}})
	host := netip.MustParsePrefix("10.0.0.5/32")
	good := change{kind: ofLink, index: 7, name: "t1", alias: "eni-1", mtu: 1500, group: GroupTap, mac: RouterMAC, up: true, tap: true}
	with := func(c change, f func(*change)) change { f(&c); return c }
	for _, c := range []struct {
		name          string
		c             change
		outside, ours bool // is it a contradiction when it comes outside, or inside our own changes
	}{
		{"a tap's carrier comes and goes", good, false, false},
		{"a tap is deleted", with(good, func(c *change) { c.gone = true }), true, true},
		{"a tap is taken down", with(good, func(c *change) { c.up = false }), true, true},
		{"a tap leaves the group that the rules check", with(good, func(c *change) { c.group = 0 }), true, true},
		{"a tap gets another MTU", with(good, func(c *change) { c.mtu = 9000 }), true, true},
		{"a tap is renamed", with(good, func(c *change) { c.name = "x" }), true, true},
		{"somebody makes a tap", change{kind: ofLink, index: 19, name: "tx", tap: true, up: true}, true, true},
		{"a tap that was to go is gone", change{kind: ofLink, index: 9, name: "tx", tap: true, gone: true}, false, false},
		{"the uplink is deleted", change{kind: ofLink, index: 2, name: Uplink, group: GroupUplink, gone: true}, true, false},
		{"the uplink's carrier comes", change{kind: ofLink, index: 2, name: Uplink, group: GroupUplink, up: true}, false, false},
		{"a wanted route is made", change{kind: ofRoute, through: 7, prefix: host}, false, false},
		{"a wanted route is deleted", change{kind: ofRoute, through: 7, prefix: host, gone: true}, true, true},
		{"a stranger's address is routed to a tap", change{kind: ofRoute, through: 7, prefix: netip.MustParsePrefix("10.0.0.6/32")}, true, true},
		{"the default route is deleted", change{kind: ofRoute, through: 2, prefix: netip.MustParsePrefix("0.0.0.0/0"), gone: true}, true, false},
		{"a neighbour stays", change{kind: ofNeighbour, index: 7, prefix: host, mac: tap.Guest, lasting: true}, false, false},
		{"a neighbour gets another MAC", change{kind: ofNeighbour, index: 7, prefix: host, mac: RouterMAC, lasting: true}, true, true},
		{"a neighbour is not permanent any more", change{kind: ofNeighbour, index: 7, prefix: host, mac: tap.Guest}, true, true},
		{"a neighbour is deleted", change{kind: ofNeighbour, index: 7, prefix: host, gone: true}, true, true},
		{"the kernel learns a neighbour of the uplink", change{kind: ofNeighbour, index: 2, prefix: host}, false, false},
		{"an address is added", change{kind: ofAddress, index: 1, prefix: host}, true, false},
		{"a queue of a bounded tap is changed", change{kind: ofQueue, index: 19}, true, false},
		{"a filter of a bounded tap is deleted", change{kind: ofFilter, index: 19, gone: true}, true, true},
		{"a queue of a tap without bounds is changed", change{kind: ofQueue, index: 7}, false, false},
		{"a shaper's link goes down", change{kind: ofLink, index: 11, name: "uabc", shaper: true}, true, true},
		{"a shaper's link is told again", change{kind: ofLink, index: 11, name: "uabc", shaper: true, up: true}, false, false},
		{"a link like a shaper's appears", change{kind: ofLink, index: 20, name: "uxyz", shaper: true, up: true}, true, false},
		{"a wanted route of IPv6 is made", change{kind: ofRoute, through: 7, prefix: six}, false, false},
		{"a wanted route of IPv6 is deleted", change{kind: ofRoute, through: 7, prefix: six, gone: true}, true, true},
		{"a stranger's address of IPv6 is routed to a tap", change{kind: ofRoute, through: 7, prefix: netip.MustParsePrefix("2001:db8::6/128")}, true, true},
		{"a neighbour of IPv6 stays", change{kind: ofNeighbour, index: 7, prefix: six, mac: tap.Guest, lasting: true}, false, false},
		{"the next hop of prefixes stays", change{kind: ofNeighbour, index: 7, prefix: sixLink, mac: tap.Guest, lasting: true}, false, false},
		{"the next hop of prefixes is deleted", change{kind: ofNeighbour, index: 7, prefix: sixLink, gone: true}, true, true},
		{"a neighbour of IPv6 gets another MAC", change{kind: ofNeighbour, index: 7, prefix: six, mac: RouterMAC, lasting: true}, true, true},
		{"a setting of the namespace is changed", change{kind: ofSettings, index: -1, off: 4}, true, false},
		{"a tap's setting is changed", change{kind: ofSettings, index: 7, off: 8}, true, true},
		{"a tap's setting is set to what it is", change{kind: ofSettings, index: 7, on: 8}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := m.contradicts(c.c, false); (got != "") != c.outside {
				t.Errorf("outside: got %q, want a contradiction: %v", got, c.outside)
			}
			if got := m.contradicts(c.c, true); (got != "") != c.ours {
				t.Errorf("inside: got %q, want a contradiction: %v", got, c.ours)
			}
		})
	}
}

// A field that equal does not know would never be carried out on a tap that is there.
func TestEqualKnowsEveryFieldOfATap(t *testing.T) {
	var a Tap
	for i := range reflect.TypeFor[Tap]().NumField() {
		b := Tap{}
		switch f := reflect.ValueOf(&b).Elem().Field(i); f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Int:
			f.SetInt(1)
		case reflect.Uint32:
			f.SetUint(1)
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Array:
			f.Index(0).SetUint(1)
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		case reflect.Struct:
			f.Set(reflect.ValueOf(Shaper{Peak: 1}))
		default:
			t.Fatalf("teach this test the kind of %s", reflect.TypeFor[Tap]().Field(i).Name)
		}
		if a.equal(&b) {
			t.Errorf("equal does not look at %s", reflect.TypeFor[Tap]().Field(i).Name)
		}
	}
}

func FuzzParseChange(f *testing.F) {
	for _, kind := range []uint16{unix.RTM_NEWLINK, unix.RTM_NEWROUTE, unix.RTM_NEWNEIGH, unix.RTM_NEWADDR, unix.RTM_NEWNETCONF, unix.RTM_NEWQDISC, unix.RTM_DELTFILTER} {
		f.Add(kind, make([]byte, 40))
		f.Add(kind, binary.NativeEndian.AppendUint16([]byte{unix.AF_INET, 32, 0, 0, 254, 0, 0, 0, 0, 0, 0, 0}, 8))
	}
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		if c, ok := parseChange(notice.Message{Type: kind, Data: data}); ok {
			_ = c.String()
		}
	})
}
