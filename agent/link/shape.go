package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A guest has one bandwidth, however many interfaces. So what its taps send and receive goes through two links that they
// share, one for each direction, and there through a token bucket:
//
//	guest -> tap -> [ingress] -> u... (tbf) -> rules, routes        routes, rules -> [egress] -> d... (tbf) -> tap -> guest
//
// A tap without a limit has neither of the hooks, and costs what it did.

// Shaper bounds what the guest of some taps sends, and what it receives.
type Shaper struct {
	Name string // of its two links, but for a letter in front; empty: there is no bound
	Rate uint64 // bytes a second that last
	Peak uint64 // bytes a second while what was saved below Rate is spent; zero, or not above Rate: nothing is saved
}

const groupShaper = 12

// Of a tap's hook: both directions have one filter each, with priorities of their own since u32 has one table for both.
const (
	hook        = 0xffff0000 // handle of clsact
	sent        = netlink.HANDLE_MIN_INGRESS
	received    = netlink.HANDLE_MIN_EGRESS
	bucketMajor = 1 << 16 // handle of the token bucket
)

// shape is what the kernel has of a shaper: the links' indexes by direction, zero for one that is not there.
type shape struct {
	Shaper
	links [2]int
}

// shapes are the shapers of a namespace.
type shapes struct {
	is    map[string]shape // by name
	names map[int]string   // by index of the link
}

func newShapes() *shapes { return &shapes{map[string]shape{}, map[int]string{}} }

func (w *shapes) put(is shape) {
	w.is[is.Name] = is
	for n, name := range is.Shaper.names() {
		w.names[is.links[n]] = name
	}
}

func (w *shapes) drop(is shape) {
	delete(w.is, is.Name)
	for _, index := range is.links {
		delete(w.names, index)
	}
}

func (w Shaper) names() [2]string { return [2]string{"u" + w.Name, "d" + w.Name} }

// steady reports whether nothing is saved.
func (w Shaper) steady() bool { return w.Peak <= w.Rate }

const (
	// A burst that ends at once: some packets of a segmented stream. It is also how far a guest may run ahead of its peak.
	packets = 128 << 10
	// What a guest saves while it is idle, in seconds of what lasts and in bytes: the most that the kernel can tell of in 32
	// bits, of 64 ns and of one byte. EC2's bucket is larger; this one holds the image of a small system.
	saveSeconds = (1 << 32) * 64 / 1_000_000_000
	saveBytes   = 1<<32 - 1
	// What waits in a queue: no longer than this at the lasting rate, but room for packets of any kind.
	patience = 20 // parts of a second
)

func (w Shaper) limit() uint32 {
	return uint32(min(max(w.Rate/patience, 2*packets), 1<<31))
}

// shaped reports whether a network has limits, or had them: else nobody looks at queues.
func (v *view) shaped(want Network) bool {
	return slices.ContainsFunc(want.Taps, func(t *Tap) bool { return t.Shaper.Name != "" }) || slices.ContainsFunc(v.links, isShaper)
}

func isShaper(l netlink.Link) bool { return l.Type() == "ifb" }

// queues reads the queues of all links, by link.
func (s *Space) queues(v *view, want Network) error {
	if !v.shaped(want) {
		return nil
	}
	list, err := dump(func() ([]netlink.Qdisc, error) { return s.h.QdiscList(nil) })
	if err != nil {
		return fmt.Errorf("list queues: %w", err)
	}
	v.queues = map[int][]netlink.Qdisc{}
	for _, q := range list {
		v.queues[q.Attrs().LinkIndex] = append(v.queues[q.Attrs().LinkIndex], q)
	}
	return nil
}

func (v *view) hooked(index int) bool {
	return slices.ContainsFunc(v.queues[index], func(q netlink.Qdisc) bool { return q.Type() == "clsact" })
}

// bounded reports whether a link has the token bucket that is wanted.
func (v *view) bounded(index int, want Shaper) bool {
	return slices.ContainsFunc(v.queues[index], func(q netlink.Qdisc) bool {
		t, ok := q.(*netlink.Tbf)
		return ok && t.Handle == bucketMajor && t.Rate == want.Rate && t.Limit == want.limit() && (t.Peakrate == want.Peak || want.steady() && t.Peakrate == 0)
	})
}

// unshape takes away the limits that no tap has any more: the taps' hooks first, for a hook without its link drops.
func (s *Space) unshape(want Network, v *view) error {
	if v.queues == nil {
		return nil
	}
	wanted, taps := map[string]bool{}, map[string]bool{}
	for _, t := range want.Taps {
		if taps[t.Name] = t.Shaper.Name != ""; taps[t.Name] {
			for _, name := range t.Shaper.names() {
				wanted[name] = true
			}
		}
	}
	var doomed []device
	for _, l := range v.links {
		a := l.Attrs()
		switch {
		case isTap(l) && !taps[a.Name] && v.hooked(a.Index):
			if err := s.unhook(a.Index); err != nil {
				return err
			}
		case isShaper(l) && !wanted[a.Name]:
			doomed = append(doomed, device{a.Name, a.Index})
		}
	}
	return s.deleteTaps(doomed)
}

// shapes makes the shapers and joins the taps to them; at has the taps' indexes.
func (s *Space) shapes(want Network, v *view, at map[string]int) (*shapes, error) {
	have := newShapes()
	for _, t := range want.Taps {
		if t.Shaper.Name == "" {
			continue
		}
		if err := s.shape(t.Shaper, v, have); err != nil {
			return nil, err
		}
		ok, err := s.joined(at[t.Name], have.is[t.Shaper.Name], v)
		if err == nil && !ok {
			err = s.join(at[t.Name], have.is[t.Shaper.Name])
		}
		if err != nil {
			return nil, fmt.Errorf("shape tap %s: %w", t.Name, err)
		}
	}
	return have, nil
}

// shape makes a shaper what it should be, unless have knows it already. Of what have does not know, v tells.
func (s *Space) shape(want Shaper, v *view, have *shapes) error {
	is, known := have.is[want.Name]
	if known && is.Shaper == want {
		return nil
	}
	for n, name := range want.names() {
		l := v.byName[name]
		if is.links[n] == 0 && l == nil {
			link := &netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: name, Group: groupShaper, Flags: net.FlagUp}}
			if err := s.h.LinkAdd(link); err != nil {
				return fmt.Errorf("make %s: %w", name, err)
			}
			var err error
			if l, err = s.h.LinkByName(name); err != nil {
				return fmt.Errorf("find %s: %w", name, err)
			}
		}
		if l != nil {
			is.links[n] = l.Attrs().Index
			if l.Attrs().Flags&net.FlagUp == 0 {
				if err := s.h.LinkSetUp(l); err != nil {
					return fmt.Errorf("set %s up: %w", name, err)
				}
			}
		}
		if known || !v.bounded(is.links[n], want) {
			if err := s.bound(is.links[n], want); err != nil {
				return fmt.Errorf("bound %s: %w", name, err)
			}
		}
	}
	is.Shaper = want
	have.put(is)
	return nil
}

// bound gives a link a token bucket, or changes the one it has. The library's request cannot say a burst in bytes, and
// what it says instead the kernel cuts off after four seconds (net/sched/sch_tbf.c, tbf_change).
func (s *Space) bound(index int, want Shaper) error {
	burst, peak := uint32(packets), uint64(0)
	if !want.steady() {
		burst, peak = uint32(min(want.Rate*saveSeconds, saveBytes)), want.Peak
	}
	q := nl.TcTbfQopt{Rate: rate(want.Rate), Peakrate: rate(peak), Limit: want.limit()}
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	options.AddRtAttr(nl.TCA_TBF_PARMS, q.Serialize())
	options.AddRtAttr(nl.TCA_TBF_BURST, nl.Uint32Attr(burst))
	if want.Rate >= 1<<32 {
		options.AddRtAttr(nl.TCA_TBF_RATE64, nl.Uint64Attr(want.Rate))
	}
	if peak > 0 {
		options.AddRtAttr(nl.TCA_TBF_PBURST, nl.Uint32Attr(packets))
		if peak >= 1<<32 {
			options.AddRtAttr(nl.TCA_TBF_PRATE64, nl.Uint64Attr(peak))
		}
	}
	req := nl.NewNetlinkRequest(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
	req.Sockets = s.raw
	req.AddData(&nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(index), Handle: bucketMajor, Parent: netlink.HANDLE_ROOT})
	req.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("tbf")))
	req.AddData(options)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// rate is bytes a second as the kernel takes them; of what has more than 32 bits an attribute of its own tells.
func rate(bytes uint64) nl.TcRateSpec {
	return nl.TcRateSpec{Linklayer: nl.LINKLAYER_ETHERNET, Rate: uint32(min(bytes, 1<<32-1))}
}

// joined reports whether a tap's packets go through the shaper in both directions, and through nothing else.
func (s *Space) joined(tap int, to shape, v *view) (bool, error) {
	if !v.hooked(tap) {
		return false, nil
	}
	l := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: tap}}
	for n, parent := range []uint32{sent, received} {
		filters, err := dump(func() ([]netlink.Filter, error) { return s.h.FilterList(l, parent) })
		if err != nil {
			return false, fmt.Errorf("list filters: %w", err)
		}
		if len(filters) != 1 {
			return false, nil
		}
		f, ok := filters[0].(*netlink.U32)
		if !ok || f.RedirIndex != to.links[n] && !redirects(f.Actions, to.links[n]) {
			return false, nil
		}
	}
	return true, nil
}

func redirects(actions []netlink.Action, to int) bool {
	return slices.ContainsFunc(actions, func(a netlink.Action) bool {
		m, ok := a.(*netlink.MirredAction)
		return ok && m.Ifindex == to
	})
}

// join leads a tap's packets through a shaper. What hook it had goes first.
func (s *Space) join(tap int, to shape) error {
	if err := s.unhook(tap); err != nil {
		return err
	}
	attrs := netlink.QdiscAttrs{LinkIndex: tap, Handle: hook, Parent: netlink.HANDLE_CLSACT}
	if err := s.h.QdiscAdd(&netlink.GenericQdisc{QdiscAttrs: attrs, QdiscType: "clsact"}); err != nil {
		return fmt.Errorf("hook: %w", err)
	}
	for n, parent := range []uint32{sent, received} {
		f := &netlink.U32{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: tap, Parent: parent, Priority: uint16(n + 1), Protocol: unix.ETH_P_ALL},
			Actions:     []netlink.Action{netlink.NewMirredAction(to.links[n])},
		}
		if err := s.h.FilterAdd(f); err != nil {
			return fmt.Errorf("lead to link %d: %w", to.links[n], err)
		}
	}
	return nil
}

// unhook is not an error if there is none.
func (s *Space) unhook(tap int) error {
	attrs := netlink.QdiscAttrs{LinkIndex: tap, Handle: hook, Parent: netlink.HANDLE_CLSACT}
	err := s.h.QdiscDel(&netlink.GenericQdisc{QdiscAttrs: attrs, QdiscType: "clsact"})
	if err == nil || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return fmt.Errorf("unhook link %d: %w", tap, err)
}

// unshapeKnown is unshape for taps that went or changed, by memory: left are the taps that stay.
func (s *Space) unshapeKnown(m *memory, changed, left []*Tap, want Network) error {
	var doomed []device
	for _, t := range changed {
		is, ok := m.shapes.is[t.Shaper.Name]
		if t.Shaper.Name == "" || !ok {
			continue
		}
		if slices.ContainsFunc(want.Taps, func(w *Tap) bool { return w.Shaper.Name == t.Shaper.Name }) {
			continue
		}
		for _, l := range left {
			if l.Shaper.Name == t.Shaper.Name {
				if err := s.unhook(m.at[l.Name]); err != nil {
					return err
				}
			}
		}
		for n, name := range t.Shaper.names() {
			doomed = append(doomed, device{name, is.links[n]})
		}
		m.shapes.drop(is)
	}
	return s.deleteTaps(doomed)
}

// shapeKnown makes the limit of one tap, which was old before, by memory.
func (s *Space) shapeKnown(m *memory, t Tap, old *Tap, index int) error {
	if t.Shaper.Name == "" {
		if old != nil && old.Shaper.Name != "" {
			return s.unhook(index)
		}
		return nil
	}
	if err := s.shape(t.Shaper, &view{}, m.shapes); err != nil {
		return err
	}
	if old != nil && old.Shaper.Name == t.Shaper.Name {
		return nil
	}
	if err := s.join(index, m.shapes.is[t.Shaper.Name]); err != nil {
		return fmt.Errorf("shape tap %s: %w", t.Name, err)
	}
	return nil
}

// fits reports whether a notice of a shaper's link is as the memory has it.
func (m *memory) fits(c change, inside bool) bool {
	if name, ours := m.shapes.names[c.index]; ours {
		return !c.gone && c.up && c.name == name
	}
	return c.gone || inside
}

// Excess is what a shaper has dropped: packets that its guest sent, or that it was sent, beyond its bandwidth.
type Excess struct{ Sent, Received uint64 }

// Excess returns what was dropped, by the shaper's name.
func (s *Space) Excess() (map[string]Excess, error) {
	s.work.Lock()
	defer s.work.Unlock()
	if s.memory == nil || len(s.memory.shapes.is) == 0 {
		return nil, nil
	}
	list, err := dump(func() ([]netlink.Qdisc, error) { return s.h.QdiscList(nil) })
	if err != nil {
		return nil, fmt.Errorf("list queues: %w", err)
	}
	dropped := map[int]uint64{}
	for _, q := range list {
		if st := q.Attrs().Statistics; q.Type() == "tbf" && st != nil && st.Queue != nil {
			dropped[q.Attrs().LinkIndex] = uint64(st.Queue.Drops)
		}
	}
	out := map[string]Excess{}
	for name, is := range s.memory.shapes.is {
		out[name] = Excess{Sent: dropped[is.links[0]], Received: dropped[is.links[1]]}
	}
	return out, nil
}

// queue reads a notice of a queue or a filter. What tells it from others of its link goes where routes have their table.
func (c *change) queue(data []byte) bool {
	c.index = int(int32(binary.NativeEndian.Uint32(data[4:])))
	c.table = binary.NativeEndian.Uint32(data[12:])
	return true
}
