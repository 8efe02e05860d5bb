package main_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/handover"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// The tests here run the real programs: an agent and a gateway that meet over loopback. The test plays
// the host's agent: it hands over the listening socket and writes requests. It only looks at files.

const (
	vpc      = cloud.VPCID("vpc-0123456789abcdef0")
	instance = cloud.InstanceID("i-0123456789abcdef0")
)

var programs = sync.OnceValues(func() (string, error) { return build("") })

// build builds the programs with a build tag into a new directory.
func build(tag string) (string, error) {
	dir, err := os.MkdirTemp("", "rc-bin-")
	if err != nil {
		return "", err
	}
	for name, pkg := range map[string]string{"agent": ".", "gateway": "./gateway", "sh": "../initramfs/init"} {
		cmd := exec.Command("go", "build", "-tags", tag, "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, name), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %v\n%s", pkg, err, out)
		}
	}
	return dir, nil
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, built := range []func() (string, error){programs, armed} {
		if dir, err := built(); err == nil {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// host is one host with one guest.
type host struct {
	t     testing.TB
	bin   string
	root  bundle.Root
	dir   bundle.Dir
	state string // of the agent
	early bool   // a shell of the small guest is started in advance
	env   []string
	url   string
	etc   string // passwd and group of its sessions; "": the machine's
	boot  string // the file that names the boot of the guest
	boots int
	wires wires
	log   *logs

	watch   chan struct{} // something changed below commands/
	gateway *exec.Cmd
	agent   *exec.Cmd
}

type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newHost makes a host whose daemons do not run yet.
func newHost(t testing.TB) *host { return newHostOf(t, instance) }

// newHostOf makes a host of a guest, or a machine, with that ID.
func newHostOf(t testing.TB, id cloud.InstanceID) *host {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	run, err := os.MkdirTemp("", "rc-") // t.TempDir's names are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	h := &host{t: t, bin: bin, root: bundle.Root(run), state: t.TempDir(), log: &logs{}, watch: make(chan struct{}, 1)}
	h.dir = h.root.Instance(id)
	h.boot = filepath.Join(run, "boot")
	check(t, os.WriteFile(h.boot, []byte("first\n"), 0o644))
	check(t, os.MkdirAll(string(h.dir), 0o755))
	check(t, h.dir.MakeCommands(os.Getgid()))
	check(t, bundle.Write(h.dir.Path("metadata.json"), bundle.Metadata{
		Instance:   id,
		Interfaces: []bundle.MetadataInterface{{VPC: vpc, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}},
	}, 0o644))

	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	server := handover.NewServer(h.root.Handover(), quiet)
	wg.Go(func() { server.Run(ctx) })
	<-server.Ready()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	h.url = "ws://" + l.Addr().String() + wire.Path
	check(t, server.Offer("runcmd", vpc, "", func() (*os.File, error) { return l.(*net.TCPListener).File() }))
	l.Close()

	w, err := bundle.NewWatcher(h.dir.Commands(), 1)
	check(t, err)
	wg.Go(func() { w.Run(ctx) })
	wg.Go(func() {
		for {
			select {
			case <-w.C():
				select {
				case h.watch <- struct{}{}:
				default:
				}
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs:\n%s", h.log)
		}
	})
	return h
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *host) start(name string, args ...string) *exec.Cmd {
	h.t.Helper()
	cmd := exec.Command(filepath.Join(h.bin, name), args...)
	cmd.Stdout, cmd.Stderr = h.log, h.log
	level := "ICHIRO_LOG=debug"
	if os.Getenv("ICHIRO_MEASURE") != "" {
		level = "ICHIRO_LOG=info" // as on a host
	}
	cmd.Env = append(append(os.Environ(), level), h.env...)
	check(h.t, cmd.Start())
	h.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

func (h *host) startGateway(args ...string) {
	h.gateway = h.start("gateway", append([]string{"--run", string(h.root)}, args...)...)
}

func (h *host) startAgent() { // verbose: the log is only shown when a test fails
	// This is no guest: what a step with 194 asks for must not happen. The witness gives the guest another boot's name.
	witness := filepath.Join(string(h.root), "reboot")
	check(h.t, os.WriteFile(witness, []byte("#!/bin/sh\nset -e\ncp /proc/sys/kernel/random/uuid "+h.boot+"\ntouch "+witness+".asked\n"), 0o755))
	args := []string{"--boot-id", h.boot, "--reboot", witness, "--gateway", h.url, "--state", h.state, "--grace", "300ms", "--verbose",
		"--network=false"} // this is no guest: its network is not to be touched
	if h.etc != "" {
		args = append(args, "--etc", h.etc)
	}
	if h.early {
		args = append(args, "--await-shell", filepath.Join(h.bin, "sh"))
	}
	h.agent = h.start("agent", args...)
}

func kill(cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait()
}

func (h *host) send(script string, edit ...func(*bundle.CommandRequest)) cloud.CommandID {
	h.t.Helper()
	id, err := cloud.NewUUID(rand.Reader)
	check(h.t, err)
	req := bundle.CommandRequest{CommandWish: cloud.CommandWish{
		Command: cloud.CommandID(id), Instance: h.dir.ID(), DocumentName: "AWS-RunShellScript",
		Steps:     []cloud.Step{{Name: "runShellScript", Action: "aws:runShellScript", Script: script, TimeoutSeconds: 3600}},
		Requested: time.Now(), DeliverBy: time.Now().Add(time.Hour),
	}}
	for _, f := range edit {
		f(&req)
	}
	check(h.t, h.dir.PutCommand(req))
	return req.Command
}

// wait waits until what the files say of a command satisfies ok.
func (h *host) wait(id cloud.CommandID, ok func(cloud.Invocation) bool) cloud.Invocation {
	h.t.Helper()
	for {
		inv, err := h.dir.Invocation(id)
		check(h.t, err)
		if ok(inv) {
			return inv
		}
		select {
		case <-h.watch:
		case <-time.After(10 * time.Second): // a guard: the tests wait for events
			h.t.Fatalf("nothing new of %s: %+v", id, inv)
		}
	}
}

func (h *host) end(id cloud.CommandID) cloud.Invocation {
	h.t.Helper()
	return h.wait(id, func(i cloud.Invocation) bool { return i.Status.Terminal() })
}

func (h *host) output(id cloud.CommandID, s wire.Stream) string {
	h.t.Helper()
	data, err := os.ReadFile(h.dir.CommandOutput(id, s.String()))
	if err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
	return string(data)
}

func TestCommandRunsInTheGuest(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startGateway()
	h.startAgent()
	for _, c := range []struct {
		name, script       string
		status             cloud.InvocationStatus
		code               int
		stdout, stderrPart string
	}{
		{"true", "true", cloud.InvocationSuccess, 0, "", ""},
		{"both outputs and a code", "echo out; echo err >&2; exit 7", cloud.InvocationFailed, 7, "out\n", "err\n"},
		{"environment", `echo $AWS_SSM_INSTANCE_ID $COLOUR; pwd`, cloud.InvocationSuccess, 0, string(instance) + " blue\n/\n", ""},
		{"another interpreter", "#!/bin/cat\nas it is", cloud.InvocationSuccess, 0, "#!/bin/cat\nas it is", ""},
		{"no such interpreter", "#!/no/such/thing\n", cloud.InvocationFailed, 127, "", "no such file"},
		{"a signal", "kill -9 $$", cloud.InvocationFailed, 137, "", ""},
		{"a child in the background that keeps stdout", "sleep 1000 & echo $!", cloud.InvocationSuccess, 0, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := h.send(c.script, func(r *bundle.CommandRequest) { r.Environment = map[string]string{"COLOUR": "blue"} })
			inv := h.end(id)
			stdout, stderr := h.output(id, wire.Stdout), h.output(id, wire.Stderr)
			if inv.Status != c.status || inv.ResponseCode != c.code {
				t.Errorf("got %s with code %d, want %s with %d", inv.Status, inv.ResponseCode, c.status, c.code)
			}
			if c.stdout != "" && stdout != c.stdout {
				t.Errorf("got stdout %q, want %q", stdout, c.stdout)
			}
			if !strings.Contains(stderr, c.stderrPart) {
				t.Errorf("got stderr %q, want %q in it", stderr, c.stderrPart)
			}
			for text, got := range map[string]string{stdout: inv.StdoutSHA256, stderr: inv.StderrSHA256} {
				if want := fmt.Sprintf("%x", sha256.Sum256([]byte(text))); text != "" && got != want || text == "" && stdout != stderr && got != "" {
					t.Errorf("got the digest %q of %q, want %q", got, text, want)
				}
			}
			if inv.StdoutBytes != int64(len(stdout)) || inv.StderrBytes != int64(len(stderr)) {
				t.Errorf("got sizes %d and %d, want %d and %d", inv.StdoutBytes, inv.StderrBytes, len(stdout), len(stderr))
			}
			if strings.HasPrefix(c.script, "sleep") {
				exec.Command("kill", strings.TrimSpace(stdout)).Run()
			}
		})
	}
}
