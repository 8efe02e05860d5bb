package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/handover"
)

// The test binary is also the program: it has to be killed for real.
func TestMain(m *testing.M) {
	if os.Getenv("IMDS_PROGRAM") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

const (
	testVPC = cloud.VPCID("vpc-00000000000000001")
	testID  = cloud.InstanceID("i-00000000000000001")
	nobody  = 65534
)

// host is a run directory, an agent's end of the handover, and the address that a guest would ask.
type host struct {
	t    *testing.T
	root bundle.Root
	key  string
	addr string
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "imds")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &host{t: t, root: bundle.Root(filepath.Join(dir, "run")), key: filepath.Join(dir, "keys", "token")}
	for _, d := range []string{string(h.root), filepath.Dir(h.key), filepath.Dir(h.root.Admin("imds")), string(h.root.Instance(testID))} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getuid() == 0 { // what `ichiro up` does
		for path, mode := range map[string]os.FileMode{dir: 0o755, filepath.Dir(h.key): 0o777, filepath.Dir(h.root.Admin("imds")): 0o777} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	m := bundle.Metadata{
		Instance:   testID,
		Interfaces: []bundle.MetadataInterface{{VPC: testVPC, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}},
		Options:    cloud.MetadataOptions{HTTPTokens: "required", HTTPEndpoint: "enabled", HopLimit: 1},
	}
	if err := bundle.Write(h.root.Instance(testID).Path("metadata.json"), m, 0o644); err != nil {
		t.Fatal(err)
	}
	agent := handover.NewServer(h.root.Handover(), slog.New(slog.DiscardHandler))
	agent.Admit("imds", nobody)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := agent.Run(ctx); err != nil {
			t.Errorf("agent: %v", err)
		}
	})
	<-agent.Ready()
	t.Cleanup(func() { cancel(); running.Wait(); agent.Withdraw(testVPC) })
	err = agent.Offer("imds", testVPC, "", func() (*os.File, error) {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		h.addr = l.Addr().String()
		return l.(*net.TCPListener).File()
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// start runs the program, as an unprivileged user if there is a choice, until it says that it is ready.
func (h *host) start() *exec.Cmd {
	h.t.Helper()
	ready, told, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	defer ready.Close()
	binary := os.Args[0]
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		binary = h.copyOf(binary)
		attr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	cmd := exec.Command(binary, "--run", string(h.root), "--token-key", h.key, "--rate", "0")
	cmd.Env = []string{"IMDS_PROGRAM=1", "ICHIRO_READY_FD=3"}
	cmd.ExtraFiles = []*os.File{told}
	cmd.SysProcAttr = attr
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	told.Close()
	h.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if line, err := bufio.NewReader(ready).ReadString('\n'); line != "READY\n" {
		cmd.Wait()
		h.t.Fatalf("program says %q, %v; its errors:\n%s", line, err, &stderr)
	}
	return cmd
}

// copyOf puts the program where an unprivileged user can read it; go test builds in a private directory.
func (h *host) copyOf(binary string) string {
	h.t.Helper()
	path := filepath.Join(filepath.Dir(string(h.root)), "program")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o755); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func (h *host) request(method, path, header, value string) (int, string, error) {
	req, err := http.NewRequest(method, "http://"+h.addr+path, nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set(header, value)
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func TestKillingTheProgramRefusesNoRequestAndNoToken(t *testing.T) {
	h := newHost(t)
	program := h.start()
	code, token, err := h.request("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", "21600")
	if err != nil || code != 200 {
		t.Fatalf("token: %d, %v", code, err)
	}
	var answered, broken, wrong atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	progress := make(chan struct{})
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				code, body, err := h.request("GET", "/latest/meta-data/instance-id", "X-aws-ec2-metadata-token", token)
				switch {
				case errors.Is(err, syscall.ECONNREFUSED), err == nil && (code != 200 || body != string(testID)):
					wrong.Add(1)
					t.Errorf("got %d %q, %v", code, body, err)
				case err != nil:
					broken.Add(1) // was being answered
				default:
					answered.Add(1)
					select {
					case progress <- struct{}{}:
					default:
					}
				}
			}
		})
	}
	const kills = 10
	<-progress
	for range kills {
		program.Process.Kill()
		program.Wait()
		program = h.start()
		for range 50 { // its successor is at work
			<-progress
		}
	}
	cancel()
	clients.Wait()
	t.Logf("%d kills: %d answered, %d broken off, %d wrong or refused", kills, answered.Load(), broken.Load(), wrong.Load())
	if n := broken.Load(); n > 4*kills {
		t.Errorf("%d requests broken off by %d kills with 4 clients", n, kills)
	}
}

func TestTheProgramStopsWhenTold(t *testing.T) {
	h := newHost(t)
	program := h.start()
	c, err := net.Dial("unix", h.root.Admin("imds"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET /metrics HTTP/1.0\r\n\r\n")
	if page, _ := io.ReadAll(c); !strings.Contains(string(page), "ichiro_imds_connections") {
		t.Errorf("metrics are\n%s", page)
	}
	if err := program.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := program.Wait(); err != nil {
		t.Errorf("the program ends with %v", err)
	}
}

func TestAMissingKeyIsAMistakeOfTheCaller(t *testing.T) {
	cmd := exec.Command(os.Args[0], "--run", t.TempDir())
	cmd.Env = []string{"IMDS_PROGRAM=1"}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "--token-key") {
		t.Errorf("got %v: %s", err, out)
	}
}
