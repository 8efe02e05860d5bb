package link

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Flow is a tracked connection: as its first packet came, and as answers to it come. Ports are zero where the
// protocol has none.
type Flow struct {
	Protocol                      uint8
	Source, Destination           netip.AddrPort
	ReplySource, ReplyDestination netip.AddrPort
}

// stale matches the entries of the connection table that a function says to be.
type stale func(Flow) bool

func (s stale) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	return s(Flow{
		Protocol: f.Forward.Protocol,
		Source:   end(f.Forward.SrcIP, f.Forward.SrcPort), Destination: end(f.Forward.DstIP, f.Forward.DstPort),
		ReplySource: end(f.Reverse.SrcIP, f.Reverse.SrcPort), ReplyDestination: end(f.Reverse.DstIP, f.Reverse.DstPort),
	})
}

func end(ip net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}

// Cut deletes the tracked connections that are over, and no other; it returns how many those were.
func (s *Space) Cut(over func(Flow) bool) (int, error) {
	s.work.Lock()
	defer s.work.Unlock()
	var all uint
	families := []netlink.InetFamily{unix.AF_INET}
	if s.six {
		families = append(families, unix.AF_INET6)
	}
	for _, family := range families {
		_, err := dump(func() ([]struct{}, error) {
			n, err := s.h.ConntrackDeleteFilters(netlink.ConntrackTable, family, stale(over))
			all += n
			return nil, err
		})
		if err != nil {
			return int(all), fmt.Errorf("cut connections: %w", err)
		}
	}
	return int(all), nil
}

// Forgotten tells that Cut has deleted the connections of the addresses with others, as Forget does.
func (s *Space) Forgotten(addrs []netip.Addr) {
	s.work.Lock()
	defer s.work.Unlock()
	for _, a := range addrs {
		delete(s.owed, a)
	}
}
