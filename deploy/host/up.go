package host

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ichiro-metal/ichiro/deploy/process"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// Options are the choices of `ichiro up`.
type Options struct {
	Layout
	Listen      string
	Ready       string // the file that is written when all is ready; "" for none
	Region      string
	Zone        string
	Account     string
	Config      string    // ichiro.toml
	Etcd        string    // endpoints of an external cluster; "" for the embedded one
	EtcdTLS     [3]string // files for it: certificate, key, CA
	Accel       string
	Outside     string // link that leads out; "" for the default route's
	Uplink      string
	Elastic     string // public addresses to give out: CIDRs with commas between them
	IPv6Pool    string // VPCs' blocks of IPv6 come from here, as Elastic
	Issuer      string // URL by which systems that trust instances' tokens reach the API; "" for its own
	Machines    string // HOST:PORT where machines that are no guests come to Run Command; "" for nowhere
	Underlay    string // address of this machine for the cloud's other hosts; "" for a host that stands alone
	MTU         int
	SourceCheck string
	Shaping     string
	Resolvers   string // for guests' questions; "" for those of /etc/resolv.conf
	TrustClock  bool
	Kernel      string // the kernel of the small image; "" for the newest installed cloud kernel
	WithGuests  bool   // end the guests too when told to stop
	Print       bool   // print the exports, secret included: for people, not for logs
	Out         *os.File
}

// Up runs the host until ctx ends. It writes opt.Ready when every daemon is ready.
func Up(ctx context.Context, opt Options, log *slog.Logger) error {
	lock, err := opt.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	self, err := shim.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	began := time.Now()
	users := LookupUsers()
	if err := opt.make(users); err != nil {
		return err
	}
	if err := bundle.Write(filepath.Join(opt.Run, "up.json"), self, 0o644); err != nil {
		return err
	}
	defer os.Remove(filepath.Join(opt.Run, "up.json"))
	if err := opt.endLeft(log); err != nil {
		return err
	}
	// The API's socket is ours and lent to the control plane: while that is started again requests wait in
	// the backlog, and the port stays the same.
	listener, err := net.Listen("tcp", opt.Listen)
	if err != nil {
		return fmt.Errorf("listen for the API: %w: choose another address with --listen", err)
	}
	defer listener.Close()
	socket, err := listener.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	defer socket.Close()
	opt.Listen = listener.Addr().String()

	d := daemons(opt, users, socket, log)
	g, gctx := errgroup.WithContext(ctx)
	// The daemons outlive the context of their group: they are stopped one after the other, the agent before
	// the control plane whose store it writes to. Guests are removed between the two, when no agent is left
	// that would repair what is taken away.
	stop := make([]context.CancelFunc, len(d))
	for i, one := range d {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		stop[i] = cancel
		g.Go(func() error { return one.Run(own) })
	}
	g.Go(func() error {
		<-gctx.Done()
		var err error
		for i := len(d) - 1; i >= 0; i-- {
			if i == 0 && opt.WithGuests {
				err = opt.remove(context.WithoutCancel(ctx), log)
			}
			stop[i]()
			<-d[i].Ended()
		}
		return err
	})
	g.Go(func() error {
		for _, one := range d {
			select {
			case <-one.Ready():
				log.Info("daemon ready", "daemon", one.Name, "after", time.Since(began).Round(time.Millisecond))
			case <-gctx.Done():
				return nil
			}
		}
		exports, err := opt.writeExports()
		if err != nil {
			return err
		}
		if opt.Ready != "" {
			if err := bundle.WriteBytes(opt.Ready, []byte(exports), 0o600); err != nil {
				return fmt.Errorf("write the ready file: %w", err)
			}
		}
		fmt.Fprintf(opt.Out, "# ready after %.2f s; `ichiro env --run %s` prints the exports for the AWS CLI\n", time.Since(began).Seconds(), opt.Run)
		if opt.Print {
			fmt.Fprint(opt.Out, exports)
		}
		return nil
	})
	g.Go(func() error {
		if err := buildSmallImage(gctx, opt, log); err != nil && gctx.Err() == nil {
			log.Error("the small image is not built; the host works without it", "err", err)
		}
		return nil
	})
	err = g.Wait()
	if opt.Ready != "" {
		os.Remove(opt.Ready)
	}
	return err
}

// endLeft ends the daemons of a supervisor that was killed: they hold the API's socket.
func (l Layout) endLeft(log *slog.Logger) error {
	for name, id := range process.Recorded(l.records()) {
		if id.Alive() {
			log.Info("ending a daemon without supervisor", "daemon", name, "pid", id.PID)
			if err := process.End(id, 10*time.Second); err != nil {
				return fmt.Errorf("end the %s of an earlier supervisor: %w", name, err)
			}
		}
	}
	return nil
}

// daemons returns the programs of a host in the order in which they are waited for.
func daemons(opt Options, u Users, socket *os.File, log *slog.Logger) []*process.Daemon {
	control := []string{
		"--run", opt.Run, "--state", opt.State, "--listen", opt.Listen, "--listen-fd", "4",
		"--region", opt.Region, "--zone", opt.Zone, "--account", opt.Account, "--config", opt.Config, "--elastic", opt.Elastic, "--ipv6-pool", opt.IPv6Pool, "--issuer", opt.Issuer,
		"--objects-user", fmt.Sprint(u.Objects.UID), "--imds-user", fmt.Sprint(u.IMDS.UID), "--gateway-user", fmt.Sprint(u.Gateway.UID),
	}
	agent := []string{
		"--run", opt.Run, "--state", opt.State, "--region", opt.Region, "--zone", opt.Zone, "--accel", opt.Accel, "--uplink", opt.Outside, "--uplink-range", opt.Uplink, "--ipv6-pool", opt.IPv6Pool,
		"--underlay", opt.Underlay, "--mtu", fmt.Sprint(opt.MTU), "--source-check", opt.SourceCheck, "--shaping", opt.Shaping,
		"--control-user", ids(u.Control), "--imds-user", ids(u.IMDS), "--gateway-user", ids(u.Gateway),
		"--group", fmt.Sprint(u.Group),
	}
	if opt.Etcd != "" {
		tls := []string{"--etcd", opt.Etcd, "--etcd-cert", opt.EtcdTLS[0], "--etcd-key", opt.EtcdTLS[1], "--etcd-ca", opt.EtcdTLS[2]}
		control, agent = append(control, tls...), append(agent, tls...)
	}
	one := func(name string, user process.User, args ...string) *process.Daemon {
		return &process.Daemon{
			Name: name, Path: opt.program("ichiro-" + name), Args: args,
			User: user, Record: opt.record(name), Log: log,
		}
	}
	api := one("control", u.Control, control...)
	api.Files = []*os.File{socket}
	return []*process.Daemon{
		api,
		one("agent", process.User{}, agent...),
		one("imds", u.IMDS, "--run", opt.Run, "--token-key", opt.tokenKey(), "--api", opt.Listen, "--resolvers", opt.Resolvers, fmt.Sprintf("--trust-clock=%t", opt.TrustClock)),
		one("gateway", u.Gateway, "--run", opt.Run, "--sessions", opt.sessions(), "--machines", opt.Machines, "--identity", opt.gateway(), "--host", filepath.Join(opt.State, "host-id")),
		one("s3", u.Objects, "--run", opt.Run, "--state", opt.State, "--region", opt.Region),
	}
}

func ids(u process.User) string { return fmt.Sprintf("%d:%d", u.UID, u.GID) }

// writeExports writes how to reach the API, as lines for a shell, where `ichiro env` finds them.
func (opt Options) writeExports() (string, error) {
	var key struct{ AccessKeyId, SecretAccessKey string } //nolint:staticcheck // the names are those of the file
	data, err := os.ReadFile(filepath.Join(opt.keys(), "root"))
	if err != nil {
		return "", fmt.Errorf("read the root key: %w", err)
	}
	if err := json.Unmarshal(data, &key); err != nil {
		return "", fmt.Errorf("decode the root key: %v", err)
	}
	text, err := exports("http://"+opt.Listen, key.AccessKeyId, key.SecretAccessKey, opt.Region)
	if err != nil {
		return "", err
	}
	return text, bundle.WriteBytes(opt.exports(), []byte(text), 0o600)
}

// plain is what means nothing to a shell: all that keys, regions and endpoints are made of.
var plain = regexp.MustCompile(`^[A-Za-z0-9+/=_.:\[\]-]+$`)

// exports returns lines that an operator's shell, most often root's, evaluates. The key file belongs to the control
// plane, which has no rights on the host and gets none in this way.
func exports(endpoint, id, secret, region string) (string, error) {
	var b strings.Builder
	for _, v := range [][2]string{
		{"AWS_ENDPOINT_URL", endpoint}, {"AWS_ACCESS_KEY_ID", id}, {"AWS_SECRET_ACCESS_KEY", secret}, {"AWS_DEFAULT_REGION", region},
	} {
		if !plain.MatchString(v[1]) {
			return "", fmt.Errorf("write %s for a shell: its value is empty or has characters that a shell would read", v[0])
		}
		fmt.Fprintf(&b, "export %s=%s\n", v[0], v[1])
	}
	return b.String(), nil
}

// Env returns the lines that Up wrote.
func Env(l Layout) (string, error) {
	data, err := os.ReadFile(l.exports())
	if err != nil || len(process.Recorded(l.records())) == 0 {
		return "", fmt.Errorf("no host is up in %s: start one with `ichiro up --run %s --state DIR`", l.Run, l.Run)
	}
	return string(data), nil
}
