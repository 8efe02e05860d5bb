package eni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/agent/dhcp"
	"github.com/ichiro-metal/ichiro/agent/firewall"
	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Manager carries out Configs. One process has one, for one host.
type Manager struct {
	prefix string
	log    *slog.Logger
	links  *link.Links
	dhcp   *dhcp.Server
	stale  chan string   // somebody else has changed rules: who
	moved  chan struct{} // an Apply may have made or dropped namespaces

	one  sync.Mutex                 // one Apply at a time: it guards the kernel, and so is held over I/O
	last *Config                    // guarded by one
	cuts map[string]firewall.Config // guarded by one: by network, the rules that its connections have been judged by

	mu   sync.Mutex
	taps map[cloud.InterfaceID]tapOf
}

type tapOf struct{ network, name string }

// New returns the manager of the host with this prefix. It changes nothing yet.
func New(prefix string, log *slog.Logger) (*Manager, error) {
	links, err := link.New(prefix, log)
	if err != nil {
		return nil, err
	}
	return &Manager{
		prefix: prefix, log: log, links: links, dhcp: dhcp.New(log), taps: map[cloud.InterfaceID]tapOf{}, cuts: map[string]firewall.Config{},
		stale: make(chan string, 1), moved: make(chan struct{}, 1),
	}, nil
}

// Close lets go of sockets and namespaces. Guests keep their network; only DHCP is silent until a successor comes.
func (m *Manager) Close() {
	m.dhcp.Close()
	m.links.Close()
}

// Apply makes the wish true. An error means that some of it is not (a Refused names an interface that cannot be); calling
// again repeats only what is missing. It never opens a way that the wish does not allow, whatever fails.
func (m *Manager) Apply(ctx context.Context, want Config) error {
	if want.Prefix != m.prefix {
		return fmt.Errorf("apply interfaces: prefix %q is not %q", want.Prefix, m.prefix)
	}
	plan, refused := Compile(want)
	m.one.Lock()
	defer m.one.Unlock()
	m.last = &want
	defer func() {
		select {
		case m.moved <- struct{}{}:
		default:
		}
	}()
	_, err := m.apply(ctx, plan, want)
	return errors.Join(refused, err)
}

// repair applies the last wish again, and reports whether the rules had to be changed.
func (m *Manager) repair(ctx context.Context) (filtered bool, err error) {
	m.one.Lock()
	defer m.one.Unlock()
	if m.last == nil {
		return false, nil
	}
	plan, _ := Compile(*m.last) // what it refuses, Apply has said
	return m.apply(ctx, plan, *m.last)
}

func (m *Manager) apply(ctx context.Context, plan Plan, want Config) (filtered bool, err error) {
	released, err := m.links.Prune(plan.Link)
	if err != nil {
		return false, err
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if err := m.drop(plan); err != nil {
		return false, err
	}
	ranges, err := m.links.Ensure(plan.Link)
	if err != nil {
		return false, err
	}
	if filtered, err = m.filter(plan, ranges); err != nil {
		return filtered, err
	}
	if err := m.forget(plan, released); err != nil {
		return filtered, err
	}
	if err := m.cut(plan, ranges); err != nil {
		return filtered, err
	}
	if err := ctx.Err(); err != nil {
		return filtered, err
	}
	indexes, err := m.links.Attach(plan.Link)
	m.remember(want)
	return filtered, errors.Join(err, m.lease(plan, indexes))
}

// forget deletes the tracked connections of addresses that were taken away.
func (m *Manager) forget(plan Plan, released link.Released) error {
	for network, addrs := range released {
		if _, ok := plan.Firewall[network]; !ok {
			continue // gone with its namespace
		}
		s, err := m.links.Space(network)
		if err == nil {
			err = s.Forget(addrs)
		}
		if err != nil {
			return err
		}
	}
	return nil
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
func (m *Manager) filter(plan Plan, ranges []link.Range) (changed bool, err error) {
	host := firewall.Host{Table: m.prefix}
	for _, r := range ranges {
		n := slices.IndexFunc(plan.Link.Networks, func(n link.Network) bool { return n.Name == r.Network })
		host.Uplinks = append(host.Uplinks, firewall.Uplink{Name: r.Veth, Range: r.Prefix, Public: plan.Link.Networks[n].Public})
	}
	var errs []error
	if len(ranges) > 0 {
		did, err := firewall.ApplyHost(host)
		changed = changed || did
		errs = append(errs, err)
	} else {
		errs = append(errs, firewall.RemoveHost(m.prefix))
	}
	for network, cfg := range plan.Firewall {
		s, err := m.links.Space(network)
		var did bool
		if err == nil {
			err = s.With(func(fd int) (err error) { did, err = firewall.Apply(fd, cfg); return err })
		}
		changed = changed || did
		if err != nil {
			errs = append(errs, fmt.Errorf("filter %s: %w", network, err))
		}
	}
	return changed, errors.Join(errs...)
}

// lease gives the DHCP server the taps that are there now.
func (m *Manager) lease(plan Plan, indexes map[string]map[string]int) error {
	var networks []dhcp.Network
	for _, l := range plan.DHCP {
		s, err := m.links.Space(l.Network)
		if err != nil {
			return err
		}
		n := dhcp.Network{Name: fmt.Sprintf("%s@%d", l.Network, s.ID()), Enter: s.Do}
		for i, h := range l.Hosts {
			if h.Index = indexes[l.Network][l.Taps[i]]; h.Index > 0 {
				n.Hosts = append(n.Hosts, h)
			}
		}
		networks = append(networks, n)
	}
	return m.dhcp.Apply(networks)
}

func (m *Manager) remember(want Config) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.taps)
	for _, i := range want.Interfaces {
		m.taps[i.ID] = tapOf{string(i.VPC), TapName(i.ID)}
	}
}

// Tap opens the queue of an interface's tap for QEMU (-netdev tap,fd=N,vhost=off; frames have a virtio-net header of
// 10 bytes until QEMU asks for another size). The tap has one queue: while a QEMU holds it the answer wraps EBUSY.
func (m *Manager) Tap(id cloud.InterfaceID) (*os.File, error) {
	m.mu.Lock()
	t, ok := m.taps[id]
	m.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("open tap of %s: it has not been applied", id)
	}
	s, err := m.links.Space(t.network)
	if err != nil {
		return nil, err
	}
	return s.Tap(t.name)
}

// Listen opens a listening TCP socket inside a VPC's namespace, such as Metadata or Gateway. The rules let guests
// reach only those two.
func (m *Manager) Listen(vpc cloud.VPCID, at netip.AddrPort) (*os.File, error) {
	s, err := m.links.Space(string(vpc))
	if err != nil {
		return nil, err
	}
	return s.Listen(at)
}

// Run answers DHCP and repairs rules that others have changed, until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { _ = m.dhcp.Run(ctx) })
	watched := map[*link.Space]context.CancelFunc{} // nil: the root namespace
	again := time.NewTimer(time.Hour)
	again.Stop()
	for {
		var who string
		select {
		case <-ctx.Done():
			return nil
		case <-m.moved:
			m.watch(ctx, watched, &group)
			continue
		case who = <-m.stale:
		case <-again.C:
		}
		changed, err := m.repair(ctx)
		if err != nil && ctx.Err() == nil {
			m.log.Error("network not repaired", "err", err)
			again.Reset(time.Second)
		}
		if changed {
			m.log.Warn("rules repaired that another process had changed", "by", who)
		}
		select { // tools that change rules of their own all day must not cost us a processor
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// watch follows the rules of all namespaces that there are now, and of the root namespace.
func (m *Manager) watch(ctx context.Context, watched map[*link.Space]context.CancelFunc, group *sync.WaitGroup) {
	now := map[*link.Space]string{nil: "the root namespace"}
	networks, err := m.links.Networks()
	if err != nil {
		m.log.Error("rules not watched", "err", err)
	}
	for _, n := range networks {
		if s, err := m.links.Space(n); err == nil {
			now[s] = n
		}
	}
	for s, stop := range watched {
		if _, ok := now[s]; !ok {
			stop()
			delete(watched, s)
		}
	}
	for s, name := range now {
		if watched[s] != nil {
			continue
		}
		w, err := follow(s)
		if err != nil {
			m.log.Error("rules not watched", "network", name, "err", err)
			continue
		}
		one, stop := context.WithCancel(ctx)
		watched[s] = stop
		group.Go(func() {
			w.Run(one, func(who string, pid int) {
				select {
				case m.stale <- fmt.Sprintf("%s (%d) in %s", who, pid, name):
				default:
				}
			})
		})
	}
}

// follow watches the rules of a namespace, nil being the root namespace.
func follow(s *link.Space) (w *firewall.Watch, err error) {
	if s == nil {
		return firewall.NewWatch(0)
	}
	err = s.With(func(fd int) (err error) { w, err = firewall.NewWatch(fd); return err })
	return w, err
}

// Counters returns what DHCP and the rules have counted: dhcp_acks, VPC/spoof, VPC/arp_spoof, host/isolated.
func (m *Manager) Counters() map[string]uint64 {
	out := map[string]uint64{}
	for k, v := range m.dhcp.Counters.Map() {
		out["dhcp_"+k] = v
	}
	m.mu.Lock()
	var networks []string
	for _, t := range m.taps {
		networks = append(networks, t.network)
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
