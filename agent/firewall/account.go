package firewall

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// Count is what a rule or an element has seen.
type Count struct{ Packets, Bytes uint64 }

// Drop is what was dropped of one interface for one reason; ARP's reasons begin with arp_.
type Drop struct {
	Interface, Reason string
	Count
}

// Sent is what an interface has sent from one of its addresses.
type Sent struct {
	Interface string
	Address   netip.Addr
	Count
}

// Account reads what a namespace's rules have counted for the interfaces that are known. What they have counted for others
// is deleted: the sets have a size, and must not fill up with interfaces that are gone.
func Account(fd int, known func(name string) bool) (drops []Drop, sent []Sent, err error) {
	c, err := dial(fd)
	if err != nil {
		return nil, nil, err
	}
	defer c.CloseLasting()
	filter := &nftables.Table{Name: "eni", Family: nftables.TableFamilyINet}
	arp := &nftables.Table{Name: "eni", Family: nftables.TableFamilyARP}
	var stale int
	read := func(t *nftables.Table, prefix, reason string) error {
		d, gone, err := dropsOf(c, t, reason, known)
		for i := range d {
			d[i].Reason = prefix + d[i].Reason
		}
		drops, stale = append(drops, d...), stale+gone
		return err
	}
	for _, r := range reasons {
		if err := read(filter, "", r.name); err != nil {
			return nil, nil, err
		}
	}
	for _, r := range arpReasons {
		if err := read(arp, "arp_", r); err != nil {
			return nil, nil, err
		}
	}
	if stale > 0 {
		if err := c.Flush(); err != nil {
			return nil, nil, fmt.Errorf("forget interfaces that are gone: %w", err)
		}
	}
	sets, err := c.GetSets(filter)
	if err != nil {
		return nil, nil, fmt.Errorf("list sets: %w", err)
	}
	for _, k := range sets {
		if k.Name != "src4" && k.Name != "src6" {
			continue
		}
		elements, err := c.GetSetElements(&nftables.Set{Table: filter, Name: k.Name})
		if err != nil {
			return nil, nil, fmt.Errorf("read set %s: %w", k.Name, err)
		}
		for _, e := range elements {
			if a, ok := netip.AddrFromSlice(e.Key[min(len(e.Key), 24):]); ok && e.Counter != nil { // behind name and MAC
				sent = append(sent, Sent{nameOf(e.Key[:16]), a, Count{e.Counter.Packets, e.Counter.Bytes}})
			}
		}
	}
	slices.SortFunc(drops, func(a, b Drop) int { return strings.Compare(a.Interface+a.Reason, b.Interface+b.Reason) })
	return drops, sent, nil
}

func dropsOf(c *nftables.Conn, t *nftables.Table, reason string, known func(string) bool) (drops []Drop, stale int, err error) {
	s := dropped(reason)
	elements, err := c.GetSetElements(&nftables.Set{Table: t, Name: s.name})
	if err != nil {
		return nil, 0, fmt.Errorf("read set %s: %w", s.name, err)
	}
	var gone []nftables.SetElement
	for _, e := range elements {
		name := nameOf(e.Key)
		switch {
		case !known(name):
			gone = append(gone, nftables.SetElement{Key: e.Key})
		case e.Counter != nil:
			drops = append(drops, Drop{name, reason, Count{e.Counter.Packets, e.Counter.Bytes}})
		}
	}
	for part := range slices.Chunk(gone, chunk) {
		if err := c.SetDeleteElements(s.nft(t), part); err != nil {
			return nil, 0, fmt.Errorf("delete elements of %s: %w", s.name, err)
		}
	}
	return drops, len(gone), nil
}

func nameOf(key []byte) string { return string(bytes.TrimRight(key, "\x00")) }

// ReadMoved returns which addresses a namespace's rules lead to others; none where there are no rules.
func ReadMoved(fd int) (from []netip.Addr, err error) {
	c, err := dial(fd)
	if err != nil {
		return nil, err
	}
	defer c.CloseLasting()
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	t := &nftables.Table{Name: "enat", Family: nftables.TableFamilyIPv4}
	if !slices.ContainsFunc(tables, func(k *nftables.Table) bool { return k.Name == t.Name }) {
		return nil, nil
	}
	sets, err := c.GetSets(t)
	if err != nil {
		return nil, fmt.Errorf("list maps: %w", err)
	}
	if !slices.ContainsFunc(sets, func(k *nftables.Set) bool { return k.Name == "moved" }) {
		return nil, nil // an agent of another version made them
	}
	elements, err := c.GetSetElements(&nftables.Set{Table: t, Name: "moved"})
	if err != nil {
		return nil, fmt.Errorf("read map moved: %w", err)
	}
	for _, e := range elements {
		if len(e.Key) == 4 {
			from = append(from, netip.AddrFrom4([4]byte(e.Key)))
		}
	}
	return from, nil
}
