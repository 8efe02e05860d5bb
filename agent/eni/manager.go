package eni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/agent/dhcp"
	"github.com/ichiro-metal/ichiro/agent/firewall"
	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/agent/presence"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/delta"
)

// Manager carries out Configs. One process has one, for one host.
type Manager struct {
	prefix string
	log    *slog.Logger
	links  *link.Links
	dhcp   *dhcp.Server
	ipv6   configurers

	presence *presence.Server

	connections uint32        // that the root namespace tracks of one VPC; zero: all
	stale       chan struct{} // somebody else has changed something
	moved       chan struct{} // an Apply may have made or dropped namespaces

	one      sync.Mutex                  // one Apply at a time: it guards the kernel, and so is held over I/O
	last     *Config                     // guarded by one
	plan     Plan                        // guarded by one: of last
	told     map[string]*served          // guarded by one: by network, what the DHCP server answers
	cuts     map[string]firewall.Config  // guarded by one: by network, the rules that its connections have been judged by
	compiler *compiler                   // guarded by one
	missing  map[string][]netip.Addr     // guarded by one: by namespace, addresses that guests do not have
	led      map[string][]firewall.Moved // guarded by one: by network, what has been logged of them
	ways     map[string][]firewall.Way   // guarded by one: the same of what is led to other interfaces
	host     *firewall.Rules
	rules    map[*link.Space]*firewall.Rules // guarded by mu too

	mu      sync.Mutex
	applied Config
}

// New returns the manager of the host with this prefix. It changes nothing yet.
func New(prefix string, log *slog.Logger) (*Manager, error) {
	links, err := link.New(prefix, log)
	if err != nil {
		return nil, err
	}
	return &Manager{
		prefix: prefix, log: log, links: links, dhcp: dhcp.New(log), ipv6: newConfigurers(log), cuts: map[string]firewall.Config{},
		connections: share(), presence: presence.New(), missing: map[string][]netip.Addr{}, led: map[string][]firewall.Moved{}, ways: map[string][]firewall.Way{},
		compiler: newCompiler(), host: firewall.NewRules(nil), rules: map[*link.Space]*firewall.Rules{},
		stale: make(chan struct{}, 1), moved: make(chan struct{}, 1),
	}, nil
}

// share is an eighth of the connections that the kernel tracks in a namespace, which its limit is for: the others of the
// host, and the host itself, must find room whatever one VPC does. It is zero where nothing is known of a limit.
func share() uint32 {
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		return 0
	}
	most, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(most / 8)
}

// Close lets go of sockets and namespaces. Guests keep their network; only DHCP is silent until a successor comes.
func (m *Manager) Close() {
	m.dhcp.Close()
	m.ipv6.close()
	m.presence.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.host.Close()
	for _, r := range m.rules {
		r.Close()
	}
	m.links.Close()
}

// Apply makes the wish true. An error means that some of it is not (a Refused names an interface that cannot be); calling
// again repeats only what is missing. It never opens a way that the wish does not allow, whatever fails.
func (m *Manager) Apply(ctx context.Context, want Config) error {
	if want.Prefix != m.prefix {
		return fmt.Errorf("apply interfaces: prefix %q is not %q", want.Prefix, m.prefix)
	}
	m.one.Lock()
	defer m.one.Unlock()
	// The lists are the caller's, and a repair must not see what he makes of them afterwards.
	want.Interfaces, want.VPCs = slices.Clone(want.Interfaces), slices.Clone(want.VPCs)
	plan, refused := m.compiler.Compile(want)
	m.last, m.plan = &want, plan
	defer func() {
		select {
		case m.moved <- struct{}{}:
		default:
		}
	}()
	return errors.Join(refused, m.apply(ctx, plan, want))
}

// repair applies the last wish again, as what is known of the kernel has become doubtful.
func (m *Manager) repair(ctx context.Context) error {
	m.one.Lock()
	defer m.one.Unlock()
	if m.last == nil {
		return nil
	}
	return m.apply(ctx, m.plan, *m.last) // what it leaves out, Apply has said
}

func (m *Manager) apply(ctx context.Context, plan Plan, want Config) error {
	plan.Link.Networks, plan.Firewall = slices.Clone(plan.Link.Networks), maps.Clone(plan.Firewall) // for lead, who adds to them
	if err := m.lead(plan); err != nil {
		return err
	}
	released, err := m.links.Prune(plan.Link)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := m.drop(plan); err != nil {
		return err
	}
	ranges, late := m.links.Ensure(plan.Link)
	if len(ranges) < len(plan.Link.Networks) { // what is taken away must be, whatever cannot be made
		return errors.Join(late, m.filterSpaces(plan), m.forget(plan, released))
	}
	if err := m.filter(plan, ranges); err != nil {
		return err
	}
	if err := m.cut(plan, ranges, released); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	indexes, err := m.links.Attach(plan.Link)
	m.remember(want)
	m.tell(plan)
	return errors.Join(late, err, m.lease(plan, indexes), m.ask(plan, want, indexes))
}

// tell logs what strangers have changed and we have changed back.
func (m *Manager) tell(plan Plan) {
	for _, what := range m.links.Blame() {
		m.log.Warn("network repaired that another process had changed", "network", "the root namespace", "what", what)
	}
	for network := range plan.Firewall {
		s, err := m.links.Space(network)
		if err != nil {
			continue
		}
		for _, what := range s.Blame() {
			m.log.Warn("network repaired that another process had changed", "network", network, "what", what)
		}
	}
}

// forget deletes the tracked connections of addresses that were taken away.
func (m *Manager) forget(plan Plan, released link.Released) error {
	for network, addrs := range released {
		if _, ok := plan.Firewall[network]; !ok {
			continue // gone with its namespace
		}
		if err := m.forgetIn(network, addrs); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) forgetIn(network string, addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	s, err := m.links.Space(network)
	if err != nil {
		return err
	}
	return s.Forget(addrs)
}

// drop deletes the networks that are not wished any more.
func (m *Manager) drop(plan Plan) error {
	have, err := m.links.Networks()
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range have {
		if _, ok := plan.Firewall[n]; ok {
			continue
		}
		errs = append(errs, m.links.Drop(n))
	}
	return errors.Join(errs...)
}

// filter sets the rules of every namespace and of the host.
func (m *Manager) filter(plan Plan, ranges []link.Range) error {
	host := firewall.Host{Table: m.prefix, Connections: m.connections, Overlay: plan.Link.Underlay.IsValid()}
	for _, n := range plan.Link.Networks {
		for _, p := range n.Peers {
			host.Peers = append(host.Peers, p.Underlay)
		}
	}
	slices.SortFunc(host.Peers, netip.Addr.Compare)
	host.Peers = slices.Compact(host.Peers)
	for _, r := range ranges {
		n := slices.IndexFunc(plan.Link.Networks, func(n link.Network) bool { return n.Name == r.Network })
		host.Uplinks = append(host.Uplinks, firewall.Uplink{Name: r.Veth, Range: r.Prefix, Public: plan.Link.Networks[n].Public, Routed6: plan.Link.Networks[n].Routed6})
	}
	var errs []error
	if len(ranges) > 0 {
		did, err := m.host.ApplyHost(host)
		m.report("the root namespace", did)
		errs = append(errs, err)
	} else {
		errs = append(errs, firewall.RemoveHost(m.prefix))
	}
	errs = append(errs, m.filterSpaces(plan))
	m.prune()
	return errors.Join(errs...)
}

// filterSpaces sets the rules of the namespaces that are there.
func (m *Manager) filterSpaces(plan Plan) error {
	var errs []error
	for network, cfg := range plan.Firewall {
		s, err := m.links.Space(network)
		if errors.Is(err, fs.ErrNotExist) {
			continue // Ensure could not make it: nobody is there to be filtered
		}
		if err == nil {
			var did firewall.Change
			did, err = m.rulesOf(s).Apply(cfg)
			m.report(network, did)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("filter %s: %w", network, err))
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) report(network string, c firewall.Change) {
	if c.Foreign {
		m.log.Warn("rules repaired that another process had changed", "network", network, "by", c.By)
	}
}

// rulesOf returns the rules of a namespace, with what they remember.
func (m *Manager) rulesOf(s *link.Space) *firewall.Rules {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.rules[s]
	if r == nil {
		r = firewall.NewRules(s.With)
		m.rules[s] = r
	}
	return r
}

// prune lets go of the rules of namespaces that are gone.
func (m *Manager) prune() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s, r := range m.rules {
		if s.Closed() {
			r.Close()
			delete(m.rules, s)
		}
	}
}

// lease gives the servers of DHCP and of IPv6 the taps that are there now.
func (m *Manager) lease(plan Plan, indexes map[string]map[string]int) error {
	var networks []dhcp.Network
	now := map[string]*served{}
	same := len(m.told) == len(plan.DHCP)
	for _, l := range plan.DHCP {
		s, err := m.links.Space(l.Network)
		if err != nil {
			return err
		}
		n := dhcp.Network{Name: fmt.Sprintf("%s@%d", l.Network, s.ID()), Enter: s.Do}
		was := m.told[l.Network]
		t := was.next(n.Name, l, indexes[l.Network])
		now[l.Network], n.Hosts = t, t.hosts
		same = same && t == was
		networks = append(networks, n)
	}
	if same {
		return nil
	}
	m.told = nil
	err := errors.Join(m.dhcp.Apply(networks), m.ipv6.apply(plan.DHCP, networks, indexes))
	if err == nil {
		m.told = now
	}
	return err
}

// served is what the servers of DHCP and IPv6 answer a network.
type served struct {
	name    string
	wished  []*dhcp.Host
	indexes []int        // of their taps
	hosts   []*dhcp.Host // with them; those without a tap are left out
}

// next returns what shall be answered: the same if nothing is different, and the same hosts where they are as they were.
func (was *served) next(name string, l Leases, at map[string]int) *served {
	if was == nil || was.name != name {
		was = &served{name: name}
	}
	now := &served{name: name, wished: l.Hosts, indexes: make([]int, len(l.Hosts)), hosts: make([]*dhcp.Host, 0, len(l.Hosts))}
	for k, tap := range l.Taps {
		now.indexes[k] = at[tap]
	}
	from, endWas, endNow := delta.Middle(was.wished, l.Hosts, func(x, y **dhcp.Host) bool { return *x == *y })
	if from == endWas && from == endNow && slices.Equal(was.indexes, now.indexes) && was.wished != nil {
		return was
	}
	for k, h := range l.Hosts {
		old := k // its place before, if it was there
		if k >= endNow {
			old += endWas - endNow
		}
		if now.indexes[k] == 0 {
			continue
		}
		if (k < from || k >= endNow) && was.indexes[old] == now.indexes[k] && len(was.hosts) == len(was.wished) {
			now.hosts = append(now.hosts, was.hosts[old])
			continue
		}
		one := *h
		one.Index = now.indexes[k]
		now.hosts = append(now.hosts, &one)
	}
	return now
}

func (m *Manager) remember(want Config) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.applied = want
}

// Tap opens the queue of an interface's tap for QEMU (-netdev tap,fd=N,vhost=off; frames have a virtio-net header of
// 10 bytes until QEMU asks for another size). The tap has one queue: while a QEMU holds it the answer wraps EBUSY.
func (m *Manager) Tap(id cloud.InterfaceID) (*os.File, error) {
	m.mu.Lock()
	n := slices.IndexFunc(m.applied.Interfaces, func(i *Interface) bool { return i.ID == id })
	if n < 0 {
		m.mu.Unlock()
		return nil, fmt.Errorf("open tap of %s: it has not been applied", id)
	}
	network := string(m.applied.Interfaces[n].VPC)
	m.mu.Unlock()
	s, err := m.links.Space(network)
	if err != nil {
		return nil, err
	}
	return s.Tap(TapName(id))
}

// Listen opens the socket of a service inside a VPC's namespace: one that listens, or receives datagrams. The rules let
// guests reach only those that Services names.
func (m *Manager) Listen(vpc cloud.VPCID, service Service) (*os.File, error) {
	s, err := m.links.Space(string(vpc))
	if err != nil {
		return nil, err
	}
	return s.Listen(service.Network, service.At)
}

// Run answers DHCP and repairs what others have changed, until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { _ = m.dhcp.Run(ctx) })
	m.ipv6.run(ctx, &group)
	group.Go(func() { _ = m.presence.Run(ctx) })
	watched := map[waiter]context.CancelFunc{}
	again := time.NewTimer(time.Hour)
	again.Stop()
	var said string
	var saidAt time.Time
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.moved:
			m.watch(ctx, watched, &group)
			continue
		case <-m.stale:
		case <-m.presence.Changed():
		case <-again.C:
		}
		rest := pause
		if err := m.repair(ctx); err != nil && ctx.Err() == nil {
			if said != err.Error() || time.Since(saidAt) > time.Minute { // what lasts must not fill the log
				said, saidAt = err.Error(), time.Now()
				m.log.Error("network not repaired", "err", err)
			}
			failures++
			rest = min(pause<<min(failures, 10), retry)
			again.Reset(rest)
		} else {
			failures = 0
		}
		select { // tools that change rules of their own all day must not cost us a processor
		case <-ctx.Done():
		case <-time.After(rest):
		}
	}
}

// pause is between two repairs, retry at most after one that has failed.
const (
	pause = 100 * time.Millisecond
	retry = time.Second
)

// waiter is something that knows when it needs a repair.
type waiter interface{ Await(context.Context) error }

// watch waits for strangers' changes in all namespaces that there are now, and in the root namespace.
func (m *Manager) watch(ctx context.Context, watched map[waiter]context.CancelFunc, group *sync.WaitGroup) {
	m.mu.Lock()
	now := map[waiter]bool{m.host: true, m.links: true}
	for s, r := range m.rules {
		now[s], now[r] = true, true
	}
	m.mu.Unlock()
	for w, stop := range watched {
		if !now[w] {
			stop()
			delete(watched, w)
		}
	}
	for w := range now {
		if watched[w] != nil {
			continue
		}
		one, stop := context.WithCancel(ctx)
		watched[w] = stop
		group.Go(func() { m.follow(one, w) })
	}
}

// follow asks for a repair whenever w needs one.
func (m *Manager) follow(ctx context.Context, w waiter) {
	for ctx.Err() == nil {
		if err := w.Await(ctx); err == nil {
			select {
			case m.stale <- struct{}{}:
			default:
			}
		}
		select { // until the repair is done w would say the same again
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// Counters returns what DHCP and the rules have counted: dhcp_acks, dhcp6_replies, neighbour_answers, VPC/spoof, VPC/arp_spoof, host/isolated.
func (m *Manager) Counters() map[string]uint64 {
	out := map[string]uint64{}
	for k, v := range m.dhcp.Counts() {
		out["dhcp_"+k] = v
	}
	m.ipv6.counts(out)
	m.mu.Lock()
	var networks []string
	for _, v := range m.applied.VPCs {
		networks = append(networks, string(v.VPC.ID))
	}
	m.mu.Unlock()
	slices.Sort(networks)
	for _, n := range slices.Compact(networks) {
		s, err := m.links.Space(n)
		if err != nil {
			continue
		}
		_ = s.With(func(fd int) error {
			counts, err := firewall.Counters(fd)
			for k, v := range counts {
				out[n+"/"+k] = v
			}
			return err
		})
	}
	counts, _ := firewall.HostCounters(m.prefix)
	for k, v := range counts {
		out["host/"+k] = v
	}
	return out
}

// Remove deletes everything that a host with this prefix has made on the machine, whether its agent lives or not.
func Remove(_ context.Context, prefix string) error {
	return errors.Join(link.Remove(prefix), firewall.RemoveHost(prefix))
}
