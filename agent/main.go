// Command ichiro-agent makes this host true: it is the only daemon with rights over the network, and the
// only one of the host that knows the store.
//
//	ichiro-agent          run: follow the wishes for this host
//	ichiro-agent remove   end all guests of the run directory and remove what the agent made in the kernel
package main

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/agent/door"
	"github.com/ichiro-metal/ichiro/agent/eni"
	"github.com/ichiro-metal/ichiro/agent/host"
	"github.com/ichiro-metal/ichiro/agent/unit"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	wire "github.com/ichiro-metal/ichiro/internal/door"
	"github.com/ichiro-metal/ichiro/internal/handover"
	"github.com/ichiro-metal/ichiro/internal/reconcile"
	"github.com/ichiro-metal/ichiro/internal/service"
	"github.com/ichiro-metal/ichiro/internal/store"
)

func main() { os.Exit(service.Main("agent", run)) }

// options are the flags.
type options struct {
	root   bundle.Root
	state  string
	zone   string
	region string
	etcd   string
	tls    store.Config // its files
	accel  string
	uplink string
	pool   netip.Prefix
	mtu    int
	pool6  []netip.Prefix

	underlay netip.Addr

	strict  bool
	shaping bool
	program string
	control account
	imds    account
	gateway account
	group   int
}

// account is a user and its group, UID:GID on the command line.
type account struct{ uid, gid int }

func (a *account) Set(s string) error {
	_, err := fmt.Sscanf(s, "%d:%d", &a.uid, &a.gid)
	return err
}

func (a *account) String() string { return fmt.Sprintf("%d:%d", a.uid, a.gid) }

func parse(args []string) (options, error) {
	var o options
	self, err := os.Executable()
	if err != nil {
		return o, err
	}
	flags := flag.NewFlagSet("ichiro-agent", flag.ContinueOnError)
	dir := flags.String("run", "/run/ichiro", "run `directory`")
	flags.StringVar(&o.state, "state", "/var/lib/ichiro", "state `directory`")
	flags.StringVar(&o.region, "region", "ichiro-1", "name of the region")
	flags.StringVar(&o.zone, "zone", "ichiro-1a", "availability `zone` of this host")
	flags.StringVar(&o.etcd, "etcd", "", "`endpoints` of the store, comma separated (default: the embedded one of this host)")
	flags.StringVar(&o.tls.Cert, "etcd-cert", "", "client certificate `file` for --etcd")
	flags.StringVar(&o.tls.Key, "etcd-key", "", "its key `file`")
	flags.StringVar(&o.tls.CA, "etcd-ca", "", "`file` of the CA that signed the servers' certificates")
	flags.StringVar(&o.accel, "accel", "auto", "auto, kvm or tcg")
	flags.StringVar(&o.uplink, "uplink", "", "`link` that leads out of this machine (default: that of the default route)")
	flags.TextVar(&o.pool, "uplink-range", netip.Prefix{}, "`addresses` for the links between VPCs and this machine")
	six := flags.String("ipv6-pool", "", "VPCs' blocks of IPv6 within these are routed to this machine from outside: `CIDRs`, comma separated")
	underlay := flags.String("underlay", "", "`address` of this machine at which the cloud's other hosts reach it, to join VPCs by VXLAN (default: they are not joined)")
	flags.IntVar(&o.mtu, "mtu", eni.DefaultMTU, "MTU of the guests' interfaces")
	check := flags.String("source-check", "instance", "instance: an interface may use all addresses of its instance; eni: only its own")
	shaping := flags.String("shaping", "on", "on: an instance has the bandwidth of its type; off: as much as there is")
	flags.StringVar(&o.program, "shim", filepath.Join(filepath.Dir(self), "ichiro-shim"), "the shim's `program`")
	flags.Var(&o.control, "control-user", "`UID:GID` of ichiro-control, who may open the door")
	flags.Var(&o.imds, "imds-user", "`UID:GID` of ichiro-imds")
	flags.Var(&o.gateway, "gateway-user", "`UID:GID` of ichiro-gateway")
	flags.IntVar(&o.group, "group", 0, "`GID` that the daemons have in common")
	if err := service.Parse(flags, args); err != nil {
		return o, err
	}
	if *check != "instance" && *check != "eni" {
		return o, service.Usagef("--source-check %q: want instance or eni", *check)
	}
	if *shaping != "on" && *shaping != "off" {
		return o, service.Usagef("--shaping %q: want on or off", *shaping)
	}
	if o.mtu < 576 || o.mtu > 65521 {
		return o, service.Usagef("--mtu %d: want 576 to 65521", o.mtu)
	}
	if o.pool6, err = cloud.ParseIPv6Pool(*six); err != nil {
		return o, service.Usagef("--ipv6-pool: %v", err)
	}
	if *underlay != "" {
		if o.underlay, o.mtu, err = joined(*underlay, o.mtu); err != nil {
			return o, service.Usagef("--underlay: %v", err)
		}
	}
	o.strict, o.shaping = *check == "eni", *shaping == "on"
	o.root = bundle.Root(*dir)
	if o.etcd == "" {
		o.etcd = "unix://" + o.root.Etcd()
	}
	return o, nil
}

// joined reads the underlay address, and returns with it the MTU that guests may have so that what they send to each other
// arrives whole. An address that the machine does not have yet is no reason to leave its guests alone: then it is Ethernet's.
func joined(text string, mtu int) (netip.Addr, int, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		return a, mtu, fmt.Errorf("%q is not an IPv4 address", text)
	}
	most, err := eni.OverlayMTU(a)
	if err != nil {
		most = 1500 - 50 // what VXLAN takes
	}
	return a, min(mtu, most), nil
}

func run(ctx context.Context, args []string, log *slog.Logger) error {
	if len(args) > 0 && args[0] == "remove" {
		o, err := parse(args[1:])
		if err != nil {
			return err
		}
		return remove(ctx, o, log)
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	id, err := hostID(filepath.Join(o.state, "host-id"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.root.Instances(), 0o755); err != nil {
		return err
	}
	client, err := store.Open(ctx, store.Config{Endpoints: strings.Split(o.etcd, ","), Cert: o.tls.Cert, Key: o.tls.Key, CA: o.tls.CA})
	if err != nil {
		return err
	}
	defer client.Close()
	network, err := eni.New(eni.Prefix(string(o.root)), log)
	if err != nil {
		return err
	}
	defer network.Close()
	prometheus.MustRegister(network)
	watcher, err := bundle.NewWatcher(o.root.Instances(), 3)
	if err != nil {
		return err
	}
	sockets := handover.NewServer(o.root.Handover(), log)
	for _, service := range []string{"imds", "dns", "ntp", "api"} { // one daemon serves them all
		sockets.Admit(service, uint32(o.imds.uid))
	}
	sockets.Admit("runcmd", uint32(o.gateway.uid))
	units := unit.New(o.root, o.program, log)
	mirror := store.NewMirror(client, store.WishPrefix(id))
	reading := door.New(o.root, o.control.uid, log)
	far, err := open(ctx, o.underlay, mirror, id, reading)
	if err != nil {
		return err
	}
	member, err := host.NewMember(id, filepath.Join(o.state, "cloud-id"))
	if err != nil {
		return err
	}
	cfg := host.Config{
		ID: id, Zone: o.zone, Region: o.region, Root: o.root, Images: filepath.Join(o.state, "images"), Keys: filepath.Join(o.state, "keys"),
		Prefix: eni.Prefix(string(o.root)), Uplink: o.uplink, Pool: o.pool, Underlay: o.underlay, Pool6: o.pool6, MTU: o.mtu, Strict: o.strict, Unshaped: !o.shaping, Accel: o.accel,
		IMDSGroup: o.imds.gid, GatewayGID: o.gateway.gid, Group: o.group,
		Store: client, Mirror: mirror, Member: member, Network: network, Units: units, Sockets: sockets, Now: time.Now, Log: log,
	}
	h, c := host.New(cfg), host.NewCommands(cfg)
	instances := reconcile.New("instances", 30*time.Second, after(h.Recall, h.Reconcile))
	commands := reconcile.New("commands", 30*time.Second, after(c.Recall, c.Reconcile))
	mirror.OnChangeOf(store.AboutCommands, commands.Wake)
	mirror.OnChangeOf(func(key string) bool { return !store.AboutCommands(key) }, instances.Wake)
	restored := make(chan struct{})

	if _, err := units.Adopt(ctx); err != nil {
		return err
	}
	return service.Run(ctx,
		service.Admin(o.root.Admin("agent")),
		sockets,
		reading,
		service.Func("network", network.Run),
		service.Func("units", units.Run),
		mirror,
		service.Func("watcher", watcher.Run),
		service.Func("files", func(ctx context.Context) error { return follow(ctx, h, c, watcher, units, instances, commands) }),
		service.Func("restore", func(ctx context.Context) error {
			defer close(restored)
			if err := h.Restore(ctx); err != nil {
				log.Warn("the network is not restored before the store answers", "err", err)
			}
			return nil
		}),
		announce(cfg, far),
		gate(instances, mirror.Ready(), restored),
		gate(commands, mirror.Ready()),
	)
}

// open opens the door on the network of the cloud's machines, if this is one of several, and returns what others must know
// of it. Its key is made anew at each start: nobody has to keep it.
func open(ctx context.Context, underlay netip.Addr, mirror *store.Mirror, id cloud.HostID, d *door.Door) (cloud.Host, error) {
	if !underlay.IsValid() {
		return cloud.Host{}, nil
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return cloud.Host{}, err
	}
	me, err := wire.NewIdentity(key)
	if err != nil {
		return cloud.Host{}, err
	}
	early := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { // the address may come later
		var set error
		err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) })
		return errors.Join(err, set)
	}}
	l, err := early.Listen(ctx, "tcp", netip.AddrPortFrom(underlay, 0).String())
	if err != nil {
		return cloud.Host{}, fmt.Errorf("open the door on the underlay: %w", err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	d.Also(tls.NewListener(l, me.Serve(func() []byte {
		o, err := store.MirroredGet(mirror.Snapshot(), store.Callers(id), store.CallerID)
		if err != nil {
			return nil
		}
		return o.Value
	})))
	return cloud.Host{FarDoor: netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), DoorKey: me.Public()}, nil
}

// follow wakes the loops when a file has changed that they read, or a machine has ended.
func follow(ctx context.Context, h *host.Host, c *host.Commands, w *bundle.Watcher, u *unit.Manager, instances, commands *reconcile.Loop) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case path := <-w.C():
			switch {
			case path == "":
				c.Listen()
				instances.Wake()
				commands.Wake()
			case filepath.Base(filepath.Dir(path)) == "commands":
				if filepath.Base(path) == "agent.json" {
					c.Listen()
				}
				commands.Wake()
			case filepath.Base(path) == "status.json":
				instances.Wake()
			}
		case e := <-u.Exited():
			h.Failed(e)
			instances.Wake()
		}
	}
}

// after returns a function that runs first until it has succeeded once, and f each time.
func after(first, f func(context.Context) error) func(context.Context) error {
	recalled := false
	return func(ctx context.Context) error {
		if !recalled {
			if err := first(ctx); err != nil {
				return err
			}
			recalled = true
		}
		return f(ctx)
	}
}

// gated is a loop that begins when others are ready. Before the mirror has seen the store it shows no wish, and
// an empty answer would read as "end everything".
type gated struct {
	*reconcile.Loop
	on []<-chan struct{}
}

func gate(l *reconcile.Loop, on ...<-chan struct{}) service.Task { return gated{l, on} }

func (g gated) Run(ctx context.Context) error {
	for _, c := range g.on {
		select {
		case <-c:
		case <-ctx.Done():
			return nil
		}
	}
	return g.Loop.Run(ctx)
}

// announce writes what this host is into the store, and every ten seconds that it is there.
func announce(cfg host.Config, far cloud.Host) service.Task {
	return service.Func("announce", func(ctx context.Context) error {
		version := "devel"
		if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
			version = info.Main.Version
		}
		// A processor may be promised several times: guests are seldom all busy.
		me, err := host.Machine(cfg.ID, cfg.Zone, cfg.Root.Door(), cfg.Accel, version, max(16, 8*runtime.NumCPU()))
		if err != nil {
			return err
		}
		tick := time.NewTicker(10 * time.Second)
		defer tick.Stop()
		me.Underlay, me.FarDoor, me.DoorKey = cfg.Underlay, far.FarDoor, far.DoorKey
		for {
			me.Seen, me.Cloud = cfg.Now().UTC(), cfg.Member.Cloud()
			t := store.NewTxn()
			store.Put(t, store.Hosts, me.ID, me)
			if _, err := cfg.Store.Commit(ctx, t); err != nil && ctx.Err() == nil {
				cfg.Log.Warn("not announced", "err", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	})
}
