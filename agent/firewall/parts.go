package firewall

import (
	"reflect"
	"slices"

	"github.com/ichiro-metal/ichiro/internal/delta"
)

// wish is what tables shall be, and what our last transaction has made them: the memory of Rules is the wish before.
//
// A VPC's tables are a sum: what its interfaces give, each for itself and those of its instance, and what all the rest
// gives. So what two wishes have in common cancels, and a change costs what changed: beside leaves the common interfaces out
// of both before they are compiled, and the difference of what is left is that of the whole tables.
type wish interface {
	// tables are all of them.
	tables() []table
	// beside returns tables whose difference is that of the whole ones; none, if there is no difference.
	beside(known wish) (had, wanted []table)
}

// vpc is the wish for the tables of a VPC's namespace. It shares the lists of the Config, which must stay as they are. No
// two of its interfaces have a name or an address in common.
type vpc struct {
	Config
	layouts []string // of its tables
}

func (v *vpc) tables() []table {
	ts := compile(v.Config)
	v.layouts = v.layouts[:0]
	for i := range ts {
		ts[i].named = ts[i].layout()
		v.layouts = append(v.layouts, ts[i].named)
	}
	return ts
}

func (v *vpc) beside(known wish) (had, wanted []table) {
	was, ok := known.(*vpc)
	if !ok || was.layouts == nil || len(v.Ways) > 0 || !sameBesides(was.Config, v.Config) { // ways join interfaces that have nothing else in common
		return known.tables(), v.tables()
	}
	v.layouts = was.layouts // interfaces have no part in them
	if slices.EqualFunc(was.Interfaces, v.Interfaces, func(a, b *Interface) bool { return a == b }) && sameMembers(was.Groups, v.Groups) && slices.Equal(was.Far, v.Far) {
		return nil, nil
	}
	before, after, common := apart(was.Interfaces, v.Interfaces)
	return was.of(slices.Concat(common, before)), v.of(slices.Concat(common, after))
}

// of compiles the wish as if it had only these interfaces.
func (v *vpc) of(some []*Interface) []table {
	c := v.Config
	c.Interfaces = some
	ts := compile(c)
	for i := range ts {
		ts[i].named = v.layouts[i]
	}
	return ts
}

// apart returns the interfaces that only one of two lists has, and of the common ones those that have a part in what these
// give, with one of the rest for each list of groups, and each subnet of those that forward: by them the chains are asked
// for that others still use.
func apart(was, is []*Interface) (before, after, common []*Interface) {
	from, endWas, endIs := delta.Middle(was, is, equalInterfaces)
	instances := map[string]bool{}
	for _, middle := range [][]*Interface{was[from:endWas], is[from:endIs]} {
		for _, i := range middle {
			instances[i.Instance] = i.Instance != ""
		}
	}
	var last *Interface // neighbours are mostly of the same groups
	asked := map[string]bool{}
	var key []byte
	for _, part := range [][]*Interface{is[:from], is[endIs:]} {
		for k := range part {
			i := part[k]
			if !instances[i.Instance] {
				if last != nil && !i.Unchecked && slices.Equal(i.Groups, last.Groups) {
					continue
				}
				key = i.asks(key[:0])
				if asked[string(key)] {
					continue
				}
				asked[string(key)] = true
				if !i.Unchecked {
					last = i
				}
			}
			common = append(common, i)
		}
	}
	return was[from:endWas], is[from:endIs], common
}

// asks appends what the chains are chosen by that the interface needs.
func (i *Interface) asks(key []byte) []byte {
	for _, g := range i.Groups {
		key = append(append(key, g...), 0)
	}
	if i.Unchecked {
		key = append(append(key, 0), i.Subnet...)
	}
	return key
}

// sameBesides reports whether two configurations differ in nothing but interfaces, here and elsewhere, and members of groups.
func sameBesides(a, b Config) bool {
	if !slices.EqualFunc(a.Groups, b.Groups, func(x, y Group) bool {
		if !slices.Equal(x.In, y.In) || !slices.Equal(x.Out, y.Out) {
			return false
		}
		x.In, x.Out, x.Members, y.In, y.Out, y.Members = nil, nil, nil, nil, nil, nil
		return reflect.DeepEqual(x, y)
	}) {
		return false
	}
	a.Interfaces, a.Groups, b.Interfaces, b.Groups = nil, nil, nil, nil
	a.Far, b.Far = nil, nil
	return reflect.DeepEqual(a, b)
}

func sameMembers(a, b []Group) bool {
	return slices.EqualFunc(a, b, func(x, y Group) bool { return slices.Equal(x.Members, y.Members) })
}

// tables of a host are few and short.
func (h Host) tables() []table { return []table{compileHost(h)} }

func (h Host) beside(known wish) (had, wanted []table) {
	if reflect.DeepEqual(known, h) {
		return nil, nil
	}
	return known.tables(), h.tables()
}
