package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// chunk bounds the elements of one message: beyond 64 KiB of them v0.3.0 of the library silently loses some.
const chunk = 500

// buffer is large enough for a batch of 100,000 elements; with the default one a batch may be applied and
// yet answered by "no buffer space".
const buffer = 64 << 20

type syscallConn interface {
	SyscallConn() (syscall.RawConn, error)
}

func dial(fd int) (*nftables.Conn, error) {
	return dialWith(fd, func(syscallConn) error { return nil })
}

// dialWith opens a connection in the namespace fd, and lets see have its socket.
func dialWith(fd int, see func(syscallConn) error) (*nftables.Conn, error) {
	options := []nftables.ConnOption{nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetReadBuffer(buffer), c.SetWriteBuffer(buffer), see(c))
	})}
	if fd > 0 {
		options = append(options, nftables.WithNetNSFd(fd))
	}
	c, err := nftables.New(options...)
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return c, nil
}

// kernelTable is what the kernel has under a table's name.
type kernelTable struct {
	exists bool
	intact bool // same skeleton, no chain lacks a rule
	chains map[string]bool
	sets   map[string]contents
}

func (t table) nft() *nftables.Table { return &nftables.Table{Name: t.name, Family: t.family} }

func look(c *nftables.Conn, t table) (kernelTable, error) {
	have := kernelTable{chains: map[string]bool{}, sets: map[string]contents{}}
	tables, err := c.ListTablesOfFamily(t.family)
	if err != nil {
		return have, err
	}
	if !slices.ContainsFunc(tables, func(k *nftables.Table) bool { return k.Name == t.name }) {
		return have, nil
	}
	have.exists = true
	chains, err := c.ListChainsOfTableFamily(t.family)
	if err != nil {
		return have, err
	}
	wanted := map[string]chain{}
	for _, w := range t.chains {
		wanted[w.name] = w
	}
	have.intact = true
	for _, k := range chains {
		if k.Table.Name != t.name {
			continue
		}
		have.chains[k.Name] = true
		if w, ok := wanted[k.Name]; ok {
			rs, err := c.GetRules(t.nft(), &nftables.Chain{Name: k.Name})
			if err != nil {
				return have, err
			}
			have.intact = have.intact && len(rs) == len(w.rules)
		}
	}
	have.intact = have.intact && have.chains[t.layout()]
	for _, w := range t.chains {
		have.intact = have.intact && (!w.skeleton || have.chains[w.name])
	}
	return have, have.readSets(c, t)
}

func (have kernelTable) readSets(c *nftables.Conn, t table) error {
	sets, err := c.GetSets(t.nft())
	if err != nil {
		return err
	}
	for _, k := range sets {
		if k.Anonymous {
			continue
		}
		have.sets[k.Name] = contents{}
		i := slices.IndexFunc(t.sets, func(s set) bool { return s.name == k.Name })
		if i < 0 || t.sets[i].dynamic {
			continue
		}
		elements, err := c.GetSetElements(&nftables.Set{Table: t.nft(), Name: k.Name})
		if err != nil {
			return fmt.Errorf("read set %s: %w", k.Name, err)
		}
		have.sets[k.Name] = contents{elements: t.sets[i].fromKernel(elements)}
	}
	return nil
}

// id is what makes two elements the same.
func (e element) id() string {
	return string(e.key) + "\x00" + string(e.end) + "\x00" + string(e.value) + "\x00" + e.chain
}

// plainInterval tells sets whose ranges the kernel keeps as separate start and end elements.
func (s set) plainInterval() bool { return s.interval && len(s.key) == 1 }

func (s set) fromKernel(elements []nftables.SetElement) []element {
	got := make([]element, 0, len(elements))
	if s.plainInterval() {
		// Ends are exclusive; where a range touches the next, end and start are both there.
		slices.SortFunc(elements, func(a, b nftables.SetElement) int {
			if c := bytes.Compare(a.Key, b.Key); c != 0 {
				return c
			}
			switch {
			case a.IntervalEnd == b.IntervalEnd:
				return 0
			case a.IntervalEnd:
				return -1
			}
			return 1
		})
		for i, e := range elements {
			if e.IntervalEnd {
				continue
			}
			end := bytes.Repeat([]byte{255}, len(e.Key))
			if i+1 < len(elements) {
				end = before(elements[i+1].Key)
			}
			el := element{key: e.Key, end: end}
			if s.isMap {
				el.chain = verdictChain(e.Val)
			}
			got = append(got, el)
		}
		return got
	}
	for _, e := range elements {
		el := element{key: e.Key, end: e.KeyEnd}
		if s.interval && el.end == nil {
			el.end = el.key
		}
		if s.isMap && s.data.Name == "" {
			el.chain = verdictChain(e.Val)
		} else if s.isMap {
			el.value = e.Val
		}
		got = append(got, el)
	}
	return got
}

// verdictChain reads the chain, or accepted, out of a verdict map's data, which v0.3.0 of the library leaves encoded.
func verdictChain(data []byte) string {
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return ""
	}
	var chain string
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_VERDICT_CHAIN:
			chain = strings.TrimRight(ad.String(), "\x00")
		case unix.NFTA_VERDICT_CODE:
			if data := ad.Bytes(); chain == "" && len(data) == 4 && binary.BigEndian.Uint32(data) == uint32(expr.VerdictAccept) {
				chain = accepted
			}
		}
	}
	return chain
}

func before(key []byte) []byte {
	b := slices.Clone(key)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]--
		if b[i] != 255 {
			break
		}
	}
	return b
}

func after(key []byte) ([]byte, bool) {
	b := slices.Clone(key)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]++
		if b[i] != 0 {
			return b, true
		}
	}
	return nil, false
}

func (s set) toKernel(elements []element) []nftables.SetElement {
	var out []nftables.SetElement
	for _, e := range elements {
		k := nftables.SetElement{Key: e.key, Val: e.value}
		if e.chain == accepted {
			k.VerdictData = &expr.Verdict{Kind: expr.VerdictAccept}
		} else if e.chain != "" {
			k.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: e.chain}
		}
		if s.interval && !s.plainInterval() {
			k.KeyEnd = e.end
		}
		out = append(out, k)
		if end, ok := after(e.end); ok && s.plainInterval() {
			out = append(out, nftables.SetElement{Key: end, IntervalEnd: true})
		}
	}
	return out
}

func (s set) nft(t *nftables.Table) *nftables.Set {
	n := &nftables.Set{
		Table: t, Name: s.name, IsMap: s.isMap, Interval: s.interval, Counter: s.counter, Dynamic: s.dynamic,
		KeyType: s.key[0], Concatenation: s.interval && len(s.key) > 1,
	}
	if len(s.key) > 1 {
		n.KeyType = nftables.MustConcatSetType(s.key...)
	}
	if s.key[0].Name == nftables.TypeIFName.Name {
		n.KeyByteOrder = binaryutil.NativeEndian // else nft(8) prints "" for the name
	}
	if s.isMap {
		n.DataType = s.data
		if s.data.Name == "" {
			n.DataType = nftables.TypeVerdict
		}
	}
	if s.dynamic {
		n.Size = 16384 // without a size the kernel stops at 65,535 and the rule silently stops matching
		n.HasTimeout, n.Timeout = s.forget > 0, s.forget
	}
	return n
}

// batch collects one transaction.
type batch struct {
	c     *nftables.Conn
	dirty bool
}

func (b *batch) table(have kernelTable, want table) error {
	t := want.nft()
	if have.exists && !have.intact {
		b.dirty = true
		b.c.DelTable(t)
		have = kernelTable{}
	}
	if !have.exists {
		b.dirty = true
		b.c.AddTable(t)
		for _, name := range want.counters {
			b.c.AddObj(&nftables.CounterObj{Table: t, Name: name})
		}
		b.c.AddChain(&nftables.Chain{Name: want.layout(), Table: t})
	}
	// What is referred to comes before what refers: sets, chains, rules, elements (verdicts name chains).
	for _, s := range want.sets {
		if _, ok := have.sets[s.name]; !ok {
			b.dirty = true
			if err := b.c.AddSet(s.nft(t), nil); err != nil {
				return err
			}
		}
	}
	b.chains(have, want)
	for _, s := range want.sets {
		if err := b.elements(s, t, have.sets[s.name]); err != nil {
			return err
		}
	}
	b.clean(have, want)
	return nil
}

func (b *batch) chains(have kernelTable, want table) {
	t := want.nft()
	var added []chain
	for _, c := range want.chains {
		if have.chains[c.name] {
			continue
		}
		added = append(added, c)
		n := &nftables.Chain{Name: c.name, Table: t}
		if c.base != nil {
			policy := nftables.ChainPolicyAccept
			if c.base.drop {
				policy = nftables.ChainPolicyDrop
			}
			n.Type, n.Hooknum, n.Priority, n.Policy = c.base.kind, c.base.hook, &c.base.priority, &policy
		}
		b.dirty = true
		b.c.AddChain(n)
	}
	for _, c := range added {
		for _, r := range c.rules {
			b.c.AddRule(&nftables.Rule{Table: t, Chain: &nftables.Chain{Name: c.name, Table: t}, Exprs: r})
		}
	}
}

func (b *batch) elements(s set, t *nftables.Table, have contents) error {
	if s.dynamic {
		return nil
	}
	add, remove := difference(s.contents().beside(have))
	if len(add) == 0 && len(remove) == 0 {
		return nil
	}
	n := s.nft(t)
	for part := range slices.Chunk(s.toKernel(remove), chunk) {
		b.dirty = true
		if err := b.c.SetDeleteElements(n, part); err != nil {
			return fmt.Errorf("delete elements of %s: %w", s.name, err)
		}
	}
	for part := range slices.Chunk(s.toKernel(add), chunk) {
		b.dirty = true
		if err := b.c.SetAddElements(n, part); err != nil {
			return fmt.Errorf("add elements to %s: %w", s.name, err)
		}
	}
	return nil
}

// clean deletes chains and sets that nothing refers to any more, profiles before the groups they jump to.
func (b *batch) clean(have kernelTable, want table) {
	t := want.nft()
	keep := make(map[string]bool, len(want.chains)+1)
	keep[want.layout()] = true
	for _, c := range want.chains {
		keep[c.name] = true
	}
	var stale []string
	for name := range have.chains {
		if !keep[name] {
			stale = append(stale, name)
		}
	}
	slices.SortFunc(stale, func(x, y string) int {
		if px, py := isProfile(x), isProfile(y); px != py {
			if px {
				return -1
			}
			return 1
		}
		return strings.Compare(x, y)
	})
	for _, name := range stale {
		b.dirty = true
		b.c.DelChain(&nftables.Chain{Name: name, Table: t})
	}
	for name := range have.sets {
		if !slices.ContainsFunc(want.sets, func(s set) bool { return s.name == name }) {
			b.dirty = true
			b.c.DelSet(&nftables.Set{Table: t, Name: name})
		}
	}
}

func isProfile(chain string) bool {
	return strings.HasPrefix(chain, "in_") || strings.HasPrefix(chain, "out_")
}
