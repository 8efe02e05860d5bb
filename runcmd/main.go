// Ichiro-runcmd is the Run Command agent in a guest: it executes what its host's gateway sends.
//
// It is one static program that needs nothing but a kernel and a network: it runs in a ramdisk. The
// gateway knows the guest by its address, so there is nothing to configure and no secret to keep. Its
// state (package journal) is in --state; kill it at any time: the next one goes on with what runs. Beside the commands
// it keeps the guest's network as the metadata says (package netconf); --network=false leaves that to others. And it
// keeps the certificates that verify identity documents (package provision).
//
//	ichiro-runcmd            the agent
//	ichiro-runcmd network    only the network, for guests that have another agent or none; SIGHUP reads the metadata
//	ichiro-runcmd exec, act  a step of a command that is more than a script (package act)
//	ichiro-runcmd register   once, in a machine that is no guest: its agent then comes to a gateway over TLS (package machine)
//	ichiro-runcmd provision  what user data asks for at boot, for guests without cloud-init (package provision)
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/ichiro-metal/ichiro/internal/heap"
	"github.com/ichiro-metal/ichiro/internal/provision"
	"github.com/ichiro-metal/ichiro/runcmd/act"
	"github.com/ichiro-metal/ichiro/runcmd/journal"
	"github.com/ichiro-metal/ichiro/runcmd/keeper"
	"github.com/ichiro-metal/ichiro/runcmd/link"
	"github.com/ichiro-metal/ichiro/runcmd/machine"
	"github.com/ichiro-metal/ichiro/runcmd/netconf"
	"github.com/ichiro-metal/ichiro/runcmd/runner"
	"github.com/ichiro-metal/ichiro/runcmd/serial"
	"github.com/ichiro-metal/ichiro/runcmd/session"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// heapRoom is what the collector may leave lying about while there is something to do; when there is not, package link gives it back.
const heapRoom = 4 << 20

// This program does not hang on internal/service: in a guest there is nobody to scrape its metrics, and
// they would double its size.
func main() {
	if len(os.Args) > 1 && (os.Args[1] == "exec" || os.Args[1] == "act") {
		os.Exit(act.Run(os.Args[1:])) // a step's process
	}
	if len(os.Args) == 2 && os.Args[1] == "linger" {
		signal.Ignore(syscall.SIGHUP) // not SIGTERM: that comes when the guest is shut down
		if err := runner.Wait(os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		return
	}
	heap.Keep(heapRoom, 25)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ichiro-runcmd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "provision" {
		return provisionInstance(ctx, args[1:])
	}
	if len(args) > 0 && args[0] == "register" {
		return register(ctx, args[1:])
	}
	flags := flag.NewFlagSet("ichiro-runcmd", flag.ExitOnError)
	gateway := flags.String("gateway", "ws://169.254.169.254:8774"+wire.Path, "`URL` of the host's gateway")
	state := flags.String("state", stateDir, "`directory` of the journal, and of the registration of a machine that is no guest")
	etc := flags.String("etc", "/etc", "`directory` of passwd and group, for sessions")
	grace := flags.Duration("grace", 5*time.Second, "`time` between SIGTERM and SIGKILL of a command that must end")
	verbose := flags.Bool("verbose", false, "log every attempt to connect")
	network := flags.Bool("network", true, "keep the guest's network as its metadata says")
	lock := flags.String("network-lock", "/run/ichiro-netconf.lock", "`file` that lets one process keep the network")
	bootID := flags.String("boot-id", "/proc/sys/kernel/random/boot_id", "`file` that names this boot of the guest")
	reboot := flags.String("reboot", "", "`program` that reboots the guest; found by itself if empty")
	api := flags.String("api", "169.254.169.254:8773", "`address` of the API, for the certificates")
	certificates := flags.String("certificates", provision.CertificatesFile, "`file` for the certificates that verify identity documents; none when empty")
	shell := flags.String("await-shell", "", "`file` of a shell that knows --await: one is always started in advance, for the next command")
	only := len(args) > 0 && args[0] == "network"
	if only {
		args = args[1:]
	}
	flags.Parse(args)

	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	net := netconf.New(netconf.Config{Lock: *lock, Log: log})
	if only {
		return keepNetwork(ctx, net)
	}
	if !*network {
		net = nil
	}
	dir, err := filepath.Abs(*state) // commands have working directories of their own
	if err != nil {
		return err
	}
	self, err := machine.Load(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if self != nil { // no host's agent keeps its network, and no metadata service is there to ask
		net, *gateway, *certificates = nil, self.URL(), ""
	}
	kept := keeper.Connect()
	if kept == nil {
		return keeper.New(log).Run(ctx)
	}
	address, err := netip.ParseAddrPort(*api)
	if err != nil {
		return fmt.Errorf("read -api: %w", err)
	}
	return work(ctx, kept, config{*gateway, dir, *shell, *bootID, *reboot, *etc, *grace, net, self, provision.Certificates{API: address, File: *certificates}}, log)
}

// stateDir is where the agent's state is unless it is told otherwise.
const stateDir = "/var/lib/ichiro-runcmd"

// register registers this machine, which is no guest.
func register(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("ichiro-runcmd register", flag.ExitOnError)
	gateway := flags.String("gateway", "", "`HOST:PORT` where a host's gateway takes machines (ichiro up --machines)")
	certificate := flags.String("certificate", "", "`file` with that gateway's certificate: STATE/gateway/certificate.pem of its host")
	id := flags.String("id", "", "`ID` of an activation (aws ssm create-activation)")
	code := flags.String("code", os.Getenv("ICHIRO_ACTIVATION_CODE"), "its `code`; better in the environment as ICHIRO_ACTIVATION_CODE, which no process list shows")
	state := flags.String("state", stateDir, "`directory` of the agent's state")
	flags.Parse(args)
	if *gateway == "" || *certificate == "" || *id == "" || *code == "" {
		return errors.New("give -gateway, -certificate, -id and -code")
	}
	pem, err := os.ReadFile(*certificate)
	if err != nil {
		return err
	}
	instance, err := machine.Register(ctx, *state, *gateway, pem, *id, *code)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n", instance)
	return nil
}

// keepNetwork is all that is done without the agent. Nobody tells of new metadata then: SIGHUP does.
func keepNetwork(ctx context.Context, net *netconf.Manager) error {
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	go func() { // ends with the process
		for range reload {
			net.Changed()
		}
	}()
	return net.Run(ctx)
}

type config struct {
	gateway, state, shell string
	bootID, reboot, etc   string
	grace                 time.Duration
	network               *netconf.Manager // nil: others keep it
	machine               *machine.Machine // nil: it is a guest
	certificates          provision.Certificates
}

// work is the agent proper. Its keeper starts it again when it dies.
func work(ctx context.Context, kept *keeper.Client, cfg config, log *slog.Logger) error {
	j, err := journal.Open(filepath.Join(cfg.state, "commands"))
	if err != nil {
		return err
	}
	if cfg.machine != nil {
		if err := j.Remember(filepath.Join(cfg.state, "ended")); err != nil {
			return fmt.Errorf("remember which commands have ended: %w", err)
		}
	}
	boot, err := os.ReadFile(cfg.bootID)
	if err != nil {
		return err
	}
	go kept.Run(ctx) // ends with the process
	hello := hello(string(bytes.TrimSpace(boot)))
	l := link.New(cfg.gateway, hello, log)
	dial := serial.NewWay(wire.Network, log).DialContext
	if cfg.machine != nil {
		dial = cfg.machine.Dialer()
	}
	l.Dial(dial)
	r := runner.New(runner.Config{
		Journal: j, Boot: hello.Boot, Environment: environment(hello), Shell: cfg.shell, Grace: cfg.grace,
		Changed: l.Changed, Keep: kept.Keep, Release: kept.Release, Exit: kept.Exit,
		Reboot: func() error { return reboot(cfg.reboot) }, Log: log,
	})
	l.Attach(r)
	guests := session.New(session.Config{Gateway: cfg.gateway, Dial: dial, Etc: cfg.etc, Group: r.Group, Log: log})
	defer guests.Close()
	l.Host(guests)
	if cfg.network != nil {
		l.Listen(cfg.network.Changed)
		go func() { // ends with the process
			if err := cfg.network.Run(ctx); err != nil {
				log.Error("the network is not kept", "err", err)
			}
		}()
	}
	if cfg.certificates.File != "" {
		go cfg.certificates.Keep(ctx, func(err error) { log.Warn("certificates may be old", "err", err) }) // ends with the process
	}
	if err := r.Adopt(ctx); err != nil {
		return err
	}
	kept.Settled()
	err = l.Run(ctx)
	if err := r.Linger(); err != nil {
		log.Error("leave somebody who waits for the commands that run", "err", err)
	}
	return err
}

// reboot asks for a reboot of the guest, by a program or else by what the guest has for it.
func reboot(program string) error {
	argv := []string{program}
	if _, err := os.Stat("/run/systemd/system"); program == "" && err == nil {
		argv = []string{"systemctl", "reboot"}
	} else if program == "" {
		argv = []string{"reboot"}
	}
	if _, err := exec.LookPath(argv[0]); err != nil && program == "" {
		syscall.Sync()
		return syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	}
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %.200s", argv[0], err, out)
	}
	return nil
}

func hello(boot string) wire.Hello {
	h := wire.Hello{Version: wire.Version, Agent: version(), Boot: boot, PlatformType: "Linux", Level: wire.Level}
	h.ComputerName, _ = os.Hostname()
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		release = []byte("NAME=ichiro\n")
	}
	for line := range strings.Lines(string(release)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch value = strings.Trim(value, `"'`); key {
		case "NAME":
			h.PlatformName = value
		case "VERSION_ID":
			h.PlatformVer = value
		}
	}
	return h
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return strings.Trim(info.Main.Version, "()")
}

// environment is what every script is given besides its request's own.
func environment(h wire.Hello) []string {
	env := os.Environ()
	if os.Getenv("PATH") == "" { // started by an init that sets none
		env = append(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	if os.Getenv("HOME") == "" {
		env = append(env, "HOME=/root")
	}
	return append(env, "AWS_SSM_PLATFORM_NAME="+h.PlatformName, "AWS_SSM_PLATFORM_VERSION="+h.PlatformVer)
}
