package handover

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

const testVPC = cloud.VPCID("vpc-00000000000000001")

// The test binary is its own agent and its own daemon: both must be killed for real.
func TestMain(m *testing.M) {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	switch os.Getenv("HANDOVER_ROLE") {
	case "agent":
		agentProcess(log)
	case "daemon":
		daemonProcess(log)
	default:
		os.Exit(m.Run())
	}
}

func opener(addr string) func() (*os.File, error) {
	return func() (*os.File, error) {
		l, err := net.Listen("tcp4", addr)
		if err != nil {
			return nil, err
		}
		defer l.Close()
		return l.(*net.TCPListener).File()
	}
}

func packetOpener(addr string) func() (*os.File, error) {
	return func() (*os.File, error) {
		p, err := net.ListenPacket("udp4", addr)
		if err != nil {
			return nil, err
		}
		defer p.Close()
		return p.(*net.UDPConn).File()
	}
}

// echo sends back what it gets.
func echo(p *net.UDPConn) {
	buf := make([]byte, 64)
	for {
		n, from, err := p.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		p.WriteToUDPAddrPort(buf[:n], from)
	}
}

func agentProcess(log *slog.Logger) {
	s := NewServer(os.Getenv("HANDOVER_PATH"), log)
	open := opener(os.Getenv("HANDOVER_ADDR"))
	if os.Getenv("HANDOVER_NETWORK") == "udp" {
		open = packetOpener(os.Getenv("HANDOVER_ADDR"))
	}
	if err := s.Offer("imds", testVPC, "", open); err != nil {
		log.Error("offer", "err", err)
		os.Exit(1)
	}
	go func() {
		for range time.Tick(time.Millisecond) {
			if s.Health() == nil && len(s.Held()) == 1 {
				fmt.Println("settled")
				return
			}
		}
	}()
	log.Error("agent ended", "err", s.Run(context.Background()))
}

func daemonProcess(log *slog.Logger) {
	c := NewClient(os.Getenv("HANDOVER_PATH"), "imds", log)
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	err := c.Run(context.Background(), func(s Socket) {
		if s.Packets != nil {
			go echo(s.Packets)
		} else {
			go http.Serve(s.Listener, handler)
		}
		fmt.Println("settled")
	}, func(Socket) {})
	log.Error("daemon ended", "err", err)
}

// process is a child that says "settled" when its part of the handover is done.
type process struct {
	cmd *exec.Cmd
	out *bufio.Reader
}

func startProcess(t *testing.T, role, path, addr string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "HANDOVER_ROLE="+role, "HANDOVER_PATH="+path, "HANDOVER_ADDR="+addr)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return &process{cmd, bufio.NewReader(out)}
}

func (p *process) settle(t *testing.T) {
	t.Helper()
	if line, err := p.out.ReadString('\n'); line != "settled\n" {
		t.Fatalf("process said %q, %v; want settled", line, err)
	}
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// load asks for a page over a new connection again and again.
type load struct {
	ok, broken, refused atomic.Int64
	worst               atomic.Int64
}

func (l *load) run(ctx context.Context, addr string) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for ctx.Err() == nil {
		start := time.Now()
		resp, err := client.Get("http://" + addr)
		switch {
		case err == nil:
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			l.ok.Add(1)
		case errors.Is(err, syscall.ECONNREFUSED):
			l.refused.Add(1)
		default:
			l.broken.Add(1) // was being answered when its server was killed
		}
		l.worst.Store(max(l.worst.Load(), int64(time.Since(start))))
	}
}

func TestNoConnectionIsRefusedWhileEitherSideIsKilled(t *testing.T) {
	path, addr := filepath.Join(t.TempDir(), "h.sock"), freeAddress(t)
	agent := startProcess(t, "agent", path, addr)
	agent.settle(t)
	daemon := startProcess(t, "daemon", path, addr)
	daemon.settle(t)

	ctx, cancel := context.WithCancel(t.Context())
	var l load
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() { l.run(ctx, addr) })
	}
	const kills = 10
	for range kills {
		daemon.kill()
		daemon = startProcess(t, "daemon", path, addr)
		daemon.settle(t)
		agent.kill()
		agent = startProcess(t, "agent", path, addr)
		agent.settle(t)
	}
	cancel()
	clients.Wait()
	t.Logf("%d kills of each: %d answered, %d broken off, %d refused, slowest %v",
		kills, l.ok.Load(), l.broken.Load(), l.refused.Load(), time.Duration(l.worst.Load()))
	if n := l.refused.Load(); n != 0 {
		t.Errorf("%d connections refused, want 0", n)
	}
	// Only what a daemon had accepted when it was killed may be lost: at most one for each client. The four
	// more are those that cancel interrupted.
	if n := l.broken.Load(); n > 4*kills+4 {
		t.Errorf("%d connections broken off in %d kills with 4 clients, want at most %d", n, kills, 4*kills)
	}
	if l.ok.Load() == 0 {
		t.Error("no request was answered")
	}
}

// Datagrams have no backlog, but a buffer: none may be lost in it, and none refused (ICMP's unreachable port), while
// one side or the other is dead.
func TestNoDatagramIsLostWhileEitherSideIsKilled(t *testing.T) {
	t.Setenv("HANDOVER_NETWORK", "udp")
	path, addr := filepath.Join(t.TempDir(), "h.sock"), freeAddress(t)
	agent := startProcess(t, "agent", path, addr)
	agent.settle(t)
	daemon := startProcess(t, "daemon", path, addr)
	daemon.settle(t)
	c, err := net.Dial("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	ask := func(what string) {
		t.Helper()
		if _, err := io.WriteString(c, what); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	told := func(want string) {
		t.Helper()
		buf := make([]byte, 64)
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != want {
			t.Fatalf("got %q, %v; want %q", buf[:n], err, want)
		}
	}
	for round := range 10 {
		name := func(what string) string { return fmt.Sprintf("round %d, %s", round, what) }
		daemon.kill()
		ask(name("the daemon is dead"))
		daemon = startProcess(t, "daemon", path, addr)
		daemon.settle(t)
		told(name("the daemon is dead"))
		agent.kill()
		ask(name("the agent is dead"))
		told(name("the agent is dead"))
		agent = startProcess(t, "agent", path, addr)
		agent.settle(t)
	}
}

func TestAServiceHasSeveralSocketsInAVPC(t *testing.T) {
	path, addr := filepath.Join(t.TempDir(), "h.sock"), freeAddress(t)
	s := NewServer(path, slog.New(slog.DiscardHandler))
	p := newPair(t, s, path)
	for name, open := range map[string]func() (*os.File, error){"tcp": opener(addr), "udp": packetOpener(addr)} {
		if err := s.Offer("imds", testVPC, name, open); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]Socket{}
	for range 2 {
		one := <-p.added
		got[one.Name] = one
	}
	if got["tcp"].Listener == nil || got["udp"].Packets == nil {
		t.Fatalf("got %v, want a listener and what receives datagrams", got)
	}
	for name, one := range got {
		if one.Addr().String() != addr {
			t.Errorf("%s is at %s, want %s", name, one.Addr(), addr)
		}
	}
	s.Withdraw(testVPC)
	<-p.removed
	<-p.removed
	if _, err := got["udp"].Packets.Write(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the daemon's end answers %v after the VPC went away", err)
	}
	again, err := net.ListenPacket("udp4", addr)
	if err != nil {
		t.Fatalf("the address is not free again: %v", err)
	}
	again.Close()
}

func TestOnlySocketsThatGuestsCanAskAreTaken(t *testing.T) {
	socket := func(kind int) int {
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	local := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	silent, unbound, connected, good := socket(unix.SOCK_STREAM), socket(unix.SOCK_DGRAM), socket(unix.SOCK_DGRAM), socket(unix.SOCK_DGRAM)
	if err := errors.Join(unix.Bind(silent, local), unix.Bind(good, local)); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(good)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(connected, at); err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	for _, c := range []struct {
		name string
		fd   int
		want bool
	}{
		{"a stream that does not listen is refused", silent, false},
		{"a datagram socket without a port is refused", unbound, false},
		{"a connected datagram socket is refused", connected, false},
		{"a datagram socket of another family is refused", pair[0], false},
		{"a bound datagram socket is taken", good, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := identify(c.fd); (err == nil) != c.want {
				t.Errorf("identify says %v", err)
			}
		})
	}
}

// pair is a server and a client in this process.
type pair struct {
	server  *Server
	added   chan Socket
	removed chan Socket
}

func newPair(t *testing.T, s *Server, path string) *pair {
	t.Helper()
	p := &pair{server: s, added: make(chan Socket, 16), removed: make(chan Socket, 16)}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("server: %v", err)
		}
	})
	<-s.Ready()
	running.Go(func() {
		c := NewClient(path, "imds", slog.New(slog.DiscardHandler))
		if err := c.Run(ctx, func(s Socket) { p.added <- s }, func(s Socket) { p.removed <- s }); err != nil {
			t.Errorf("client: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	return p
}

func TestWithdrawClosesBothEnds(t *testing.T) {
	path, addr := filepath.Join(t.TempDir(), "h.sock"), freeAddress(t)
	s := NewServer(path, slog.New(slog.DiscardHandler))
	p := newPair(t, s, path)
	for round := range 3 { // a VPC that comes back is a new one
		if err := s.Offer("imds", testVPC, "", opener(addr)); err != nil {
			t.Fatal(err)
		}
		again := func() (*os.File, error) { t.Error("opened a second time"); return nil, errors.New("no") }
		if err := s.Offer("imds", testVPC, "", again); err != nil {
			t.Fatal(err)
		}
		l := (<-p.added).Listener
		if got := l.Addr().String(); got != addr {
			t.Fatalf("round %d: listener on %s, want %s", round, got, addr)
		}
		s.Withdraw(testVPC)
		if got := (<-p.removed).VPC; got != testVPC {
			t.Fatalf("removed %s, want %s", got, testVPC)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("listener answers %v after its VPC went away", err)
		}
		if _, err := net.Dial("tcp4", addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial after withdraw: %v, want refused", err)
		}
		if held := s.Held(); len(held) != 0 {
			t.Errorf("still held: %v", held)
		}
	}
}

// A daemon may come with a socket that listens in a namespace which has been replaced: opening succeeds
// there, so the new socket wins.
func TestASocketThatListensNowhereIsReplaced(t *testing.T) {
	path, addr := filepath.Join(t.TempDir(), "h.sock"), freeAddress(t)
	s := NewServer(path, slog.New(slog.DiscardHandler))
	newPair(t, s, path)
	stale, err := opener("127.0.0.1:0")()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unwrap(stale)
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	daemon := newPeer(other)
	defer daemon.close()
	go daemon.write()
	daemon.send(message{Op: "hello", Service: "imds"}, -1)
	daemon.send(message{Op: "offer", Service: "imds", VPC: string(testVPC)}, fd)
	daemon.send(message{Op: "held", Service: "imds"}, -1)
	unix.Close(fd)
	if m, got, err := daemon.receive(); err != nil || m.Op != "offer" {
		t.Fatalf("agent says %+v, %v; want its offer", m, err)
	} else {
		unix.Close(got)
	}
	if held := s.Held(); len(held) != 1 {
		t.Fatalf("held: %v, want what the daemon gave", held)
	}
	if err := s.Offer("imds", testVPC, "", opener(addr)); err != nil {
		t.Fatal(err)
	}
	m, got, err := daemon.receive()
	if err != nil || m.Op != "offer" {
		t.Fatalf("agent says %+v, %v; want another offer", m, err)
	}
	l, err := open(got)
	unix.Close(got)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if l.Addr().String() != addr {
		t.Errorf("daemon now has %s, want %s", l.Addr(), addr)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	s := NewServer("", slog.New(slog.DiscardHandler))
	s.Admit("imds", 1001)
	for _, c := range []struct {
		name    string
		service string
		uid     uint32
		want    bool
	}{
		{"root may", "imds", 0, true},
		{"the service's user may", "imds", 1001, true},
		{"the service's user may not serve another", "runcmd", 1001, false},
		{"anybody else may not", "imds", 1002, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := s.admitted(c.service, c.uid); got != c.want {
				t.Errorf("admitted(%s, %d) = %t, want %t", c.service, c.uid, got, c.want)
			}
			if got, want := s.known(c.uid), c.uid != 1002; got != want {
				t.Errorf("known(%d) = %t, want %t", c.uid, got, want)
			}
		})
	}
}

func TestGarbageEndsOnlyItsConnection(t *testing.T) {
	path, addr := filepath.Join(t.TempDir(), "h.sock"), freeAddress(t)
	s := NewServer(path, slog.New(slog.DiscardHandler))
	p := newPair(t, s, path)
	for _, bytes := range []string{"", "{", "[]", `{"op":"hello"}`, `{"op":"offer","service":"imds"}`, strings.Repeat("x", 5000)} {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte(bytes))
		c.Write([]byte(`{"op":"offer","service":"imds"}`))
		if n, err := c.Read(make([]byte, 1)); n != 0 {
			t.Errorf("agent answers %q with a byte, %v", bytes, err)
		}
		c.Close()
	}
	if err := s.Offer("imds", testVPC, "", opener(addr)); err != nil {
		t.Fatal(err)
	}
	<-p.added
}
