// Command ichiro is the operator's tool: it brings a host up, looks at it, and takes it down.
//
// Everything that the AWS CLI can say is said with the AWS CLI; ichiro has only what it cannot:
// the host's own life, the doctor, and consoles and outputs of commands as they are written.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/ichiro-metal/ichiro/deploy/doctor"
	"github.com/ichiro-metal/ichiro/deploy/host"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/service"
)

const usage = `usage: ichiro COMMAND [--run DIR] [--state DIR] ...

  up       bring this host up and keep it running in the foreground
  down     take it down: daemons, guests, interfaces, run directory; the state stays
  status   the daemons and instances of this host
  env      the shell exports for the AWS CLI
  doctor   what a host needs, and how to mend what is missing
  console  the console of an instance:  ichiro console [-f] INSTANCE
  command  the output of a command as it comes:  ichiro command follow COMMAND [INSTANCE]
  shell    a shell in an instance:      ichiro shell INSTANCE [COMMAND ...]
  forward  a port of an instance:       ichiro forward INSTANCE LOCAL:[HOST:]PORT
  image    put a file into the image pool:  ichiro image add kernel|ramdisk FILE

` + "`ichiro COMMAND --help` lists the flags of a command."

func main() {
	var code exitCode
	result := service.Main("ichiro", func(ctx context.Context, args []string, log *slog.Logger) error {
		err := run(ctx, args, log)
		if errors.As(err, &code) {
			return nil
		}
		return err
	})
	os.Exit(max(result, int(code)))
}

// exitCode is the end of a command in a guest, which becomes that of this program.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("the command ended with %d", int(c)) }

func run(ctx context.Context, args []string, log *slog.Logger) error {
	if len(args) == 0 {
		return service.Usagef("%s", usage)
	}
	commands := map[string]func(context.Context, []string, *slog.Logger) error{
		"up": up, "down": down, "status": status, "env": env, "doctor": examine, "console": console, "image": image, "command": command,
		"shell": session("shell"), "forward": session("forward"),
	}
	f, ok := commands[args[0]]
	if !ok {
		if strings.Contains(args[0], "help") || args[0] == "-h" {
			fmt.Println(usage)
			return nil
		}
		return service.Usagef("unknown command %q\n%s", args[0], usage)
	}
	return f(ctx, args[1:], log)
}

// parse parses a command's flags with the two that every command has.
func parse(name string, args []string, define func(*flag.FlagSet)) (host.Layout, []string, error) {
	fs := flag.NewFlagSet("ichiro "+name, flag.ContinueOnError)
	run := fs.String("run", "/run/ichiro", "run directory: what does not survive a reboot")
	state := fs.String("state", "/var/lib/ichiro", "state directory: what does")
	if define != nil {
		define(fs)
	}
	var words []string // flags may stand before, behind and between them
	for {
		switch err := fs.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			return host.Layout{}, nil, err
		case err != nil:
			return host.Layout{}, nil, service.Usagef("%v", err)
		}
		if args = fs.Args(); len(args) == 0 {
			break
		}
		words, args = append(words, args[0]), args[1:]
	}
	l, err := host.NewLayout(*state, *run)
	return l, words, err
}

// plain parses the flags of a command that takes no words: one more is a mistake that could mean another host.
func plain(name string, args []string) (host.Layout, error) {
	l, words, err := parse(name, args, nil)
	if err == nil && len(words) > 0 {
		err = service.Usagef("%s takes no argument, got %q", name, words)
	}
	return l, err
}

// regionName is what the names of regions and zones are made of: they stand in host names and in keys.
var regionName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$`)

func up(ctx context.Context, args []string, log *slog.Logger) error {
	opt := host.Options{Out: os.Stdout}
	var pool string
	l, rest, err := parse("up", args, func(fs *flag.FlagSet) {
		fs.StringVar(&opt.Listen, "listen", "127.0.0.1:8773", "address of the API; port 0 chooses a free one")
		fs.StringVar(&opt.Ready, "ready", "", "file to write when all is ready: shell exports for the AWS CLI")
		fs.StringVar(&opt.Region, "region", "ichiro-1", "name of the region")
		fs.StringVar(&opt.Zone, "zone", "", "name of the availability zone (default: the region's a)")
		fs.StringVar(&opt.Account, "account", "000000000000", "account number, 12 digits")
		fs.StringVar(&opt.Config, "config", "/etc/ichiro/ichiro.toml", "file with further instance types; it need not exist")
		fs.StringVar(&opt.Etcd, "etcd", "", "endpoints of an external etcd, comma separated (default: embedded)")
		fs.StringVar(&opt.EtcdTLS[0], "etcd-cert", "", "client certificate file for --etcd")
		fs.StringVar(&opt.EtcdTLS[1], "etcd-key", "", "its key file")
		fs.StringVar(&opt.EtcdTLS[2], "etcd-ca", "", "file of the CA that signed the etcd servers' certificates")
		fs.StringVar(&opt.Accel, "accel", "auto", "auto, kvm or tcg")
		fs.StringVar(&opt.Outside, "uplink", "", "link that leads out of this machine (default: that of the default route)")
		fs.StringVar(&opt.Uplink, "uplink-range", "100.64.0.0/16", "addresses for the links between VPCs and this machine")
		fs.StringVar(&opt.Elastic, "elastic", "", "public addresses to give out: CIDRs, comma separated; every address of them is used")
		fs.StringVar(&opt.IPv6Pool, "ipv6-pool", "", "VPCs' blocks of IPv6 come from here, and are routed to this machine: CIDRs, comma separated (default: unique local ones, which stay in their VPC)")
		fs.StringVar(&opt.Issuer, "issuer", "", "`URL` by which systems that trust instances' tokens reach the API (default: its own, which only this machine reaches)")
		fs.StringVar(&opt.Machines, "machines", "", "`HOST:PORT` at which machines that are no guests come to Run Command, over TLS (default: none may)")
		fs.StringVar(&opt.Underlay, "underlay", "", "`address` of this machine at which the cloud's other hosts reach it, to join VPCs by VXLAN (default: they are not joined)")
		fs.IntVar(&opt.MTU, "mtu", 9001, "MTU of the instances' network interfaces")
		fs.StringVar(&opt.SourceCheck, "source-check", "instance", "instance: an interface may use all addresses of its instance; eni: only its own, as on EC2")
		fs.StringVar(&opt.Shaping, "shaping", "on", "on: an instance has the bandwidth of its type, as on EC2; off: as much as there is")
		fs.StringVar(&opt.Resolvers, "resolvers", "", "addresses of the resolvers for guests' questions, comma separated (default: those of /etc/resolv.conf)")
		fs.BoolVar(&opt.TrustClock, "trust-clock", false, "tell guests that this machine's clock is right even when the kernel says that nothing keeps it")
		fs.StringVar(&opt.Kernel, "kernel", "", "kernel of the small image (default: the newest /boot/vmlinuz-*-cloud-amd64)")
		fs.StringVar(&pool, "pool", "", "volume pool, qcow2:DIR or rbd:... (volumes are not there yet)")
		fs.BoolVar(&opt.Print, "print", false, "print the exports for the AWS CLI when all is ready")
		fs.BoolVar(&opt.WithGuests, "with-guests", false, "end the guests too when told to stop")
	})
	if err != nil {
		return err
	}
	switch {
	case len(rest) > 0:
		return service.Usagef("up takes no argument, got %q", rest)
	case pool != "":
		return service.Usagef("--pool: volumes are not there yet")
	case !slices.Contains([]string{"auto", "kvm", "tcg"}, opt.Accel):
		return service.Usagef("--accel %q: want auto, kvm or tcg", opt.Accel)
	case opt.SourceCheck != "instance" && opt.SourceCheck != "eni":
		return service.Usagef("--source-check %q: want instance or eni", opt.SourceCheck)
	case opt.Shaping != "on" && opt.Shaping != "off":
		return service.Usagef("--shaping %q: want on or off", opt.Shaping)
	case opt.MTU < 576 || opt.MTU > 65521:
		return service.Usagef("--mtu %d: want 576 to 65521", opt.MTU)
	case !regionName.MatchString(opt.Region):
		return service.Usagef("--region %q: want small letters, digits and hyphens, such as ichiro-1", opt.Region)
	case opt.Zone != "" && !regionName.MatchString(opt.Zone):
		return service.Usagef("--zone %q: want small letters, digits and hyphens, such as ichiro-1a", opt.Zone)
	case len(opt.Account) != 12 || strings.Trim(opt.Account, "0123456789") != "":
		return service.Usagef("--account %q: want 12 digits", opt.Account)
	}
	if p, err := netip.ParsePrefix(opt.Uplink); err != nil {
		return service.Usagef("--uplink-range: %v", err)
	} else if !p.Addr().Is4() || p.Bits() > 28 {
		return service.Usagef("--uplink-range %s: want a range of IPv4, of /28 or wider: each VPC takes two addresses", p)
	}
	if _, err := net.InterfaceByName(opt.Outside); opt.Outside != "" && err != nil {
		return service.Usagef("--uplink %s: %v", opt.Outside, err)
	}
	if _, err := os.Stat(opt.Kernel); opt.Kernel != "" && err != nil {
		return service.Usagef("--kernel: %v", err)
	}
	if _, err := cloud.ParsePool(opt.Elastic); err != nil {
		return service.Usagef("--elastic: %v", err)
	}
	if _, err := cloud.ParseResolvers(opt.Resolvers); opt.Resolvers != "" && err != nil {
		return service.Usagef("--resolvers: %v", err)
	}
	if _, err := cloud.ParseIPv6Pool(opt.IPv6Pool); err != nil {
		return service.Usagef("--ipv6-pool: %v", err)
	}
	if opt.Zone == "" {
		opt.Zone = opt.Region + "a"
	}
	opt.Layout = l
	return host.Up(ctx, opt, log)
}

func down(ctx context.Context, args []string, log *slog.Logger) error {
	l, err := plain("down", args)
	if err != nil {
		return err
	}
	return host.Down(ctx, l, log)
}

func status(ctx context.Context, args []string, _ *slog.Logger) error {
	l, err := plain("status", args)
	if err != nil {
		return err
	}
	return host.Status(ctx, l, os.Stdout)
}

func env(_ context.Context, args []string, _ *slog.Logger) error {
	l, err := plain("env", args)
	if err != nil {
		return err
	}
	text, err := host.Env(l)
	fmt.Print(text)
	return err
}

func examine(_ context.Context, args []string, _ *slog.Logger) error {
	l, err := plain("doctor", args)
	if err != nil {
		return err
	}
	failed := 0
	for _, f := range doctor.Examine(doctor.Where{
		State:  l.State,
		Ranges: []netip.Prefix{netip.MustParsePrefix("172.31.0.0/16"), netip.MustParsePrefix("100.64.0.0/16")},
	}) {
		fmt.Printf("%-5s %-19s %s\n", f.Grade, f.Check, f.Found)
		if f.Mend != "" {
			fmt.Printf("%26s-> %s\n", "", f.Mend)
		}
		if f.Grade == doctor.Fail {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d checks failed: this machine cannot be a host yet", failed)
	}
	return nil
}

func console(ctx context.Context, args []string, _ *slog.Logger) error {
	var follow bool
	l, rest, err := parse("console", args, func(fs *flag.FlagSet) {
		fs.BoolVar(&follow, "f", false, "go on as the guest writes")
	})
	if err != nil {
		return err
	}
	if len(rest) != 1 || !cloud.WellFormed(cloud.InstanceID(rest[0]), "i") {
		return service.Usagef("usage: ichiro console [-f] INSTANCE")
	}
	r, err := host.Console(ctx, l, cloud.InstanceID(rest[0]), follow)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(os.Stdout, r)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func image(_ context.Context, args []string, _ *slog.Logger) error {
	l, rest, err := parse("image", args, nil)
	if err != nil {
		return err
	}
	if len(rest) != 3 || rest[0] != "add" {
		return service.Usagef("usage: ichiro image [--state DIR] add kernel|ramdisk FILE")
	}
	name, err := host.AddToPool(l, rest[2], rest[1])
	if err != nil {
		return err
	}
	fmt.Println(name)
	return nil
}
