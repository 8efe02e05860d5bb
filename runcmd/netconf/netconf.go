// Package netconf makes the guest's network what its metadata says, while the guest runs.
//
// The interface that a guest boots from is its own affair: init, cloud-init or a distribution's tools have it up before
// this package is asked. What comes later is ours: a further interface is brought up by DHCP and gets a table of its
// own, so that an answer leaves by the interface on which the question came; secondary addresses appear on whichever
// interface they were assigned to; and of an interface that went nothing is left behind.
//
//	device N of card C    routing table and rule priority 10000 + 100*C + N, metric of its routes 512 + 100*C + N
//	rules                 from ADDRESS, for each address of such an interface
//	secondary addresses   /32, on every interface
//	addresses of IPv6     /128, on every interface; routes come from the router's advertisements, to the kernel
//
// The numbers are those of Amazon's own tool, so that a reader of `ip rule` knows them. All that is set carries
// Protocol; nothing else is ever removed. An interface that somebody else takes care of (see others) is left to them
// but for its secondary addresses (of IPv6, if it has the first), which nobody else adds while the guest runs, and where Amazon's tool runs those too.
//
// It is woken by the kernel when an interface comes or goes, by Changed, which the run-command gateway's word leads to,
// and without either once a minute. Plan decides; Run does, as often as it takes.
package netconf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/lease"
	"github.com/ichiro-metal/ichiro/internal/network"
)

const (
	// every is how long a change goes unseen in a guest that has no gateway to tell it: Amazon's tool looks as often.
	every = time.Minute
	// soon is when something is looked at again that has not been decided by others yet, or did not succeed, which
	// doubles it each time.
	soon = 500 * time.Millisecond
	// leaseWait bounds one attempt at DHCP: the server is in the host, an answer takes a millisecond.
	leaseWait = 3 * time.Second
)

// Config is where a Manager finds what it works with. The zero value is for a guest as it is.
type Config struct {
	Metadata netip.AddrPort // of the metadata service
	Root     string         // directory that stands for /, below which other managers' traces are looked for
	Lock     string         // file that keeps a second Manager waiting
	Log      *slog.Logger
}

// Manager keeps a guest's network as its metadata says.
type Manager struct {
	cfg    Config
	log    *slog.Logger
	woken  chan struct{} // the metadata may have changed
	events chan struct{} // the kernel has changed

	// What follows belongs to Run.
	wishes  []Wish
	macs    map[[6]byte]bool // that were there when the wishes were read
	leases  map[int]granted
	added   map[network.Address]bool // by this process: old kernels do not keep who set an address
	waiting map[int]time.Time        // since when others have not decided
	said    string
}

// granted is what DHCP said to an interface.
type granted struct {
	mac    [6]byte
	answer lease.Answer
}

// New returns a Manager. It does nothing before Run.
func New(cfg Config) *Manager {
	if !cfg.Metadata.IsValid() {
		cfg.Metadata = netip.AddrPortFrom(netip.AddrFrom4([4]byte{169, 254, 169, 254}), 80)
	}
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.Lock == "" {
		cfg.Lock = "/run/ichiro-netconf.lock"
	}
	return &Manager{
		cfg: cfg, log: cfg.Log.With("component", "network"),
		woken: make(chan struct{}, 1), events: make(chan struct{}, 1),
		leases: map[int]granted{}, added: map[network.Address]bool{}, waiting: map[int]time.Time{},
	}
}

// Changed says that the metadata may have changed. It never blocks.
func (m *Manager) Changed() { poke(m.woken) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run keeps the network until ctx ends. It waits while another Manager does.
func (m *Manager) Run(ctx context.Context) error {
	unlock, err := lock(ctx, m.cfg.Lock)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	watched := make(chan error, 1)
	watch, stop := context.WithCancel(ctx)
	go func() { watched <- network.Watch(watch, func() { poke(m.events) }) }()
	defer func() { <-watched }()
	defer stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	pause := soon
	for {
		read := true
		select {
		case <-ctx.Done():
			return nil
		case err := <-watched:
			watched <- nil
			return err
		case <-m.woken:
		case <-timer.C:
		case <-m.events:
			read = false
		}
		again, err := m.sync(ctx, read)
		if ctx.Err() != nil {
			return nil
		}
		m.say(err)
		switch {
		case err != nil: // a guest whose metadata is switched off must not ask for it twice a second
			timer.Reset(pause)
			pause = min(2*pause, every)
		case again:
			timer.Reset(soon)
		default:
			pause = soon
			timer.Reset(every/2 + rand.N(every))
		}
	}
}

// say logs an error when it is not the one that was logged last: a guest without metadata says so once.
func (m *Manager) say(err error) {
	text := fmt.Sprint(err)
	if err != nil && text != m.said {
		m.log.Warn("network not as the metadata says", "err", err)
	}
	m.said = text
}

// sync makes the network what it should be; again means that somebody else has yet to decide.
func (m *Manager) sync(ctx context.Context, read bool) (again bool, err error) {
	for range 3 { // look, ask DHCP, look again: the third is for what came meanwhile
		view, err := m.look(ctx, read)
		if err != nil {
			return false, err
		}
		read = false
		plan := Decide(view)
		if err := m.do(plan); err != nil {
			return false, err
		}
		again = view.undecided()
		if len(plan.Ask) == 0 {
			return again, nil
		}
		var errs []error
		for _, i := range plan.Ask { // one that nobody answers keeps no other down
			errs = append(errs, m.ask(ctx, i))
		}
		if err := errors.Join(errs...); err != nil {
			return false, err
		}
	}
	return true, nil
}

// look reads the kernel, the traces of others and, when it may have changed, the metadata.
func (m *Manager) look(ctx context.Context, read bool) (v View, err error) {
	if v.Links, err = network.Hardware(); err != nil {
		return v, err
	}
	macs := map[[6]byte]bool{}
	for _, i := range v.Links {
		macs[i.MAC] = true
		// The host announces an interface before it plugs it: most that are new here have been read of already.
		read = read || !m.macs[i.MAC] && !slices.ContainsFunc(m.wishes, func(w Wish) bool { return w.MAC == i.MAC })
	}
	if read {
		wishes, err := learn(ctx, m.cfg.Metadata)
		if err != nil {
			return v, err // and what was read before holds: an answer that is missing takes no address away
		}
		m.wishes = wishes
	}
	m.macs = macs
	v.Wishes = m.wishes
	if v.Addresses, err = network.Addresses(); err != nil {
		return v, err
	}
	if v.Routes, err = network.Routes(); err != nil {
		return v, err
	}
	if v.Rules, err = network.Rules(); err != nil {
		return v, err
	}
	for n, a := range v.Addresses {
		if m.added[a.Key()] {
			v.Addresses[n].Protocol = Protocol
		}
	}
	v.Leases = map[int]lease.Answer{}
	for _, i := range v.Links {
		if g, ok := m.leases[i.Index]; ok && g.mac == i.MAC {
			v.Leases[i.Index] = g.answer
		}
	}
	m.others(&v)
	return v, nil
}

// others finds out who else takes care of the network.
func (m *Manager) others(v *View) {
	v.Managed = map[int]Managed{}
	now := time.Now()
	v.Amazon = exists(filepath.Join(m.cfg.Root, "run/amazon-ec2-net-utils"))
	for _, i := range v.Links {
		state := managed(m.cfg.Root, i)
		if state != Undecided {
			delete(m.waiting, i.Index)
		} else if since, ok := m.waiting[i.Index]; !ok {
			m.waiting[i.Index] = now
		} else if now.Sub(since) > patience {
			state = Unmanaged
		}
		v.Managed[i.Index] = state
	}
}

// ask gets an interface its answer from DHCP.
func (m *Manager) ask(ctx context.Context, i network.Interface) error {
	if err := network.Up(i.Index, 0); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, leaseWait)
	defer cancel()
	a, err := network.Acquire(ctx, i, func() {})
	if err != nil {
		return fmt.Errorf("ask for an address on %s: %w", i.Name, err)
	}
	m.log.Info("interface has an address", "interface", i.Name, "address", a.Address)
	m.leases[i.Index] = granted{i.MAC, a}
	return network.Up(i.Index, network.MTU(a))
}

// do carries a plan out: what is not wished any more goes first, and an address is there before its routes.
func (m *Manager) do(p Plan) error {
	var errs []error
	for _, r := range p.Rules.Delete {
		errs = append(errs, r.Delete())
	}
	for _, r := range p.Routes.Delete {
		errs = append(errs, r.Delete())
	}
	for _, a := range p.Addresses.Delete {
		m.log.Info("address taken away", "address", a.Prefix)
		delete(m.added, a.Key())
		errs = append(errs, a.Delete())
	}
	for _, a := range p.Addresses.Add {
		m.log.Info("address added", "address", a.Prefix)
		if err := a.Add(); err != nil {
			errs = append(errs, err)
		} else {
			m.added[a.Key()] = true
		}
	}
	for _, r := range p.Routes.Add {
		errs = append(errs, r.Add())
	}
	for _, r := range p.Rules.Add {
		errs = append(errs, r.Add())
	}
	return errors.Join(errs...)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// lock waits until no other process does what this one is about to do.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
