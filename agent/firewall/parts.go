package firewall

import (
	"reflect"
	"slices"
)

// parts remembers what compiling has found out, for the next time: the names of skeletons, which are hashes of
// long texts. It compares what goes into a name and not the name.
type parts struct {
	last   []table
	config Config // that last was compiled from; the zero Config for a host's table
}

func newParts() *parts { return &parts{} }

// compile is the package's compile, with a memory.
func (p *parts) compile(cfg Config) []table {
	if p.last != nil && identical(p.config, cfg) {
		return p.last
	}
	p.config = cfg
	return p.name(compile(cfg))
}

// identical reports whether two configurations are one, without looking at thousands of interfaces: whoever compiles
// a VPC that has not changed gives the same list again.
func identical(a, b Config) bool {
	if len(a.Interfaces) == 0 || len(a.Interfaces) != len(b.Interfaces) || &a.Interfaces[0] != &b.Interfaces[0] {
		return false
	}
	a.Interfaces, b.Interfaces = nil, nil
	return reflect.DeepEqual(a, b)
}

// name gives tables the names of their layouts.
func (p *parts) name(tables []table) []table {
	for i := range tables {
		t := &tables[i]
		if i < len(p.last) && t.alike(p.last[i]) {
			t.named = p.last[i].named
		} else {
			t.named = t.layout()
		}
	}
	p.last = tables
	return tables
}

// alike reports whether two tables have the same skeleton, hence the same layout.
func (t table) alike(o table) bool {
	return t.family == o.family && t.name == o.name && slices.Equal(t.counters, o.counters) &&
		reflect.DeepEqual(t.skeleton(), o.skeleton())
}

// skeleton is what of a table goes into its layout.
func (t table) skeleton() (s table) {
	for _, c := range t.chains {
		if c.base != nil {
			s.chains = append(s.chains, c)
		}
	}
	for _, k := range t.sets {
		if k.skeleton {
			k.elements = nil
			s.sets = append(s.sets, k)
		}
	}
	return s
}
