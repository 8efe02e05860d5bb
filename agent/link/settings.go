package link

import (
	"encoding/binary"
	"fmt"

	"github.com/ichiro-metal/ichiro/agent/notice"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// settings is a set of those sysctls of a link that the kernel tells of: with the others a stranger may do what he likes
// until the tap is made anew.
type settings uint8

// Attributes of linux/netconf.h.
const (
	netconfIndex      = 1
	netconfForwarding = 2
	netconfFilter     = 3 // rp_filter
	netconfProxy      = 5 // proxy_arp
)

// tapSettings are what a tap has.
var tapSettings = map[uint16]uint32{netconfForwarding: 1, netconfFilter: 0, netconfProxy: 1}

// forwarding6 is IPv6's, which only matters where a tap has IPv6.
const forwarding6 settings = 1 << 7

// settings reads a notice of settings. It tells one that has changed, or all of a link.
func (c *change) settings(m notice.Message) bool {
	six := m.Data[0] == unix.AF_INET6
	for kind, v := range m.Attributes(4) { // struct netconfmsg is one byte, filled up to four
		if len(v) != 4 {
			continue
		}
		n := binary.NativeEndian.Uint32(v)
		if kind == netconfIndex {
			c.index = int(int32(n))
		}
		bit, want := settings(1)<<kind, uint32(1)
		if six {
			bit = forwarding6
		} else if w, ok := tapSettings[kind]; ok {
			want = w
		} else {
			continue
		}
		switch {
		case six && kind != netconfForwarding:
		case n == want:
			c.on |= bit
		default:
			c.off |= bit
		}
	}
	return true
}

// note keeps what a link does not have as it should, whether there is a memory or not: what is told is told once.
func (s *Space) note(c change) {
	if c.kind == ofLink && c.gone {
		delete(s.off, c.index)
	}
	if c.kind != ofSettings || c.index <= 0 { // the namespace's own are prepare's to repair
		return
	}
	if off := s.off[c.index]&^c.on | c.off; off != 0 {
		s.off[c.index] = off
	} else {
		delete(s.off, c.index)
	}
}

// readSettings reads what of all links is not as it should be: one dump, however many there are.
func (s *Space) readSettings() error {
	s.listen(true) // what is in the socket is older
	clear(s.off)
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		messages, err := dump(func() ([][]byte, error) {
			req := nl.NewNetlinkRequest(unix.RTM_GETNETCONF, unix.NLM_F_DUMP)
			req.Sockets = s.raw
			req.AddRawData([]byte{family, 0, 0, 0})
			return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNETCONF)
		})
		if err != nil {
			return fmt.Errorf("list settings: %w", err)
		}
		for _, data := range messages {
			if c, ok := parseChange(notice.Message{Type: unix.RTM_NEWNETCONF, Data: data}); ok {
				s.note(c)
			}
		}
	}
	return nil
}

// mended takes note of settings that were made as they should be.
func (s *Space) mended(index int, which settings) {
	if s.off[index] &^= which; s.off[index] == 0 {
		delete(s.off, index)
	}
}

// amiss returns what a tap does not have as it should.
func (s *Space) amiss(index int, t Tap) settings {
	if !t.six() {
		return s.off[index] &^ forwarding6
	}
	return s.off[index]
}
