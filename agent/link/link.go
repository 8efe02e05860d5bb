// Package link makes the kernel's devices, routes and neighbours of this host's guests what they should be.
//
// Every VPC is one network namespace (/run/netns/PREFIX-VPC), so that two VPCs may use the same addresses
// and no guest shares a table with a stranger. In it every network interface of a guest is one persistent
// tap, alone on its own link: there is no bridge to flood or to poison. The guest's address is a /32 route
// to the tap with a permanent neighbour, the kernel answers ARP for all other addresses (proxy_arp) with the
// one router MAC, gateways and link-local services are /32 addresses on lo. A veth pair (up0 inside, a
// PREFIX-... name outside) leads to the root namespace and, through its masquerade, out. IPv6 is the same with /128
// routes, where a VPC has a block of it, but for who answers for neighbours (six.go) and for the way out (uplink6.go).
//
//	guest -- tap -- [ namespace of the VPC ] -- up0 == PREFIX-xxxxxx -- root namespace -- uplink
//
// A VPC that other hosts have guests of, too, has a VXLAN device in its namespace: see overlay.go.
//
// A guest whose type has a bandwidth has two links more in the namespace, shared by all its taps, with a token bucket each:
// see shape.go.
//
// The kernel's state is the only memory: every call reads it, compares it with the wish and changes the
// difference. All names in the root namespace start with the host's prefix, so that several hosts can live
// on one machine and Remove finds what is left of one. Taps are persistent: an agent that dies loses no packet.
//
// agent/eni calls Prune, Ensure and Attach in the order in which no packet can pass unfiltered.
package link

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/ichiro-metal/ichiro/agent/notice"
	"github.com/vishvananda/netlink"
)

// Groups of links: the firewall knows links by them. Links of no group are treated as taps.
const (
	GroupTap    = 10
	GroupUplink = 20
	groupDoomed = 11 // taps on their way out, to be deleted together
)

// Uplink is the name of the uplink inside each namespace.
const Uplink = "up0"

// RouterMAC is the hardware address of the router on every tap: locally administered, "ichi" and 1.
var RouterMAC = [6]byte{0x02, 'i', 'c', 'h', 'i', 0x01}

// Config is the whole wanted state of a host's links.
type Config struct {
	Outside  string       // link of the root namespace that leads out; empty: that of the default route
	Pool     netip.Prefix // addresses of the uplinks are taken from here
	Underlay netip.Addr   // where other hosts reach this one; zero: nowhere
	Networks []Network
}

// Network is one VPC's namespace.
type Network struct {
	Name   string         // the namespace is PREFIX-Name
	Local  []netip.Addr   // gateways and link-local services
	Closed []netip.Prefix // the VPC's own addresses: those without a guest are nowhere
	Public []netip.Addr   // reach the namespace by its uplink
	Taps   []*Tap         // not to be changed any more
	Via    []Via

	Overlay uint32 // the network's number among hosts; 0: it is on this one only
	Peers   []Peer

	Local6  []netip.Addr   // of IPv6
	Closed6 []netip.Prefix // the VPC's own addresses of IPv6; none: it has no IPv6
	Routed6 []netip.Prefix // those of them that this machine's neighbours route to it
}

// Via leads packets that bear a mark to a guest, or to the host that has it, whatever their destination.
type Via struct {
	Mark uint32     // within 29 bits
	Tap  string     // empty: To is another host
	To   netip.Addr // an address of that tap, or the host's on the underlay
}

// Tap is one interface of a guest.
type Tap struct {
	Name      string
	Alias     string // for operators: the interface's ID
	MTU       int
	Owner     uint32
	Guest     [6]byte
	Addresses []netip.Addr
	Prefixes  []netip.Prefix // behind the first address
	Shaper    Shaper

	Addresses6 []netip.Addr // of IPv6
	Prefixes6  []netip.Prefix
}

// Range is the pair of addresses of one network's uplink, as the firewall needs it.
type Range struct {
	Network string
	Veth    string // name in the root namespace
	Prefix  netip.Prefix
	index   int // of the veth
	outside int // index of the link that leads out; 0: there is none yet
}

// Links owns all links of one host.
type Links struct {
	prefix string
	log    *slog.Logger
	root   *netlink.Handle

	mu     sync.Mutex
	spaces map[string]*Space
	made   map[string]made // uplinks that the root namespace is known to have, by network
	// The public addresses are known to be as wanted.
	published bool

	one     sync.Mutex // one change of the root namespace at a time: held over I/O
	ear     sync.Mutex // guards what follows, and is held while notices are read
	notices *notice.Socket
	blame   []string
	unsure  bool // what came while we changed something may have been a stranger's
}

// New returns the links of the host with this prefix, see ValidPrefix.
func New(prefix string, log *slog.Logger) (*Links, error) {
	if err := ValidPrefix(prefix); err != nil {
		return nil, err
	}
	h, err := netlink.NewHandle()
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &Links{prefix: prefix, log: log, root: h, spaces: map[string]*Space{}, made: map[string]made{}}, nil
}

// Close lets go of the namespaces; what is in them stays.
func (l *Links) Close() {
	l.ear.Lock() // before mu, as everywhere
	if l.notices != nil {
		l.notices.Close()
		l.notices = nil
	}
	l.ear.Unlock()
	l.mu.Lock()
	spaces := l.spaces
	l.spaces = map[string]*Space{}
	l.mu.Unlock()
	for _, s := range spaces {
		s.close()
	}
	l.root.Close()
}

// ValidPrefix reports whether names made of the prefix fit into the kernel's 15 bytes: 2 to 8 lower case
// letters and digits, a letter first.
func ValidPrefix(prefix string) error {
	ok := len(prefix) >= 2 && len(prefix) <= 8 && prefix[0] >= 'a'
	for _, c := range []byte(prefix) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9')
	}
	if !ok {
		return fmt.Errorf("host prefix %q: use 2 to 8 lower case letters and digits", prefix)
	}
	return nil
}

// Space returns the namespace of a network, opening the one that an earlier agent has left.
func (l *Links) Space(network string) (*Space, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.spaces[network]; s != nil {
		return s, nil
	}
	s, err := openSpace(l.prefix + "-" + network)
	if err != nil {
		return nil, err
	}
	l.spaces[network] = s
	return s, nil
}

// Networks lists the networks whose namespaces exist, wished or not.
func (l *Links) Networks() ([]string, error) { return listSpaces(l.prefix) }

// Released is what Prune took away: addresses by network. Their connections must be forgotten.
type Released map[string][]netip.Addr

// Prune removes taps, routes and neighbours that are not wished, and nothing else.
func (l *Links) Prune(want Config) (Released, error) {
	names, err := l.Networks()
	if err != nil {
		return nil, err
	}
	wanted := map[string]Network{}
	for _, n := range want.Networks {
		wanted[n.Name] = n
	}
	released := Released{}
	var errs []error
	for _, name := range names {
		s, err := l.Space(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the file of a half-made one, which Ensure or Drop deals with
		}
		if err == nil {
			var gone []netip.Addr
			s.work.Lock()
			gone, err = s.prune(wanted[name])
			s.work.Unlock()
			if len(gone) > 0 {
				released[name] = gone
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("prune %s: %w", name, err))
		}
	}
	return released, errors.Join(errs...)
}

// Ensure makes the wanted namespaces with everything but taps, and returns their uplinks. That a network cannot be joined to
// other hosts is an error that keeps nothing from its guests here.
func (l *Links) Ensure(want Config) ([]Range, error) {
	var ranges []Range
	var errs []error
	l.one.Lock()
	defer l.one.Unlock()
	l.hear(false)
	l.lookAgain()
	defer l.hear(true)
	for _, n := range want.Networks {
		r, err := l.ensure(want, n)
		if err != nil {
			errs = append(errs, fmt.Errorf("make network %s: %w", n.Name, err))
		}
		if r.Network == "" {
			continue
		}
		ranges = append(ranges, r)
	}
	errs = append(errs, l.publishAll(want, ranges))
	return ranges, errors.Join(errs...)
}

func (l *Links) ensure(want Config, n Network) (Range, error) {
	if r, ok := l.ensured(want, n); ok {
		return r, nil
	}
	fresh, err := createSpace(l.prefix + "-" + n.Name)
	if err != nil {
		return Range{}, err
	}
	l.mu.Lock()
	if s := l.spaces[n.Name]; s != nil && (fresh || !s.there()) { // somebody has deleted or replaced the one we hold
		s.close()
		delete(l.spaces, n.Name)
	}
	l.mu.Unlock()
	s, err := l.Space(n.Name)
	if err != nil {
		return Range{}, err
	}
	s.work.Lock()
	defer s.work.Unlock()
	s.doubt("") // what follows is not made from memory
	if err := s.prepare(n); err != nil {
		return Range{}, err
	}
	r, err := l.uplink(want, n, s)
	if err != nil {
		return Range{}, err
	}
	m := made{outside: want.Outside, pool: want.Pool, underlay: want.Underlay, up: r, public: n.Public, routed: n.Routed6}
	if err = l.overlay(want, n, s); err != nil {
		m.underlay = netip.Addr{} // so that the next call tries again
	}
	l.mu.Lock()
	l.made[n.Name] = m
	l.published = false
	l.mu.Unlock()
	return r, err
}

// Attach makes the taps with their neighbours and routes, and returns their indexes by network and name.
func (l *Links) Attach(want Config) (map[string]map[string]int, error) {
	indexes := map[string]map[string]int{}
	var errs []error
	for _, n := range want.Networks {
		s, err := l.Space(n.Name)
		if err == nil {
			l.mu.Lock()
			up := l.made[n.Name].up
			l.mu.Unlock()
			s.work.Lock()
			indexes[n.Name], err = s.attach(n, up)
			s.work.Unlock()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("attach taps of %s: %w", n.Name, err))
		}
	}
	return indexes, errors.Join(errs...)
}

// Drop deletes a network: its taps, its uplink and its namespace. It is not an error if there is none.
func (l *Links) Drop(network string) error {
	l.mu.Lock()
	s := l.spaces[network]
	delete(l.spaces, network)
	delete(l.made, network)
	l.published = false
	l.mu.Unlock()
	l.one.Lock()
	defer l.one.Unlock()
	l.hear(false)
	defer l.hear(true)
	if s != nil {
		s.close()
	}
	err := dropNetwork(l.root, l.prefix, network)
	l.mu.Lock()
	again := l.spaces[network] // who read counters meanwhile has opened it once more
	delete(l.spaces, network)
	l.mu.Unlock()
	if again != nil {
		again.close()
	}
	return err
}

func dropNetwork(root *netlink.Handle, prefix, network string) error {
	name := prefix + "-" + network
	if err := withdraw(root, vethName(prefix, network)); err != nil {
		return err
	}
	if s, err := openSpace(name); err == nil {
		// An open tap keeps its namespace alive: its taps are deleted here, not left to it.
		err := errors.Join(s.deleteGroup(GroupTap), s.deleteGroup(groupShaper), s.deleteGroup(groupDoomed), s.deleteGroup(GroupPeer))
		s.close()
		if err != nil {
			return fmt.Errorf("delete links of %s: %w", name, err)
		}
	}
	if err := deleteLink(root, vethName(prefix, network)); err != nil {
		return err
	}
	return deleteSpace(name)
}

// Remove deletes all that a host with this prefix has made, whether its agent lives or not.
func Remove(prefix string) error {
	if err := ValidPrefix(prefix); err != nil {
		return err
	}
	root, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer root.Close()
	networks, err := listSpaces(prefix)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range networks {
		errs = append(errs, dropNetwork(root, prefix, n))
	}
	links, err := listLinks(root)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, link := range links { // a pair whose namespace went without it
		if name := link.Attrs().Name; ownVeth(prefix, name) {
			errs = append(errs, withdraw(root, name), deleteLink(root, name))
		}
	}
	return errors.Join(append(errs, unforward(prefix))...)
}
