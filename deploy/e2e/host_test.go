//go:build vm || walk

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// programs are those of a host, with the directory of their source.
var programs = map[string]string{
	"ichiro": "deploy", "ichiro-control": "control", "ichiro-agent": "agent", "ichiro-shim": "hypervisor-shim",
	"ichiro-imds": "imds", "ichiro-gateway": "runcmd/gateway", "ichiro-s3": "deploy/s3", "ichiro-runcmd": "runcmd", "ichiro-session": "runcmd/client",
	"ichiro-initramfs": "initramfs", "init": "initramfs/init",
}

// bin is where the programs of this test run are, and shared the host that most tests use.
var (
	bin    string
	shared struct {
		sync.Once
		*host
	}
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if os.Geteuid() != 0 {
			fmt.Println("these tests bring up a host, which only root may: skipped")
			return 0
		}
		top, err := os.MkdirTemp("", "e2e-")
		if err == nil {
			err = os.Chmod(top, 0o755)
		}
		if err != nil {
			log.Print(err)
			return 1
		}
		defer os.RemoveAll(top)
		if bin = os.Getenv("ICHIRO_BIN"); bin == "" {
			bin = filepath.Join(top, "bin")
			if err := build(bin); err != nil {
				log.Print(err)
				return 1
			}
		}
		code := m.Run()
		if h := shared.host; h != nil {
			if err := errors.Join(h.end(), os.RemoveAll(h.dir)); err != nil {
				log.Print(err)
				code = max(code, 1)
			}
		}
		return code
	}())
}

// build builds the programs from the tree that the test belongs to. ICHIRO_BUILT is where they have been built just now: they are
// copied, as daemons' users may not come to where they lie.
func build(dir string) error {
	if built := os.Getenv("ICHIRO_BUILT"); built != "" {
		return os.CopyFS(dir, os.DirFS(built))
	}
	for name, source := range programs {
		cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, name), "./"+source)
		cmd.Dir = filepath.Join("..", "..")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %v\n%s", name, err, out)
		}
	}
	return nil
}

// host is one `ichiro up` with its directories.
type host struct {
	dir    string
	cmd    *exec.Cmd
	ended  chan struct{} // closed when cmd has ended
	err    error         // how
	region string
	key    [2]string
	url    string
	space  string // the network namespace that is its machine; "": this one
	heir   *os.File
	clients
}

// ichiro is the operator's tool on the host's machine.
func (h *host) ichiro(args ...string) *exec.Cmd {
	tool := filepath.Join(bin, "ichiro")
	if h.space == "" {
		return exec.Command(tool, args...)
	}
	return exec.Command("nsenter", append([]string{"--net=/run/netns/" + h.space, tool}, args...)...)
}

// clients are what an AWS SDK makes of an endpoint and a key.
type clients struct {
	ec2 *ec2.Client
	ssm *ssm.Client
	iam *iam.Client
	sts *sts.Client
}

func (h *host) run(elem ...string) string { return filepath.Join(h.dir, "run", filepath.Join(elem...)) }
func (h *host) state(elem ...string) string {
	return filepath.Join(h.dir, "state", filepath.Join(elem...))
}

// the returns the host that tests share, brought up by the first.
func the(t *testing.T) *host {
	t.Helper()
	shared.Do(func() {
		h, err := newHost()
		if err == nil {
			shared.host = h
			err = h.up()
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	if shared.host == nil || shared.ec2 == nil {
		t.Fatal("the shared host did not come up")
	}
	return shared.host
}

// another returns a host of the test's own.
func another(t *testing.T) *host {
	t.Helper()
	h, err := newHost()
	if err == nil {
		t.Cleanup(func() {
			if err := errors.Join(h.end(), os.RemoveAll(h.dir)); err != nil {
				t.Error(err)
			}
			if t.Failed() {
				h.tell(t)
			}
		})
		err = h.up()
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func newHost() (*host, error) {
	dir, err := os.MkdirTemp("", "e-") // short: sockets lie below it
	if err != nil {
		return nil, err
	}
	return &host{dir: dir}, os.Chmod(dir, 0o755)
}

// up starts `ichiro up` and returns when it says that all is ready. Its uplink is lo, so that its public addresses are
// announced to nobody beyond this machine.
func (h *host) up(flags ...string) error {
	out, err := os.OpenFile(filepath.Join(h.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	ready := filepath.Join(h.dir, "ready")
	if err := os.Remove(ready); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	h.cmd = h.ichiro(append([]string{"up", "--state", h.state(), "--run", h.run(),
		"--listen", "127.0.0.1:0", "--ready", ready, "--elastic", "198.51.100.0/26", "--uplink", "lo", "--machines", "127.0.0.1:0"}, flags...)...)
	h.cmd.Stdout, h.cmd.Stderr = out, out
	h.cmd.Env = append(os.Environ(), "ICHIRO_LOG=debug")
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := h.leave(); err != nil {
		return err
	}
	if err := h.cmd.Start(); err != nil {
		return err
	}
	cmd, ended := h.cmd, make(chan struct{})
	h.ended = ended
	go func() { h.err = cmd.Wait(); close(ended) }()
	return poll(func() error {
		select {
		case <-ended:
			return fatal{fmt.Errorf("ichiro up ended: %v", h.err)}
		default:
		}
		text, err := os.ReadFile(ready)
		if err != nil {
			return err
		}
		h.reach(string(text))
		return nil
	})
}

// leave has somebody take the host down if this process ends without having done so, as one that a time limit kills does.
func (h *host) leave() error {
	if h.heir != nil {
		return nil
	}
	in, out, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	down := h.ichiro("down", "--state", h.state(), "--run", h.run())
	// It has its words from its environment: processes goes by those of the command line.
	heir := exec.Command("sh", "-c", `read over || { $DOWN; rm -rf "$HOST"; }`)
	heir.Env = append(os.Environ(), "DOWN="+strings.Join(down.Args, " "), "HOST="+h.dir)
	heir.Stdin = in
	heir.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // whoever kills this process's group does not mean it
	if err := heir.Start(); err != nil {
		out.Close()
		return err
	}
	go heir.Wait()
	h.heir = out
	return nil
}

// reach makes the clients of what `ichiro up` has written for shells.
func (h *host) reach(exports string) {
	for line := range strings.Lines(exports) {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		switch name {
		case "AWS_ENDPOINT_URL":
			h.url = value
		case "AWS_ACCESS_KEY_ID":
			h.key[0] = value
		case "AWS_SECRET_ACCESS_KEY":
			h.key[1] = value
		case "AWS_DEFAULT_REGION":
			h.region = value
		}
	}
	h.clients = h.as(h.key[0], h.key[1], "")
}

// as returns the clients of somebody with another key. They do not try again: what the API says the first
// time is what is tested.
func (h *host) as(id, secret, token string) clients {
	cfg := aws.Config{
		Region: h.region, BaseEndpoint: aws.String(h.url), Credentials: credentials.NewStaticCredentialsProvider(id, secret, token),
		Retryer: func() aws.Retryer { return aws.NopRetryer{} }, HTTPClient: detached{},
	}
	return clients{ec2.NewFromConfig(cfg), ssm.NewFromConfig(cfg), iam.NewFromConfig(cfg), sts.NewFromConfig(cfg)}
}

// detached sends a copy of the body: Amazon's client closes its own as soon as it sees the answer, which
// net/http takes for a broken request when it has not yet looked for the body's end.
type detached struct{}

func (detached) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	return http.DefaultClient.Do(r)
}

// signal sends the supervisor a signal and waits until it has ended.
func (h *host) signal(s syscall.Signal) error {
	if err := h.cmd.Process.Signal(s); err != nil {
		return err
	}
	<-h.ended
	return h.err
}

// down runs `ichiro down`.
func (h *host) down() error {
	out, err := h.ichiro("down", "--state", h.state(), "--run", h.run()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ichiro down: %v\n%s", err, out)
	}
	return nil
}

// end takes the host down, whatever has become of it.
func (h *host) end() error {
	err := h.down()
	if h.heir != nil && err == nil {
		h.heir.WriteString("over\n")
		h.heir.Close()
		h.heir = nil
	}
	if h.cmd != nil && h.ended != nil {
		h.cmd.Process.Kill()
		<-h.ended
	}
	return err
}

// tell shows the end of the host's log.
func (h *host) tell(t *testing.T) {
	data, _ := os.ReadFile(filepath.Join(h.dir, "log"))
	t.Logf("%s", data[max(0, len(data)-8000):])
}

// daemon returns the process of a daemon as the supervisor has recorded it.
func (h *host) daemon(name string) (shim.Process, error) {
	p, err := bundle.Read[shim.Process](h.run("daemons", name+".json"))
	if err == nil && !p.Alive() {
		err = fmt.Errorf("%s is dead", name)
	}
	return p, err
}

// kill ends a daemon without warning and returns when its successor runs.
func (h *host) kill(t *testing.T, name string) {
	t.Helper()
	old, err := h.daemon(name)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := syscall.Kill(old.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, name+" is there again", func() error {
		p, err := h.daemon(name)
		if err == nil && p == old {
			err = errors.New("still the old one")
		}
		return err
	})
	t.Logf("%s was there again after %v", name, time.Since(began).Round(time.Millisecond))
}

// patience is how long anything may take on a slow machine that is shared: a whole Debian boots in one under TCG.
const patience = 4 * time.Minute

// fatal ends a poll at once.
type fatal struct{ error }

// poll asks until there is no error, or patience is over, which returns the last one.
func poll(f func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil || errors.As(err, new(fatal)) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func await(t *testing.T, what string, f func() error) time.Duration {
	t.Helper()
	began := time.Now()
	if err := poll(f); err != nil {
		if shared.host != nil {
			shared.tell(t)
		}
		t.Fatalf("%s: not after %v: %v", what, time.Since(began).Round(time.Second), err)
	}
	return time.Since(began)
}

// prefix is before the names that a host gives to what it makes in the kernel.
func (h *host) prefix() string {
	sum := sha256.Sum256([]byte(h.run()))
	return "ic" + hex.EncodeToString(sum[:3])
}

// traces lists what the hosts have in a machine: interfaces, namespaces and rules in its kernel, processes
// of their programs and guests, directories of instances.
func traces(t *testing.T, hosts ...*host) []string {
	t.Helper()
	var out []string
	list := func(prefix string, argv ...string) {
		data, err := exec.Command(argv[0], argv[1:]...).Output()
		if err != nil {
			t.Fatalf("%v: %v", argv, err)
		}
		for line := range strings.Lines(string(data)) {
			out = append(out, prefix+strings.TrimSpace(line))
		}
	}
	list("table ", "nft", "list", "tables")
	spaces, _ := exec.Command("ip", "netns", "list").Output()
	names := []string{""}
	for line := range strings.Lines(string(spaces)) {
		if f := strings.Fields(line); len(f) > 0 {
			out = append(out, "namespace "+f[0])
			names = append(names, f[0])
		}
	}
	for _, n := range names {
		args := []string{"-o", "link"}
		if n != "" {
			args = append([]string{"-n", n}, args...)
		}
		links, _ := exec.Command("ip", args...).Output()
		for line := range strings.Lines(string(links)) {
			if f := strings.Fields(line); len(f) > 1 {
				name, _, _ := strings.Cut(strings.TrimSuffix(f[1], ":"), "@") // the peer's number follows
				out = append(out, "link "+n+" "+name)
			}
		}
	}
	for _, h := range hosts {
		for _, p := range processes(h.dir) {
			out = append(out, "process "+p)
		}
		dirs, _ := filepath.Glob(h.run("instances", "*"))
		for _, d := range dirs {
			out = append(out, "bundle "+filepath.Base(d))
		}
	}
	out = slices.DeleteFunc(out, func(s string) bool {
		mine := func(h *host) bool { return strings.Contains(s, h.prefix()) }
		return !strings.HasPrefix(s, "process ") && !strings.HasPrefix(s, "bundle ") && !slices.ContainsFunc(hosts, mine)
	})
	slices.Sort(out)
	return out
}

// processes lists programs that have something to do with a directory: by their arguments or, as QEMU, by
// what they have open.
func processes(dir string) []string {
	var out []string
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		if pid, _ := strconv.Atoi(filepath.Base(p)); pid == os.Getpid() {
			continue
		}
		argv, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		found := bytes.Contains(argv, []byte(dir+"/"))
		fds, _ := filepath.Glob(filepath.Join(p, "fd", "*"))
		for _, fd := range fds {
			to, _ := os.Readlink(fd)
			found = found || strings.HasPrefix(to, dir+"/run/") || strings.HasPrefix(to, dir+"/state/")
		}
		if found {
			name, _, _ := strings.Cut(string(argv), "\x00")
			out = append(out, filepath.Base(name)+" "+filepath.Base(p))
		}
	}
	return out
}

// differ returns what is only in one of two lists.
func differ(before, after []string) string {
	var b strings.Builder
	for _, s := range after {
		if !slices.Contains(before, s) {
			fmt.Fprintf(&b, "\n+ %s", s)
		}
	}
	for _, s := range before {
		if !slices.Contains(after, s) {
			fmt.Fprintf(&b, "\n- %s", s)
		}
	}
	return b.String()
}
