package main_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/door"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/client"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
)

// The tests of sessions play the API and the host's door: they relay a client to the gateway's socket with what the
// control plane would know. Client, gateway and agent are real.

type sessionHost struct {
	*host
	records string
	url     string

	mu   sync.Mutex
	spec map[string]cloud.Session
	n    int
}

func newSessionHost(t testing.TB) *sessionHost {
	t.Helper()
	h := newSessionHostOf(t, newHost(t))
	h.startGateway("--sessions", h.records)
	h.startAgent()
	return h
}

// newSessionHostOf makes one of a host whose daemons do not run yet.
func newSessionHostOf(t testing.TB, of *host) *sessionHost {
	t.Helper()
	h := &sessionHost{host: of, records: t.TempDir(), spec: map[string]cloud.Session{}}
	// A root of its own: what the machine's has in its profile may take any time.
	h.etc = t.TempDir()
	check(t, os.WriteFile(filepath.Join(h.etc, "passwd"), []byte("root:x:0:0:root:"+t.TempDir()+":/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"), 0o644))
	check(t, os.WriteFile(filepath.Join(h.etc, "group"), []byte("root:x:0:\nnogroup:x:65534:\n"), 0o644))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		s, ok := h.spec[filepath.Base(r.URL.Path)]
		h.mu.Unlock()
		if !ok {
			http.NotFound(w, r)
			return
		}
		// The door's patterns are the gateway's, so its socket takes the relay's request as it is.
		if err := (door.Client{}).Relay(cloud.Host{ID: "h-1", Door: "unix:" + h.root.Sessions()}, s, w, r); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(srv.Close)
	h.url = "ws" + strings.TrimPrefix(srv.URL, "http") + "/"
	return h
}

// begin makes a session as StartSession does, and returns how a client reaches it.
func (h *sessionHost) begin(plan cloud.SessionPlan) (cloud.SessionID, client.Config) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n++
	id := fmt.Sprintf("tester-%d", h.n)
	token := "token-" + id
	h.spec[id] = cloud.Session{
		ID: cloud.SessionID(id), Owner: "arn:aws:iam::000000000000:root", Target: h.dir.ID(), Plan: plan, Started: time.Now(),
		Token: hashed(token), TokenExpires: time.Now().Add(time.Minute),
	}
	return cloud.SessionID(id), client.Config{URL: h.url + id, Token: token, Patience: 10 * time.Second, Resume: func(context.Context) (string, error) {
		return h.resume(id), nil
	}}
}

// resume is ResumeSession.
func (h *sessionHost) resume(id string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.spec[id]
	s.Resumes++
	token := fmt.Sprintf("token-%s-%d", id, s.Resumes)
	s.Token, s.TokenExpires = hashed(token), time.Now().Add(time.Minute)
	h.spec[id] = s
	return token
}

func hashed(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// talk is a client whose output is collected.
type talk struct {
	*client.Client
	t    testing.TB
	end  chan error
	stop context.CancelFunc
	mu   sync.Mutex
	out  strings.Builder
	more chan struct{}
}

func converse(t testing.TB, cfg client.Config) *talk {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &talk{Client: client.New(cfg), t: t, end: make(chan error, 1), stop: cancel, more: make(chan struct{}, 1)}
	go func() { c.end <- c.Run(ctx) }()
	go func() {
		for {
			_, b, err := c.Read()
			if err != nil {
				return
			}
			c.mu.Lock()
			c.out.Write(b)
			c.mu.Unlock()
			select {
			case c.more <- struct{}{}:
			default:
			}
		}
	}()
	t.Cleanup(cancel)
	select {
	case <-c.Begun():
	case err := <-c.end:
		t.Fatalf("the session did not begin: %v", err)
	case <-time.After(10 * time.Second):
		t.Fatal("the session does not begin")
	}
	return c
}

func (c *talk) said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.String()
}

func (c *talk) await(text string) {
	c.t.Helper()
	guard := time.After(time.Minute) // bash takes its time on a machine that is busy
	for !strings.Contains(c.said(), text) {
		select {
		case <-c.more:
		case <-guard:
			c.t.Fatalf("%q does not come; got %q", text, c.said())
		}
	}
}

func (c *talk) say(text string) {
	c.t.Helper()
	check(c.t, c.Write(1, []byte(text)))
}

func (c *talk) wait() (int, string) {
	c.t.Helper()
	select {
	case err := <-c.end:
		check(c.t, err)
	case <-time.After(time.Minute):
		c.t.Fatalf("the session does not end; it said %q", c.said())
	}
	return c.Ended()
}

func (h *sessionHost) record(id cloud.SessionID) cloud.SessionEnd {
	h.t.Helper()
	for range 600 { // a guest whose agent is away is given its time to obey
		data, err := os.ReadFile(filepath.Join(h.records, string(id)+".json"))
		if err == nil {
			var rec struct{ End cloud.SessionEnd }
			check(h.t, json.Unmarshal(data, &rec))
			return rec.End
		}
		if !errors.Is(err, os.ErrNotExist) {
			h.t.Fatal(err)
		}
		<-time.After(50 * time.Millisecond)
	}
	h.t.Fatalf("no record of %s", id)
	return cloud.SessionEnd{}
}

func TestShellThroughTheWholeWay(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	id, cfg := h.begin(cloud.SessionPlan{Kind: cloud.SessionShell, Idle: time.Minute})
	c := converse(t, cfg)
	check(t, c.Resize(101, 37))
	c.say("stty size; echo tty=$(tty | cut -c1-9)\r")
	c.await("37 101")
	c.await("tty=/dev/pts/")
	c.say("echo id=$ICHIRO_SESSION_ID; exit 42\r")
	if code, text := c.wait(); code != 42 || text != "exit code 42" {
		t.Errorf("got code %d and %q, want 42", code, text)
	}
	if !strings.Contains(c.said(), "id="+string(id)) {
		t.Errorf("the session's ID is not in its environment: %q", c.said())
	}
	end := h.record(id)
	cast, err := os.ReadFile(filepath.Join(h.records, string(id)+".cast"))
	check(t, err)
	sum := sha256.Sum256(cast)
	if end.Reason != "exit" || end.Code != 42 || end.Input == 0 || end.Output == 0 || end.Digest != hex.EncodeToString(sum[:]) {
		t.Errorf("got the record %+v", end)
	}
	for n, line := range strings.Split(strings.TrimSpace(string(cast)), "\n") {
		var v any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Errorf("line %d of the recording: %v", n+1, err)
		}
	}
	if !strings.Contains(string(cast), `"r","101x37"`) || !strings.Contains(string(cast), "37 101") {
		t.Errorf("the recording lacks what was shown:\n%s", cast)
	}
}

func TestNothingSurvivesASession(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	id, cfg := h.begin(cloud.SessionPlan{Kind: cloud.SessionShell})
	c := converse(t, cfg)
	c.say("sleep 1000 & echo pid=$!.\r")
	c.await("pid=")
	c.await(".\r\n")
	check(t, c.Terminate())
	c.wait()
	if end := h.record(id); end.Reason != "terminated" {
		t.Errorf("got %+v, want terminated", end)
	}
	text := c.said()
	text = text[strings.LastIndex(text, "pid=")+4:]
	pid, _, _ := strings.Cut(text, ".")
	if data, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(data), ") Z ") {
		t.Errorf("process %s goes on: %s", pid, data)
	}
}

func TestSessionIsResumedAfterTheNetworkWasCut(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	_, cfg := h.begin(cloud.SessionPlan{Kind: cloud.SessionShell})
	cut := newCutter(t, strings.TrimPrefix(cfg.URL, "ws://"))
	cfg.URL = cut.url
	c := converse(t, cfg)
	c.say("stty -echo; PS1=\r")
	c.say("i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line-$i-end; done\r")
	c.await("line-500-end")
	cut.cut()
	c.await("line-3000-end")
	c.say("exit 3\r")
	if code, _ := c.wait(); code != 3 {
		t.Errorf("got code %d, want 3", code)
	}
	var want strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&want, "line-%d-end\r\n", i+1)
	}
	if !strings.Contains(c.said(), want.String()) {
		t.Error("lines are missing, doubled or out of order after the cut")
	}
}

func TestAnotherClientSeesTheScreenThatThereIs(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	id, cfg := h.begin(cloud.SessionPlan{Kind: cloud.SessionShell})
	first := converse(t, cfg)
	first.say("stty -echo; PS1=\r")
	first.say("echo on the $((1+1))nd screen\r")
	first.await("on the 2nd screen")
	first.stop()
	cfg.Token = h.resume(string(id))
	second := converse(t, cfg)
	second.await("on the 2nd screen")
	second.say("exit\r")
	second.wait()
}

func TestSessionOutlivesItsGateway(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	id, cfg := h.begin(cloud.SessionPlan{Kind: cloud.SessionShell})
	first := converse(t, cfg)
	first.say("stty -echo; PS1=; V=kept\r")
	first.say("echo before-$V\r")
	first.await("before-kept")
	first.stop()
	kill(h.gateway)
	h.startGateway("--sessions", h.records)
	var second *talk
	for range 50 { // until the gateway listens
		cfg.Token = h.resume(string(id))
		if conn, err := net.Dial("unix", h.root.Sessions()); err == nil {
			conn.Close()
			break
		}
		<-time.After(100 * time.Millisecond)
	}
	second = converse(t, cfg)
	second.await("before-kept")
	second.say("echo after-$V; exit 5\r")
	second.await("after-kept")
	if code, _ := second.wait(); code != 5 {
		t.Errorf("got code %d, want 5", code)
	}
}

// A gateway that is killed takes what it held with it. What the user has typed the guest gets all the same, each byte once.
func TestAShellGoesOnWhenItsGatewayIsKilled(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	id, cfg := h.begin(cloud.SessionPlan{Kind: cloud.SessionShell})
	c := converse(t, cfg)
	check(t, c.Resize(103, 41))
	side := filepath.Join(t.TempDir(), "side")
	c.say("stty -echo; PS1=; echo rea''dy; while read x; do [ $x = end ] && break; echo $x >>" + side + "; done; stty size; exit 5\r")
	c.await("ready")
	var want strings.Builder
	for n := range 600 {
		if n%200 == 150 {
			kill(h.gateway)
			h.startGateway("--sessions", h.records)
		}
		c.say(fmt.Sprintf("%d\r", n))
		fmt.Fprintf(&want, "%d\n", n)
	}
	c.say("end\r")
	c.await("41 103")
	if code, _ := c.wait(); code != 5 {
		t.Errorf("got code %d, want 5", code)
	}
	if got, err := os.ReadFile(side); string(got) != want.String() {
		t.Errorf("the guest read %d bytes, %v; want %d", len(got), err, want.Len())
	}
	if end := h.record(id); end.Reason != "exit" || end.Code != 5 {
		t.Errorf("got the record %+v", end)
	}
}

// The connections of a port cannot go on with another gateway, which knows nothing of the bytes that were under way: they are closed,
// and their user is told.
func TestAPortEndsWithItsGateway(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	port, _ := source(t, 1<<30)
	id, cfg := h.begin(cloud.SessionPlan{Kind: cloud.SessionPort, Port: port})
	c := client.New(cfg)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(t.Context()) }()
	<-c.Begun()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	go c.Forward(l)
	conn, err := net.Dial("tcp", l.Addr().String())
	check(t, err)
	defer conn.Close()
	_, err = io.CopyN(io.Discard, conn, 1<<20)
	check(t, err)
	kill(h.gateway)
	h.startGateway("--sessions", h.records)
	go io.Copy(io.Discard, conn)
	select {
	case err := <-ended:
		check(t, err)
	case <-time.After(30 * time.Second):
		t.Fatal("the client goes on")
	}
	if _, text := c.Ended(); !strings.Contains(text, "gateway was started again") {
		t.Errorf("its user is told %q", text)
	}
	if end := h.record(id); end.Reason != "lost" {
		t.Errorf("got the record %+v", end)
	}
}

// Where the host's disk is full the end of a session is not on record; it has ended all the same, and does not begin again.
func TestASessionWhoseEndCannotBeRecordedDoesNotBeginAgain(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	d := newDisk(t, h.records)
	id, cfg := h.begin(cloud.SessionPlan{Kind: cloud.SessionBatch, Command: "echo begun; read x; exit 3"})
	first := converse(t, cfg)
	first.await("begun")
	d.fill()
	first.say("go\n")
	if code, _ := first.wait(); code != 3 {
		t.Errorf("got code %d, want 3", code)
	}
	eventually(t, "its end is not on record", func() bool { return strings.Contains(h.log.String(), "record the end of a session") })
	for range 5 { // the first may find what the gateway has not forgotten yet
		cfg.Token, cfg.Resume = h.resume(string(id)), nil
		second := client.New(cfg)
		ended := make(chan error, 1)
		go func() { ended <- second.Run(t.Context()) }()
		for {
			_, b, err := second.Read()
			if err != nil {
				break
			}
			if second.Write(1, []byte("go\n")); len(b) > 0 {
				t.Errorf("it says %q again", b)
			}
		}
		<-ended
	}
}

func TestTokenOpensForOneClientOnly(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	id, cfg := h.begin(cloud.SessionPlan{Kind: cloud.SessionShell})
	c := converse(t, cfg)
	for name, token := range map[string]string{"a stolen token": cfg.Token, "a guessed token": "x", "none": ""} {
		thief := cfg
		thief.Token, thief.Resume = token, nil
		if err := client.New(thief).Run(t.Context()); err == nil {
			t.Errorf("%s opened the session", name)
		}
	}
	old := cfg
	old.Resume = nil
	h.resume(string(id))
	if err := client.New(old).Run(t.Context()); err == nil {
		t.Error("the token before the last opened the session")
	}
	c.say("exit\r") // it was not disturbed
	c.wait()
}

func TestIdleSessionEnds(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	id, cfg := h.begin(cloud.SessionPlan{Kind: cloud.SessionShell, Idle: 300 * time.Millisecond})
	_, text := converse(t, cfg).wait()
	if end := h.record(id); end.Reason != "idle" || text == "" {
		t.Errorf("got %+v and %q, want idle", end, text)
	}
}

// The longest time is the guest's to measure; the host's clock may be set, or another than the control plane's.
func TestASessionsLongestTimeWhateverTheClockSays(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	id, cfg := h.begin(cloud.SessionPlan{Kind: cloud.SessionShell, Longest: 4 * time.Second})
	h.mu.Lock()
	s := h.spec[string(id)]
	s.Started = s.Started.Add(-time.Hour)
	h.spec[string(id)] = s
	h.mu.Unlock()
	c := converse(t, cfg)
	begun := time.Now()
	_, text := c.wait()
	if end := h.record(id); end.Reason != "longest" || !strings.Contains(text, "longest") || time.Since(begun) < 3*time.Second {
		t.Errorf("after %v: got %+v and %q", time.Since(begun), end, text)
	}
}

func TestBatchKeepsItsOutputsApart(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	_, cfg := h.begin(cloud.SessionPlan{Kind: cloud.SessionBatch, Command: "echo out; echo err >&2; exit 9"})
	c := client.New(cfg)
	go c.Run(t.Context())
	got := map[int]string{}
	for {
		kind, b, err := c.Read()
		if err == io.EOF {
			break
		}
		check(t, err)
		got[int(kind)] += string(b)
	}
	if code, _ := c.Ended(); code != 9 || got[1] != "out\n" || got[11] != "err\n" {
		t.Errorf("got %v and code %d", got, code)
	}
}

// What a command without a terminal is given it has to the byte, and then the end, over cuts of the network; what it says is whole too.
func TestBatchReadsItsInputToTheEnd(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	_, cfg := h.begin(cloud.SessionPlan{Kind: cloud.SessionBatch, Command: "tee /dev/stderr; exit 3"})
	cut := newCutter(t, strings.TrimPrefix(cfg.URL, "ws://"))
	cfg.URL = cut.url
	c := client.New(cfg)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(t.Context()) }()
	in := make([]byte, 5<<20+77)
	rand.Read(in)
	go func() {
		for n, part := range slices.Collect(slices.Chunk(in, 1<<20)) {
			if n%2 == 1 {
				cut.cut()
			}
			if err := c.Write(frame.Data, part); err != nil {
				t.Error(err)
			}
		}
		if err := c.CloseInput(); err != nil {
			t.Error(err)
		}
		cut.cut()
	}()
	got := map[frame.PayloadType][]byte{}
	for {
		kind, b, err := c.Read()
		if err == io.EOF {
			break
		}
		check(t, err)
		got[kind] = append(got[kind], b...)
	}
	check(t, <-ended)
	if code, text := c.Ended(); code != 3 || !bytes.Equal(got[frame.Data], in) || !bytes.Equal(got[frame.Stderr], in) {
		t.Errorf("got code %d, %q, %d and %d bytes, want %d of each", code, text, len(got[frame.Data]), len(got[frame.Stderr]), len(in))
	}
}

// A gateway that is killed takes a part of a command's output with it: the command is ended, and its user is told.
func TestBatchEndsWithItsGateway(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	id, cfg := h.begin(cloud.SessionPlan{Kind: cloud.SessionBatch, Command: "echo begun; cat"})
	c := converse(t, cfg)
	c.await("begun\n")
	kill(h.gateway)
	h.startGateway("--sessions", h.records)
	if code, text := c.wait(); code != -1 || !strings.Contains(text, "gateway was started again") {
		t.Errorf("got code %d and %q", code, text)
	}
	if end := h.record(id); end.Reason != "lost" {
		t.Errorf("got the record %+v", end)
	}
	if c.said() != "begun\n" {
		t.Errorf("it said %q", c.said())
	}
}

// cutter is a TCP proxy whose connections can be cut.
type cutter struct {
	url   string
	mu    sync.Mutex
	conns []net.Conn
}

func newCutter(t testing.TB, target string) *cutter {
	address, path, _ := strings.Cut(target, "/")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { l.Close() })
	c := &cutter{url: "ws://" + l.Addr().String() + "/" + path}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", address)
			if err != nil {
				in.Close()
				continue
			}
			c.mu.Lock()
			c.conns = append(c.conns, in, out)
			c.mu.Unlock()
			go func() { io.Copy(in, out); in.Close() }()
			go func() { io.Copy(out, in); out.Close() }()
		}
	}()
	return c
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

// forwardOurs forwards a port by our own client, and returns the local address.
func (h *sessionHost) forwardOurs(plan cloud.SessionPlan) string {
	h.t.Helper()
	_, cfg := h.begin(plan)
	c := client.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	h.t.Cleanup(cancel)
	go c.Run(ctx)
	select {
	case <-c.Begun():
	case <-time.After(10 * time.Second):
		h.t.Fatal("the session does not begin")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(h.t, err)
	h.t.Cleanup(func() { l.Close() })
	go c.Forward(l)
	return l.Addr().String()
}

func TestPortIsForwardedBothWays(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { l.Close() })
	go func() { // echo
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	local := h.forwardOurs(cloud.SessionPlan{Kind: cloud.SessionPort, Port: l.Addr().(*net.TCPAddr).Port})
	var wg sync.WaitGroup
	for n := range 8 { // more at once than the windows hold
		wg.Go(func() {
			c, err := net.Dial("tcp", local)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			sent, got := sha256.New(), sha256.New()
			const size = 4 << 20
			go func() {
				block := make([]byte, 64<<10)
				for i := range block {
					block[i] = byte(i * (n + 3))
				}
				for range size / len(block) {
					sent.Write(block)
					c.Write(block)
				}
			}()
			if _, err := io.CopyN(got, c, size); err != nil {
				t.Error(err)
			}
			if hex.EncodeToString(sent.Sum(nil)) != hex.EncodeToString(got.Sum(nil)) {
				t.Errorf("connection %d: other bytes came back", n)
			}
		})
	}
	wg.Wait()
}

func TestRemoteHostsThatAreDenied(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	for _, remote := range []string{"169.254.169.254", "127.0.0.1", "::1", "fd00:ec2::254", "localhost", "::ffff:169.254.169.254", "0.0.0.0"} {
		_, cfg := h.begin(cloud.SessionPlan{Kind: cloud.SessionPort, Host: remote, Port: 1})
		c := client.New(cfg)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		go c.Run(ctx)
		<-c.Begun()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		go c.Forward(l)
		conn, err := net.Dial("tcp", l.Addr().String())
		check(t, err)
		if b, _ := io.ReadAll(conn); len(b) > 0 {
			t.Errorf("%s answered %q", remote, b)
		}
		conn.Close()
		l.Close()
		cancel()
	}
}

// A port that cannot be reached at all is no business of its bytes: the client is told why, and its connections are closed.
func TestAPortThatCannotBeginSaysWhyBesideItsBytes(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	id, cfg := h.begin(cloud.SessionPlan{Kind: cloud.SessionPort, Host: "169.254.169.254", Port: 80})
	c := client.New(cfg)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(t.Context()) }()
	for {
		_, b, err := c.Read()
		if err != nil {
			break
		}
		t.Errorf("among its bytes is %q", b)
	}
	check(t, <-ended)
	if _, text := c.Ended(); !strings.Contains(text, "169.254.169.254 may not be reached through a session") {
		t.Errorf("its user is told %q", text)
	}
	if end := h.record(id); end.Reason != "failed" || end.Output != 0 {
		t.Errorf("got the record %+v", end)
	}
}

// spent returns the processor time of the gateway and the agent so far.
func (h *sessionHost) spent() (total time.Duration) {
	names, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, name := range names {
		exe, err := os.Readlink(name)
		if err != nil || filepath.Dir(exe) != h.bin {
			continue
		}
		data, err := os.ReadFile(filepath.Join(filepath.Dir(name), "stat"))
		if err != nil {
			continue
		}
		f := strings.Fields(string(data)[strings.LastIndex(string(data), ")")+1:])
		for _, n := range f[11:13] { // utime and stime, in hundredths of a second
			ticks, _ := strconv.Atoi(n)
			total += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	var own unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &own)
	return total + time.Duration(own.Utime.Nano()+own.Stime.Nano())
}

// cost reports the processor time of all that a figure takes part in: the machine may do other things meanwhile.
func (h *sessionHost) cost(b *testing.B, before time.Duration, bytes int64) {
	b.ReportMetric((h.spent()-before).Seconds()/(float64(bytes)*float64(b.N)/1e9), "cpu-s/GB")
}

// sink takes size bytes of whoever connects, and tells when it has them.
func sink(t testing.TB, size int64) (port int, got <-chan int64) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { l.Close() })
	all := make(chan int64)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n, _ := io.Copy(io.Discard, io.LimitReader(c, size))
			c.Close()
			all <- n
		}
	}()
	return l.Addr().(*net.TCPAddr).Port, all
}

// download and upload move size bytes through a forwarded port.
func download(t testing.TB, local string, size int64) {
	c, err := net.Dial("tcp", local)
	check(t, err)
	n, err := io.Copy(io.Discard, c)
	if c.Close(); err != nil || n != size {
		t.Fatalf("got %d bytes, %v", n, err)
	}
}

func upload(t testing.TB, local string, size int64, got <-chan int64) {
	c, err := net.Dial("tcp", local)
	check(t, err)
	defer c.Close()
	block := make([]byte, 1<<20)
	for range size >> 20 {
		if _, err := c.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if n := <-got; n != size {
		t.Fatalf("got %d bytes", n)
	}
}

// BenchmarkPort is the figure of a port forwarded by our own client, down and up.
func BenchmarkPort(b *testing.B) {
	const size = 128 << 20
	h := newSessionHost(b)
	out, _ := source(b, size)
	in, got := sink(b, size)
	for name, move := range map[string]func(*testing.B, string){
		"download": func(b *testing.B, local string) { download(b, local, size) },
		"upload":   func(b *testing.B, local string) { upload(b, local, size, got) },
	} {
		port := out
		if name == "upload" {
			port = in
		}
		local := h.forwardOurs(cloud.SessionPlan{Kind: cloud.SessionPort, Port: port})
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			before := h.spent()
			defer func() { h.cost(b, before, size) }()
			for b.Loop() {
				move(b, local)
			}
		})
	}
}

// TestMeasureSessions measures 128 MB through a forwarded port, in turns: by our own client both ways, and down by the stock plugin
// where there is one.
func TestMeasureSessions(t *testing.T) {
	measuring(t)
	const size = 128 << 20
	h := newSessionHost(t)
	out, _ := source(t, size)
	in, got := sink(t, size)
	down := h.forwardOurs(cloud.SessionPlan{Kind: cloud.SessionPort, Port: out})
	up := h.forwardOurs(cloud.SessionPlan{Kind: cloud.SessionPort, Port: in})
	stock := ""
	if os.Getenv("ICHIRO_SESSION_PLUGIN") != "" {
		stock = h.forwarded(out)
	}
	var downs, ups, stocks, cost []float64
	for range 7 {
		before := h.spent()
		downs = append(downs, size/1e3/took(func() { download(t, down, size) }))
		cost = append(cost, (h.spent()-before).Seconds()/(size/1e9))
		ups = append(ups, size/1e3/took(func() { upload(t, up, size, got) }))
		if stock != "" {
			stocks = append(stocks, size/1e3/took(func() { download(t, stock, size) }))
		}
	}
	say(t, "port down MB/s", downs...)
	say(t, "port up MB/s", ups...)
	say(t, "port down cpu s/GB", cost...)
	if stock != "" {
		say(t, "port down by the plugin MB/s", stocks...)
	}
}

// A session runs as whom the plan names, with that user's groups and home and nobody else's rights; one who is not there has none.
func TestSessionsRunAs(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	const home = "/var/tmp" // where a user may be
	check(t, os.WriteFile(filepath.Join(h.etc, "passwd"), []byte("root:x:0:0:root:/root:/bin/bash\nann:x:61234:61235:Ann:"+home+":/bin/sh\n"), 0o644))
	check(t, os.WriteFile(filepath.Join(h.etc, "group"), []byte("ann:x:61235:\nwheel:x:61236:bob,ann\n"), 0o644))
	for name, c := range map[string]struct {
		plan cloud.SessionPlan
		want string
		code int
	}{
		"a command":         {cloud.SessionPlan{Kind: cloud.SessionBatch, User: "ann", Command: "id -u; id -g; id -G; echo $USER $HOME $PWD; cat /etc/shadow 2>/dev/null || echo refused"}, "61234\n61235\n61235 61236\nann " + home + " " + home + "\nrefused\n", 0},
		"one on a terminal": {cloud.SessionPlan{Kind: cloud.SessionCommand, User: "ann", Command: "id -u; echo x >$(tty) && exit 4"}, "61234\r\nx\r\n", 4},
		"who is not there":  {cloud.SessionPlan{Kind: cloud.SessionCommand, User: "eve", Command: "id -u"}, "ichiro: user eve is not in this guest\r\n", 1},
	} {
		t.Run(name, func(t *testing.T) {
			_, cfg := h.begin(c.plan)
			x := converse(t, cfg)
			code, _ := x.wait()
			if got := x.said(); got != c.want || code != c.code {
				t.Errorf("got code %d and %q, want %d and %q", code, got, c.code, c.want)
			}
		})
	}
}
