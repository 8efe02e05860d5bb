// Package host is the agent's conductor: it makes this host true to its wishes, and says what it sees.
//
// One run reads the wishes for this host (a mirror of the store, or, while the store is away, what the
// mirror saw last), applies all network interfaces, writes each instance's bundle, and starts, stops or
// removes its machine. The order is what keeps promises: a guest's metadata is there before its machine
// starts, its interface before its metadata service, and its address is free before it is called gone.
//
//	wish            what is done                                  what is said
//	running, boot N interfaces, bundle, start boot N once         pending, then running, or stopped with why
//	stopped         power button, force after a while             stopping, stopped
//	terminated      kill, interfaces and bundle removed           shutting-down, terminated
//	gone            whatever is left removed                      the status is removed too
//
// A boot is started once: a machine whose guest ended it is not started again until a higher boot is wished
// for. One that vanished without its shim seeing how (the host was restarted) is started again.
package host

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/agent/eni"
	"github.com/ichiro-metal/ichiro/agent/metadata"
	"github.com/ichiro-metal/ichiro/agent/unit"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/handover"
	"github.com/ichiro-metal/ichiro/internal/shim"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// powerOffGrace is how long a guest may take to shut down before it is forced. EC2 gives it several
// minutes; most guests take seconds.
const powerOffGrace = 2 * time.Minute

// terminateGrace is the same for a termination: the disks are not kept, so little is lost.
const terminateGrace = 10 * time.Second

// Config is what a Host works with.
type Config struct {
	ID         cloud.HostID
	Zone       string
	Region     string
	Root       bundle.Root
	Images     string // the image pool
	Keys       string // STATE/keys
	Prefix     string // of names in the root network namespace
	Uplink     string // link that leads out; "" for the default route's
	Pool       netip.Prefix
	Underlay   netip.Addr     // where other hosts send what is for guests here
	Pool6      []netip.Prefix // blocks of IPv6 of these are routed to this machine
	MTU        int            // of guests' interfaces
	Strict     bool           // see eni.Config
	Unshaped   bool           // the bandwidth of an instance's type does not bind it
	Accel      string
	IMDSGroup  int
	GatewayGID int
	Group      int // common to the daemons
	Store      *store.Client
	Mirror     *store.Mirror // of wish/ID/
	Member     *Member
	Network    *eni.Manager
	Units      *unit.Manager
	Sockets    *handover.Server
	Now        func() time.Time
	Log        *slog.Logger
}

// Host is this host.
type Host struct {
	Config
	wishes     *store.Snapshot                           // of this round
	reported   map[cloud.InstanceID]cloud.InstanceStatus // what the store is known to hold
	remembered []byte                                    // what network.json holds
	unsettled  bool                                      // the network could not be changed in this round
	cards      map[cloud.InstanceID]cards                // what is to be done about interfaces in this round
	asked      map[cloud.AttachmentID]time.Time          // since when guests are asked to let go of an interface
	trouble    map[cloud.InstanceID]string               // why an interface could not be attached or detached
	given      given
	behind     map[cloud.InstanceID]bool    // the metadata of the wish could not be written
	absent     map[cloud.InstanceID]absence // boots that wait for a file of their image

	mu        sync.Mutex
	failed    map[cloud.InstanceID]failure // boots whose shim cannot be kept running
	sealer    *store.Sealer                // nil until it is needed
	connected connection                   // what the network was last made to be
}

// failure is a boot that led to no machine, and why.
type failure struct {
	boot   int
	reason string
}

// Failed takes the news that a boot's shim cannot be kept running: the boot is over before it began, and is not
// tried again.
func (h *Host) Failed(e unit.Exit) {
	if e.Err == nil {
		return
	}
	m, err := bundle.Read[bundle.Machine](h.Root.Instance(e.ID).Path("machine.json"))
	if err != nil {
		return
	}
	h.fail(e.ID, m.Boot, e.Err)
}

// fail notes that a boot is over, and why.
func (h *Host) fail(id cloud.InstanceID, boot int, err error) {
	h.Log.Error("a machine cannot be started", "instance", id, "boot", boot, "err", err)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed[id] = failure{boot, err.Error()}
}

// failure returns why a boot led to no machine, if it did not.
func (h *Host) failure(id cloud.InstanceID, boot int) (string, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f, ok := h.failed[id]
	return f.reason, ok && f.boot == boot
}

// New returns a Host.
func New(cfg Config) *Host {
	cfg.Log = cfg.Log.With("component", "host", "host", cfg.ID)
	return &Host{
		Config: cfg, reported: map[cloud.InstanceID]cloud.InstanceStatus{}, failed: map[cloud.InstanceID]failure{},
		asked: map[cloud.AttachmentID]time.Time{}, given: given{}, behind: map[cloud.InstanceID]bool{}, absent: map[cloud.InstanceID]absence{},
	}
}

// Reconcile makes everything true once.
func (h *Host) Reconcile(ctx context.Context) error {
	var err error
	if h.wishes, err = h.Member.Wishes(h.Mirror); err != nil {
		return err
	}
	wishes, err := store.Mirrored(h.wishes, store.Assignments(h.ID))
	if err != nil {
		return err
	}
	want := make(map[cloud.InstanceID]cloud.Assignment, len(wishes))
	for _, o := range wishes {
		want[o.Value.Instance.ID] = o.Value
	}
	var errs []error
	// Machines that must end do so before their interfaces are taken away.
	for id, a := range want {
		if a.Instance.Power != cloud.PowerRunning {
			errs = append(errs, h.end(ctx, id, a))
		}
	}
	if err := h.removeStrangers(ctx, want); err != nil {
		errs = append(errs, err)
	}
	h.consider(want)
	config, err := h.interfaces(want)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	errs = append(errs, h.announceCards(want))
	err = h.connect(ctx, config)
	h.unsettled = !onlyRefused(err)
	errs = append(errs, err)
	for id, a := range want {
		if a.Instance.Power == cloud.PowerRunning {
			errs = append(errs, h.run(ctx, id, a))
		}
	}
	for id, a := range want {
		err := h.report(ctx, id, a)
		errs = append(errs, err)
		if errors.Is(err, store.ErrUnavailable) {
			return errors.Join(errs...) // the store is away: what is to be done is done, and the next round tells
		}
	}
	errs = append(errs, h.forget(ctx, want))
	return errors.Join(errs...)
}

// ended reports whether nothing of the instance's machine is left to end.
func (h *Host) ended(id cloud.InstanceID) bool {
	s, err := shim.ReadStatus(string(h.Root.Instance(id)))
	if errors.Is(err, fs.ErrNotExist) {
		return !h.Units.Alive(id)
	}
	return err == nil && s.State.Ended() && !h.Units.Alive(id)
}

// end asks a machine to end that is not wished for; when it has, a terminated instance's bundle goes.
func (h *Host) end(ctx context.Context, id cloud.InstanceID, a cloud.Assignment) error {
	if h.ended(id) {
		if a.Instance.Power == cloud.PowerTerminated {
			return os.RemoveAll(string(h.Root.Instance(id)))
		}
		return nil
	}
	grace := powerOffGrace
	if a.Instance.Power == cloud.PowerTerminated {
		grace = terminateGrace
	}
	if a.Instance.Force {
		return h.Units.Kill(ctx, id)
	}
	return h.Units.Stop(ctx, id, grace)
}

// removeStrangers ends and removes the machines of instances that nobody wishes for any more.
func (h *Host) removeStrangers(ctx context.Context, want map[cloud.InstanceID]cloud.Assignment) error {
	ids, err := h.Root.List()
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		if _, ok := want[id]; ok {
			continue
		}
		if !h.ended(id) {
			h.Log.Info("ending a machine that nobody wishes for", "instance", id)
			errs = append(errs, h.Units.Kill(ctx, id))
			continue
		}
		errs = append(errs, os.RemoveAll(string(h.Root.Instance(id))))
	}
	return errors.Join(errs...)
}

// interfaces returns what this host's network should be: the interfaces of all instances but those that
// are terminated and have no machine left. A stopped instance keeps its addresses, and nothing answers there.
func (h *Host) interfaces(want map[cloud.InstanceID]cloud.Assignment) (eni.Config, error) {
	c := eni.Config{Prefix: h.Prefix, Uplink: h.Uplink, Pool: h.Pool, Underlay: h.Underlay, Pool6: h.Pool6, Strict: h.Strict, Domain: h.Region + ".compute.internal"}
	for id, a := range want {
		if a.Instance.Power == cloud.PowerTerminated && h.ended(id) {
			continue
		}
		for _, n := range h.cards[id].keep {
			name, _, _ := strings.Cut(cloud.PrivateDNSName(n.Primary(), a.Region), ".")
			c.Interfaces = append(c.Interfaces, h.given.same(eni.Interface{
				NetworkInterface: n.NetworkInterface, Network: n.Network, Public: n.Public, MTU: h.MTU, Owner: uint32(h.user(id).UID),
				Hostname: name, Bandwidth: h.bandwidth(a.Type),
			}))
		}
	}
	h.given.forget(c.Interfaces)
	networks, err := store.Mirrored(h.wishes, store.Networks(h.ID))
	if err != nil {
		return c, err
	}
	for _, o := range networks {
		if slices.ContainsFunc(c.Interfaces, func(i *eni.Interface) bool { return i.VPC == o.Value.VPC.ID }) {
			c.VPCs = append(c.VPCs, o.Value)
		}
	}
	slices.SortFunc(c.Interfaces, func(a, b *eni.Interface) int { return cmp.Or(cmp.Compare(a.VPC, b.VPC), eni.Earlier(a, b)) })
	slices.SortFunc(c.VPCs, func(a, b cloud.HostNetwork) int { return cmp.Compare(a.VPC.ID, b.VPC.ID) })
	return c, nil
}

// bandwidth is what instances of a type may use, unless the operator lets them have all that there is.
func (h *Host) bandwidth(t cloud.InstanceType) eni.Bandwidth {
	if h.Unshaped {
		return eni.Bandwidth{}
	}
	return eni.Bandwidth{Baseline: t.BandwidthMbit, Peak: t.PeakMbit}
}

// onlyRefused reports whether err speaks of nothing but wishes that cannot be: the rest of the network is as wished.
func onlyRefused(err error) bool {
	switch e := err.(type) {
	case nil, eni.Refused:
		return true
	case interface{ Unwrap() []error }:
		return !slices.ContainsFunc(e.Unwrap(), func(err error) bool { return !onlyRefused(err) })
	case interface{ Unwrap() error }:
		return e.Unwrap() != nil && onlyRefused(e.Unwrap())
	}
	return false
}

// remember keeps the network's configuration where the next agent of this host finds it.
func (h *Host) remember(c eni.Config) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if bytes.Equal(data, h.remembered) {
		return nil
	}
	if err := bundle.WriteBytes(h.networkFile(), data, 0o600); err != nil {
		return err
	}
	h.remembered = data
	return nil
}

func (h *Host) networkFile() string { return filepath.Join(string(h.Root), "network.json") }

// Restore applies the network as an earlier agent left it, so that guests renew their addresses and reach
// their metadata although the store may be away. What the store says replaces it as soon as it says something.
func (h *Host) Restore(ctx context.Context) error {
	c, err := bundle.Read[eni.Config](h.networkFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if c.Prefix != h.Prefix {
		return fmt.Errorf("%s is of another host", h.networkFile())
	}
	return errors.Join(h.Network.Apply(ctx, c), h.listen(c))
}

// connect makes the network what it should be. It looks at the kernel again when something else is wished
// for, or when it has not done so for a while: the loop is woken for every command too, and a look at all
// namespaces would take the processor from the guest that the command is for. What others change meanwhile
// the network repairs by itself.
func (h *Host) connect(ctx context.Context, c eni.Config) error {
	now := h.Now()
	if h.connected.good(c, now) {
		return nil
	}
	h.connected = connection{}
	err := h.Network.Apply(ctx, c)
	if err != nil {
		err = fmt.Errorf("apply interfaces: %w", err)
	}
	if err := errors.Join(err, h.listen(c), h.remember(c)); err != nil {
		return err
	}
	h.connected = connection{config: c, at: now}
	return nil
}

// connection is a configuration that the network had at a time.
type connection struct {
	config eni.Config
	at     time.Time
}

// connectionHolds is less than the pause between two runs that nothing wakes: each of those looks.
const connectionHolds = 20 * time.Second

func (n connection) good(want eni.Config, now time.Time) bool {
	age := now.Sub(n.at)
	return age >= 0 && age < connectionHolds && reflect.DeepEqual(n.config, want)
}

// listen sees that the services have their sockets in every VPC that has an interface here, and in no other.
func (h *Host) listen(c eni.Config) error {
	errs := []error{h.describe(c)}
	now := map[cloud.VPCID]bool{}
	for _, v := range c.VPCs {
		id := v.VPC.ID
		now[id] = true
		for _, s := range eni.Services(v.VPC) {
			err := h.Sockets.Offer(s.Name, id, s.Socket(), func() (*os.File, error) { return h.Network.Listen(id, s) })
			if err != nil {
				errs = append(errs, fmt.Errorf("listen for %s in %s: %w", s.Name, id, err))
			}
		}
	}
	for _, id := range h.Sockets.Held() {
		if !now[id] {
			h.Sockets.Withdraw(id)
		}
	}
	return errors.Join(errs...)
}

// run writes the bundle of an instance and sees that its boot has been started.
func (h *Host) run(ctx context.Context, id cloud.InstanceID, a cloud.Assignment) error {
	dir := h.Root.Instance(id)
	a.Interfaces = h.cards[id].keep
	if err := h.prepare(dir, a); err != nil {
		return fmt.Errorf("prepare %s: %w", id, err)
	}
	if err := h.credentials(dir); err != nil {
		h.Log.Warn("no role credentials for the guest", "instance", id, "err", err) // it runs without, as on EC2
	}
	if err := h.ticket(dir); err != nil {
		h.Log.Warn("no tokens for the guest", "instance", id, "err", err)
	}
	st, err := shim.ReadStatus(string(dir))
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case err == nil && st.Boot == a.Instance.Boot && (st.State.Ended() || h.Units.Alive(id)):
		return errors.Join(h.plug(ctx, id, st), h.reboot(ctx, id, a, st))
	case err == nil && st.Boot < a.Instance.Boot && !st.State.Ended():
		return h.Units.Stop(ctx, id, powerOffGrace) // the earlier boot must end first
	case h.Units.Alive(id):
		return nil // its shim has not said anything yet
	}
	if _, over := h.failure(id, a.Instance.Boot); over {
		return nil
	}
	for _, name := range []string{a.Kernel, a.Ramdisk} {
		if _, err := cloud.KindOfLocation(name); err != nil { // the shim opens it with all rights
			return fmt.Errorf("start %s: %w", id, err)
		}
		if err := h.imageFile(id, a.Instance.Boot, name); err != nil {
			return fmt.Errorf("start %s: %w", id, err)
		}
	}
	delete(h.absent, id)
	m := bundle.Machine{
		ID: id, Boot: a.Instance.Boot, Generation: a.Instance.Generation, Type: a.Type.Name,
		VCPUs: a.Type.VCPUs, MemoryMiB: a.Type.MemoryMiB, Accel: h.Accel,
		Kernel: filepath.Join(h.Images, a.Kernel), Ramdisk: filepath.Join(h.Images, a.Ramdisk), CommandLine: a.Command,
		User: h.user(id), HotPlug: ports(a),
	}
	var taps []*os.File
	for _, n := range a.Interfaces {
		m.Interfaces = append(m.Interfaces, bundle.MachineInterface{ID: n.ID, MAC: n.MAC, MTU: cmp.Or(h.MTU, eni.DefaultMTU)})
		tap, err := h.Network.Tap(n.ID)
		if err != nil {
			for _, t := range taps {
				t.Close()
			}
			return err
		}
		taps = append(taps, tap)
	}
	if err := bundle.Write(dir.Path("machine.json"), m, 0o600); err != nil {
		return err
	}
	if err := os.Remove(dir.Path("reboots.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := bundle.Write(dir.Path("reboots.json"), a.Instance.Reboots, 0o600); err != nil {
		return err
	}
	h.Log.Info("starting instance", "instance", id, "boot", m.Boot)
	return h.Units.Start(ctx, id, taps)
}

// imagePatience is how long a boot waits for a file of its image: a host that joins a cloud makes its small image in some seconds,
// and an operator copies one in minutes.
const imagePatience = 2 * time.Minute

// imageFile returns an error as long as a file of the image is not in this host's pool. A boot that has waited for long ends with the
// reason; the next one waits anew.
func (h *Host) imageFile(id cloud.InstanceID, boot int, name string) error {
	a, waits := h.absent[id]
	_, err := os.Stat(filepath.Join(h.Images, name))
	if err == nil && waits { // somebody may be copying it just now
		err = whole(filepath.Join(h.Images, name))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	now := h.Now()
	if !waits || a.boot != boot {
		a = absence{boot, now}
		h.absent[id] = a
	}
	err = fmt.Errorf("file %s of its image is not, or not whole, in the pool of host %s: copy it there from a host that has it", name, h.ID)
	if now.Sub(a.since) >= imagePatience {
		delete(h.absent, id)
		h.fail(id, boot, err)
	}
	return err
}

// whole reports by fs.ErrNotExist that a file of the pool is not what its name says, which is the SHA-256 of its content.
func whole(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if want, _, _ := strings.Cut(filepath.Base(path), "."); hex.EncodeToString(sum.Sum(nil)) != want {
		return fs.ErrNotExist
	}
	return nil
}

// absence is a boot that waits for a file of its image, since when.
type absence struct {
	boot  int
	since time.Time
}

// reboot resets the machine when a reboot was asked for since one was last done: two that wait at the same time
// are one, and an agent that is killed between reset and note resets once more.
func (h *Host) reboot(ctx context.Context, id cloud.InstanceID, a cloud.Assignment, st shim.Status) error {
	path := h.Root.Instance(id).Path("reboots.json")
	done, err := bundle.Read[int](path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if done >= a.Instance.Reboots || st.State.Ended() {
		return nil
	}
	h.Log.Info("rebooting instance", "instance", id)
	if err := h.Units.Reboot(ctx, id); err != nil {
		return err
	}
	return bundle.Write(path, a.Instance.Reboots, 0o600)
}

// user returns the user of one QEMU, which nobody else has on this machine: a guest that breaks out of its
// QEMU can neither signal nor read another. The numbers are above those of all distributions and of systemd's
// containers, which end at 0x6fffffff; of two machines of a host in 24 bits, two are the same once in 16 million.
func (h *Host) user(id cloud.InstanceID) bundle.MachineUser {
	sum := sha256.Sum256([]byte(string(h.Root) + "\x00" + string(id)))
	n := 0x70000000 | int(sum[0])<<16 | int(sum[1])<<8 | int(sum[2])
	return bundle.MachineUser{UID: n, GID: n}
}

// prepare writes what the metadata service and the gateway read. Files that say the same already are
// left alone. Where it fails, the wish does not count as seen.
func (h *Host) prepare(dir bundle.Dir, a cloud.Assignment) (err error) {
	defer func() { h.behind[a.Instance.ID] = err != nil }()
	if err := os.MkdirAll(string(dir), 0o755); err != nil {
		return err
	}
	if err := dir.MakeCommands(h.GatewayGID); err != nil {
		return err
	}
	return put(dir.Path("metadata.json"), metadata.Compile(a), h.Group)
}
