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

// settings reads a notice of settings. It tells one that has changed, or all of a link.
func (c *change) settings(m notice.Message) bool {
	for kind, v := range m.Attributes(4) { // struct netconfmsg is one byte, filled up to four
		if len(v) != 4 {
			continue
		}
		n := binary.NativeEndian.Uint32(v)
		if kind == netconfIndex {
			c.index = int(int32(n))
		}
		if want, ok := tapSettings[kind]; ok && n == want {
			c.on |= 1 << kind
		} else if ok {
			c.off |= 1 << kind
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
	messages, err := dump(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETNETCONF, unix.NLM_F_DUMP)
		req.Sockets = s.raw
		req.AddRawData([]byte{unix.AF_INET, 0, 0, 0})
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNETCONF)
	})
	if err != nil {
		return fmt.Errorf("list settings: %w", err)
	}
	clear(s.off)
	for _, data := range messages {
		if c, ok := parseChange(notice.Message{Type: unix.RTM_NEWNETCONF, Data: data}); ok {
			s.note(c)
		}
	}
	return nil
}
