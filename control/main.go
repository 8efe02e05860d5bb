// Command ichiro-control is the control plane: the API, the planner, and by default the store.
//
// It has no rights on the host; everything that it wants done it writes into the store. Several of them may
// run over one external store: they decide the same, and compare-and-swap lets one of them win.
package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"flag"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ichiro-metal/ichiro/control/api"
	"github.com/ichiro-metal/ichiro/control/api/ec2"
	iamapi "github.com/ichiro-metal/ichiro/control/api/iam"
	"github.com/ichiro-metal/ichiro/control/api/resourcegroups"
	"github.com/ichiro-metal/ichiro/control/api/ssm"
	"github.com/ichiro-metal/ichiro/control/api/sts"
	"github.com/ichiro-metal/ichiro/control/cluster"
	"github.com/ichiro-metal/ichiro/control/config"
	"github.com/ichiro-metal/ichiro/control/etcd"
	"github.com/ichiro-metal/ichiro/control/iam"
	objectdoor "github.com/ichiro-metal/ichiro/control/iam/door"
	"github.com/ichiro-metal/ichiro/control/notify"
	"github.com/ichiro-metal/ichiro/control/objects"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/door"
	"github.com/ichiro-metal/ichiro/internal/reconcile"
	"github.com/ichiro-metal/ichiro/internal/service"
	"github.com/ichiro-metal/ichiro/internal/store"
)

func main() { os.Exit(service.Main("control", run)) }

type options struct {
	root                   bundle.Root
	state                  string
	config                 string
	listen                 string
	listenFD               int
	region, zone, account  string
	etcd, cert, key, cacrt string
	elastic, ipv6          []netip.Prefix
	objectsUser, imdsUser  uint
	gatewayUser            uint
	issuer                 string
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("ichiro-control", flag.ContinueOnError)
	dir := flags.String("run", "/run/ichiro", "run `directory`")
	flags.StringVar(&o.state, "state", "/var/lib/ichiro", "state `directory`")
	flags.StringVar(&o.listen, "listen", "127.0.0.1:8773", "`address` of the API; port 0 chooses a free one")
	flags.IntVar(&o.listenFD, "listen-fd", 0, "`descriptor` that listens at that address already; 0 for none")
	flags.StringVar(&o.region, "region", "ichiro-1", "name of the region")
	flags.StringVar(&o.zone, "zone", "ichiro-1a", "name of the default availability zone")
	flags.StringVar(&o.account, "account", "000000000000", "account number, 12 digits")
	flags.StringVar(&o.config, "config", "/etc/ichiro/ichiro.toml", "`file` with what flags are too small for; it need not exist")
	flags.StringVar(&o.etcd, "etcd", "", "`endpoints` of an external etcd, comma separated (default: embedded)")
	flags.StringVar(&o.cert, "etcd-cert", "", "client certificate `file` for --etcd")
	flags.StringVar(&o.key, "etcd-key", "", "its key `file`")
	flags.StringVar(&o.cacrt, "etcd-ca", "", "`file` of the CA that signed the servers' certificates")
	flags.UintVar(&o.objectsUser, "objects-user", 0, "`uid` that the object store runs as, and that may ask whom an S3 request is from")
	flags.UintVar(&o.gatewayUser, "gateway-user", 0, "`uid` that the gateway runs as, and that may carry machines' registrations here")
	flags.UintVar(&o.imdsUser, "imds-user", 0, "`uid` that the metadata service runs as, and that may carry guests' requests here")
	flags.StringVar(&o.issuer, "issuer", "", "`URL` by which systems that trust instances' tokens reach this API (default: its own, which only this machine reaches)")
	elastic := flags.String("elastic", "", "public addresses to give out: `CIDRs`, comma separated; every address of them is used")
	ipv6 := flags.String("ipv6-pool", "", "VPCs' blocks of IPv6 come from here: `CIDRs`, comma separated (default: unique local ones)")
	if err := service.Parse(flags, args); err != nil {
		return o, err
	}
	var err error
	if o.ipv6, err = cloud.ParseIPv6Pool(*ipv6); err != nil {
		return o, service.Usagef("--ipv6-pool: %v", err)
	}
	if o.elastic, err = cloud.ParsePool(*elastic); err != nil {
		return o, service.Usagef("--elastic: %v", err)
	}
	if o.issuer != "" {
		if err := checkIssuer(o.issuer); err != nil {
			return o, err
		}
	}
	o.root = bundle.Root(*dir)
	return o, loopback(o.listen)
}

// loopback refuses addresses that others could reach: the API has no TLS yet, and requests carry role
// credentials.
func loopback(listen string) error {
	name, _, err := net.SplitHostPort(listen)
	if err != nil {
		return service.Usagef("--listen: %v", err)
	}
	if a, err := netip.ParseAddr(name); err != nil || !a.IsLoopback() {
		return service.Usagef("--listen %s: only loopback addresses for now, as HTTPS is not there yet; put a TLS proxy in front to reach further", listen)
	}
	return nil
}

// open returns the socket of the API: the one that was lent to us, or a new one.
func (o options) open() (net.Listener, error) {
	if o.listenFD == 0 {
		return net.Listen("tcp", o.listen)
	}
	f := os.NewFile(uintptr(o.listenFD), "api")
	defer f.Close()
	return net.FileListener(f)
}

func run(ctx context.Context, args []string, log *slog.Logger) error {
	if len(args) > 0 {
		switch args[0] {
		case "rotate-identity":
			return rotate(args[1:])
		case "schedule-maintenance":
			return scheduleMaintenance(ctx, args[1:])
		case "end-maintenance":
			return endMaintenance(ctx, args[1:])
		}
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	site, err := config.Read(o.config)
	if err != nil {
		return service.Usagef("%v", err) // starting again changes nothing
	}
	account := cloud.AccountID(o.account)
	cfg := etcd.Config{Dir: filepath.Join(o.state, "etcd"), Socket: o.root.Etcd()}
	if o.etcd != "" {
		cfg.External = store.Config{Endpoints: strings.Split(o.etcd, ","), Cert: o.cert, Key: o.key, CA: o.cacrt}
		if _, err := cfg.External.Check(); err != nil {
			return service.Usagef("--etcd: %v", err)
		}
	}
	server, err := etcd.Open(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer server.Close()
	client := server.Client()
	keys := filepath.Join(o.state, "keys")
	engine, err := iam.New(client, iam.Config{KeyDir: keys, Account: o.account, Log: log})
	if err != nil {
		return err
	}
	hosts, err := keyFile(filepath.Join(keys, "hosts"), 32)
	if err != nil {
		return err
	}
	seed, err := keyFile(filepath.Join(keys, "door"), ed25519.SeedSize)
	if err != nil {
		return err
	}
	caller, err := door.NewIdentity(ed25519.NewKeyFromSeed(seed))
	if err != nil {
		return err
	}
	sealer, err := store.NewSealer(hosts)
	if err != nil {
		return err
	}
	signer, err := openNotary(keys, filepath.Join(string(o.root), "control", "identity.crt"), o.region, log)
	if err != nil {
		return err
	}
	name, err := cluster.Name(ctx, client)
	if err != nil {
		return err
	}
	if err := cluster.Bootstrap(ctx, client, cluster.Default{Account: account, Zones: []string{o.zone}, Public: len(o.elastic) > 0}); err != nil {
		return err
	}
	listener, err := o.open()
	if err != nil {
		return err
	}
	endpoint := "http://" + listener.Addr().String()

	mirror := store.NewMirror(client, store.All("spec"), store.All("wish"), store.All("status"), store.All("host"))
	authority := iamapi.NewAuthority(engine)
	tokens := newIssuer(signer, cmp.Or(o.issuer, endpoint), hosts, wishOf(mirror, engine.ProfileNow))
	prometheus.MustRegister(tokens.issued)
	sender := notify.New(site.NotifyAllow)
	doors := door.Client{Identity: caller, Latest: func(h cloud.Host) cloud.Host {
		if o, err := store.MirroredGet(mirror.Snapshot(), store.Hosts, h.ID); err == nil {
			return o.Value
		}
		return h
	}}
	outputs := buckets{engine, authority, objects.New(o.root.Objects(), o.region)}
	front, guests, audit, err := newFront(o, backing{
		store: client, mirror: mirror, engine: engine, authority: authority, endpoint: endpoint, types: site.InstanceTypes, tokens: tokens,
		reader: doors, registry: prometheus.DefaultRegisterer, log: log, outputs: outputs, sender: sender,
	})
	if err != nil {
		return err
	}
	defer audit.Close()

	plan := cluster.Config{
		Store: client, Mirror: mirror, Cloud: name, Signer: signer, Region: o.region, Account: account,
		Types: site.InstanceTypes, Elastic: o.elastic, Caller: caller.Public(), Now: time.Now, Log: log, Ended: commandNotes(front),
	}
	keeper := cluster.New(plan)
	planner := reconcile.New("cluster", 30*time.Second, keeper.Reconcile)
	minting := reconcile.New("credentials", 30*time.Second, (&cluster.Credentials{Config: plan, Minter: minter{engine}, Sealer: sealer}).Reconcile)
	sessions := reconcile.New("sessions", 15*time.Second, guests.Reconcile)
	commands := reconcile.New("commands", 30*time.Second, keeper.ReconcileCommands)
	sending := reconcile.New("sending", 30*time.Second, keeper.ReconcileSending)
	telling := reconcile.New("notices", 5*time.Second, (&cluster.Notices{Config: plan, Poster: sender}).Reconcile)
	carrying := reconcile.New("outputs", 30*time.Second, (&cluster.Outputs{Config: plan, Door: doors, Bucket: outputs}).Reconcile)
	images := reconcile.New("images", 30*time.Second, func(ctx context.Context) error {
		return cluster.RegisterPool(ctx, client, filepath.Join(o.state, "images"), account, time.Now().UTC())
	})
	watcher, err := bundle.NewWatcher(filepath.Join(o.state, "images"), 1)
	if err != nil {
		return err
	}
	signing := reconcile.New("identity", 30*time.Second, signer.Reconcile)
	signer.wake = planner.Wake
	engine.OnChange(minting.Wake) // a role that was made, or whose sessions were revoked
	mirror.OnChangeOf(func(key string) bool { return !store.AboutCommands(key) }, func() { planner.Wake(); minting.Wake() })
	mirror.OnChangeOf(store.AboutCommands, func() {
		sending.Wake()
		carrying.Wake()
		telling.Wake()
		commands.WakeWithin(time.Second) // thousands of ends come together, and each run looks at all
	})

	return service.Run(ctx,
		server,
		service.Admin(o.root.Admin("control")),
		engine,
		objectdoor.New(engine, o.root.ObjectDoor(), log, uint32(o.objectsUser)),
		mirror,
		after(planner, mirror.Ready()),
		after(minting, mirror.Ready(), engine.Ready()),
		after(commands, mirror.Ready()),
		after(sending, mirror.Ready()),
		after(telling, mirror.Ready()),
		after(carrying, mirror.Ready(), engine.Ready()),
		after(sessions, mirror.Ready()),
		images,
		signing,
		service.Func("watcher", watcher.Run),
		service.Func("files", func(ctx context.Context) error {
			for {
				select {
				case <-watcher.C():
					images.Wake()
				case <-ctx.Done():
					return nil
				}
			}
		}),
		newServing(o, log, front, listener, endpoint, mirror.Ready(), engine.Ready()),
	)
}

// backing is what the API stands on.
type backing struct {
	store     *store.Client
	mirror    *store.Mirror
	engine    *iam.Engine
	authority *iamapi.Authority
	endpoint  string
	types     []cloud.InstanceType
	tokens    *issuer
	reader    door.Client
	outputs   buckets
	sender    *notify.Sender
	registry  prometheus.Registerer
	log       *slog.Logger
}

// newFront builds the API from its services.
func newFront(o options, b backing) (*api.Front, *ssm.Sessions, *os.File, error) {
	sealing, err := keyFile(filepath.Join(o.state, "keys", "pager"), 32)
	if err != nil {
		return nil, nil, nil, err
	}
	pager, err := api.NewPager(sealing)
	if err != nil {
		return nil, nil, nil, err
	}
	boxes, err := keyFile(filepath.Join(o.state, "keys", "parameters"), 32)
	if err != nil {
		return nil, nil, nil, err
	}
	secrets, err := store.NewSealer(boxes)
	if err != nil {
		return nil, nil, nil, err
	}
	audit, err := os.OpenFile(filepath.Join(o.state, "audit", "audit.jsonl"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, nil, err
	}
	var front *api.Front
	run := ssm.Config{Region: o.region, Sealer: secrets, Store: b.store, Mirror: b.mirror, Door: b.reader, Sessions: b.reader, Pager: pager, Now: time.Now, Rand: rand.Reader, Log: b.log,
		Outputs: b.outputs, Endpoint: b.endpoint, Authorize: mayIn(o.region, b.authority), Notify: b.sender.Check}
	run.Registered = func(n cloud.ManagedNode, source, code string) {
		front.Note("ssm", "RegisterManagedInstance", api.Identity{Account: string(n.Account)}, "managed-instance/"+string(n.ID), registration{source, n.Activation, code})
	}
	run.Ended = func(x cloud.Session) error {
		return front.Note("ssm", "SessionEnded", api.Identity{Account: string(x.Account), ARN: x.Owner}, "session/"+string(x.ID), sessionNote{x.Target, x.Started, *x.End})
	}
	guests := ssm.NewSessions(run)
	front, err = api.New(api.Config{
		Region: o.region, Authority: b.authority, Log: b.log, Audit: audit, Registry: b.registry,
		Objects:       o.root.Objects(),
		Channels:      guests,
		Registrations: ssm.Registrations(run),
		Public:        b.tokens.public(),
		Services: []api.Service{
			ec2.New(ec2.Config{
				Store: b.store, Mirror: b.mirror, Profiles: profiles{b.engine, b.authority}, Door: b.reader, Pager: pager,
				Region: o.region, Zone: o.zone, Endpoint: strings.TrimPrefix(b.endpoint, "http://"), Types: b.types, Elastic: o.elastic, IPv6Pool: o.ipv6,
				Now: time.Now, Rand: rand.Reader, Log: b.log,
			}),
			ssm.New(run),
			resourcegroups.New(resourcegroups.Config{
				Store: b.store, Mirror: b.mirror, Pager: pager, Region: o.region, Log: b.log,
				Sources: []resourcegroups.Source{{Kinds: ec2.ResourceKinds(), Each: ec2.Resources}, {Kinds: ssm.ResourceKinds, Each: ssm.Resources}},
			}),
			iamapi.Service(b.engine, b.authority, b.tokens.url),
			sts.Service(b.engine, b.authority, b.tokens),
		},
	})
	return front, guests, audit, err
}

// registration is what the audit keeps of a machine that has registered, or was refused.
type registration struct {
	Source     string             `json:"source"`
	Activation cloud.ActivationID `json:"activation,omitempty"`
	Code       string             `json:"code,omitempty"`
}

// commandNote is what the audit keeps of how a command has ended on an instance.
type commandNote struct {
	Command      cloud.CommandID        `json:"command"`
	Document     string                 `json:"document"`
	Version      string                 `json:"version,omitempty"`
	Status       cloud.InvocationStatus `json:"status"`
	Details      string                 `json:"details"`
	Code         int                    `json:"code"`
	Requested    time.Time              `json:"requested"`
	Started      *time.Time             `json:"started,omitempty"`
	Ended        *time.Time             `json:"ended,omitempty"`
	StdoutBytes  int64                  `json:"stdoutBytes"`
	StdoutSHA256 string                 `json:"stdoutSHA256,omitempty"`
	StderrBytes  int64                  `json:"stderrBytes"`
	StderrSHA256 string                 `json:"stderrSHA256,omitempty"`
}

// commandNotes writes a line for each instance that a command was sent to, when it has ended on all.
func commandNotes(front *api.Front) func(cloud.Command, []cloud.Invocation) error {
	at := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	return func(c cloud.Command, ends []cloud.Invocation) error {
		var errs []error
		for _, i := range ends {
			resource := "instance/" + string(i.Instance)
			if cloud.WellFormed(i.Instance, cloud.ManagedPrefix) {
				resource = "managed-" + resource
			}
			errs = append(errs, front.Note("ssm", "CommandEnded", api.Identity{Account: string(c.Account), ARN: c.Owner}, resource, commandNote{
				Command: c.ID, Document: c.DocumentName, Version: c.DocumentVersion, Status: i.Status, Details: i.Details, Code: i.ResponseCode, Requested: c.Requested,
				Started: at(i.Started), Ended: at(i.Ended), StdoutBytes: i.StdoutBytes, StdoutSHA256: i.StdoutSHA256,
				StderrBytes: i.StderrBytes, StderrSHA256: i.StderrSHA256,
			}))
		}
		return errors.Join(errs...)
	}
}

// sessionNote is what the audit keeps of a session that has ended.
type sessionNote struct {
	Target  cloud.InstanceID `json:"target"`
	Started time.Time        `json:"started"`
	End     cloud.SessionEnd `json:"end"`
}
