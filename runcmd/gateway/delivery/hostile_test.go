package delivery

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

const (
	vpc      = cloud.VPCID("vpc-0123456789abcdef0")
	mine     = cloud.InstanceID("i-00000000000000001")
	neighbor = cloud.InstanceID("i-00000000000000002")
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// site is a gateway with two instances; the test is the guest at 127.0.0.1.
type site struct {
	t    *testing.T
	root bundle.Root
	url  string
	logs *strings.Builder
	n    int
	stop func() // the gateway

	patience time.Duration
}

func newSite(t *testing.T) *site { return newSiteWith(t, time.Hour) }

func newSiteWith(t *testing.T, patience time.Duration) *site {
	s := &site{t: t, root: bundle.Root(t.TempDir()), logs: &strings.Builder{}, patience: patience}
	for id, addr := range map[cloud.InstanceID]string{mine: "127.0.0.1", neighbor: "127.0.0.2"} {
		dir := s.root.Instance(id)
		check(t, os.MkdirAll(string(dir), 0o755))
		check(t, dir.MakeCommands(os.Getgid()))
		check(t, bundle.Write(dir.Path("metadata.json"), bundle.Metadata{
			Instance:   id,
			Interfaces: []bundle.MetadataInterface{{VPC: vpc, Addresses: []netip.Addr{netip.MustParseAddr(addr)}}},
		}, 0o644))
	}
	s.start(0)
	return s
}

// start starts a gateway, on a host whose clock was set by so much.
func (s *site) start(shift time.Duration) {
	t := s.t
	index := bundle.NewIndex(s.root)
	log := slog.New(slog.NewTextHandler(s.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	g := New(s.root, index, Limits{Output: 1000, Quota: 1500, Patience: s.patience}, log)
	g.clock.wall = func() time.Time { return time.Now().Add(shift) }
	ctx, cancel := context.WithCancel(context.Background())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	s.url = "ws://" + l.Addr().String() + wire.Path
	var wg sync.WaitGroup
	wg.Go(func() { g.Run(ctx) })
	<-g.Ready()
	wg.Go(func() { g.Serve(vpc, l) })
	s.stop = sync.OnceFunc(func() {
		cancel()
		l.Close()
		wg.Wait()
		index.Close()
	})
	t.Cleanup(s.stop)
}

func (s *site) put(id cloud.InstanceID) cloud.CommandID {
	s.n++
	cmd := cloud.CommandID(strings.Repeat("0", 8) + "-0000-0000-0000-00000000000" + string(rune('0'+s.n)))
	check(s.t, s.root.Instance(id).PutCommand(bundle.CommandRequest{CommandWish: cloud.CommandWish{
		Command: cmd, Instance: id, Steps: []cloud.Step{{Name: "a", Script: "true", TimeoutSeconds: 60}},
		DeliverBy: time.Now().Add(time.Hour),
	}}))
	return cmd
}

// guest connects and says hello.
func (s *site) guest() *wire.Conn {
	s.t.Helper()
	c, err := wire.Dial(s.t.Context(), s.url)
	check(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	check(s.t, c.Send(&wire.Hello{Version: wire.Version, Boot: "boot", Agent: "x\x1b[2Jy\n", ComputerName: strings.Repeat("n", 1000)}))
	if f, err := c.Receive(); err != nil {
		s.t.Fatal(err)
	} else if w, ok := f.(*wire.Welcome); !ok || w.Instance != mine {
		s.t.Fatalf("got %+v, want a welcome for %s", f, mine)
	}
	return c
}

// until receives until a frame of the type comes.
func until[F wire.Frame](t *testing.T, c *wire.Conn) F {
	t.Helper()
	for {
		f, err := c.Receive()
		check(t, err)
		if f, ok := f.(F); ok {
			return f
		}
	}
}

func result(id cloud.CommandID, code int) *wire.Result {
	o := wire.Failed
	if code == 0 {
		o = wire.Success
	}
	return &wire.Result{ID: id, Steps: []wire.StepResult{{Outcome: o, Code: code}}}
}

func TestGuestCanNotTouchWhatIsNotItsOwn(t *testing.T) {
	s := newSite(t)
	theirs, own := s.put(neighbor), s.put(mine)
	c := s.guest()
	if r := until[*wire.Request](t, c); r.ID != own {
		t.Fatalf("got a request for %s", r.ID)
	}
	unknown := cloud.CommandID("99999999-0000-0000-0000-000000000000")
	for _, id := range []cloud.CommandID{theirs, unknown, "agent"} {
		check(t, c.Send(&wire.Output{ID: id, Data: []byte("stolen")}))
		check(t, c.Send(result(id, 0)))
		check(t, c.Send(&wire.Accepted{ID: id}))
	}
	check(t, c.Send(result(own, 3)))
	until[*wire.Done](t, c)
	if inv, err := s.root.Instance(neighbor).Invocation(theirs); err != nil || inv.Status != cloud.InvocationPending {
		t.Errorf("got %+v, %v, want Pending", inv, err)
	}
	for _, pattern := range []string{"instances/*/commands/*/std*", "instances/*/commands/9*"} {
		if got, _ := filepath.Glob(filepath.Join(string(s.root), pattern)); len(got) > 0 {
			t.Errorf("files were made: %v", got)
		}
	}
}

func TestResultIsFinal(t *testing.T) {
	s := newSite(t)
	id := s.put(mine)
	c := s.guest()
	until[*wire.Request](t, c)
	check(t, c.Send(&wire.Output{ID: id, Data: []byte("one")}))
	check(t, c.Send(result(id, 3)))
	until[*wire.Done](t, c)
	check(t, c.Send(&wire.Output{ID: id, Offset: 3, Data: []byte("two")}))
	check(t, c.Send(result(id, 0)))
	check(t, c.Send(&wire.Accepted{ID: id}))
	next := s.put(mine) // when its end is told, all before it has been dealt with
	until[*wire.Request](t, c)
	check(t, c.Send(result(next, 0)))
	until[*wire.Done](t, c)
	dir := s.root.Instance(mine)
	if inv, err := dir.Invocation(id); err != nil || inv.ResponseCode != 3 || inv.Status != cloud.InvocationFailed {
		t.Errorf("got %+v, %v, want the first result", inv, err)
	}
	if out, _ := os.ReadFile(dir.CommandOutput(id, "stdout")); string(out) != "one" {
		t.Errorf("got output %q, want what came before the result", out)
	}
}

func TestOutputIsBounded(t *testing.T) {
	s := newSite(t)
	id := s.put(mine)
	c := s.guest()
	if r := until[*wire.Request](t, c); r.Limit != 1000 {
		t.Fatalf("got a limit of %d", r.Limit)
	}
	piece := []byte(strings.Repeat("x", 400))
	for n := range 10 {
		check(t, c.Send(&wire.Output{ID: id, Offset: int64(n * 400), Data: piece}))
		check(t, c.Send(&wire.Output{ID: id, Stream: wire.Stderr, Offset: int64(n * 400), Data: piece}))
		check(t, c.Send(&wire.Output{ID: id, Offset: 0, Data: piece})) // again
	}
	check(t, c.Send(result(id, 0)))
	until[*wire.Done](t, c)
	if n := kept(s.root.Instance(mine), id); n != 1500 {
		t.Errorf("got %d bytes kept, want the quota", n)
	}
}

func TestGapEndsWhatIsKept(t *testing.T) {
	s := newSite(t)
	id := s.put(mine)
	c := s.guest()
	until[*wire.Request](t, c)
	check(t, c.Send(&wire.Output{ID: id, Data: []byte("abc")}))
	check(t, c.Send(&wire.Output{ID: id, Offset: 2, Data: []byte("cde")}))
	check(t, c.Send(&wire.Output{ID: id, Offset: 9, Data: []byte("xyz")}))
	check(t, c.Send(&wire.Output{ID: id, Offset: 1 << 62, Data: []byte("xyz")}))
	check(t, c.Send(result(id, 0)))
	until[*wire.Done](t, c)
	if out, _ := os.ReadFile(s.root.Instance(mine).CommandOutput(id, "stdout")); string(out) != "abcde" {
		t.Errorf("got %q, want the beginning", out)
	}
}

// A guest may claim to have printed more than can be counted: no length becomes negative of it.
func TestLengthsThatCannotBe(t *testing.T) {
	const end = 1<<63 - 1
	for name, f := range map[string]wire.Frame{
		"an output at the end of all numbers":  &wire.Output{Offset: end, Data: []byte("xyz")},
		"a result beyond the end of an output": &wire.Result{Steps: []wire.StepResult{{Outcome: wire.Success}}, Outputs: [wire.Streams]int64{end, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			id := s.put(mine)
			c := s.guest()
			until[*wire.Request](t, c)
			switch f := f.(type) {
			case *wire.Output:
				f.ID = id
			case *wire.Result:
				f.ID = id
			}
			check(t, c.Send(f))
			time.AfterFunc(10*time.Second, func() { c.Close() }) // a guard
			for {
				if _, err := c.Receive(); err != nil {
					break
				}
			}
			again := s.guest()
			if r := until[*wire.Request](t, again); r.Offsets[wire.Stdout] != 0 {
				t.Errorf("the output goes on at %d", r.Offsets[wire.Stdout])
			}
		})
	}
}

func TestNewerConnectionFencesTheOlder(t *testing.T) {
	s := newSite(t)
	old := s.guest()
	id := s.put(mine)
	until[*wire.Request](t, old)
	now := s.guest()
	if r := until[*wire.Request](t, now); r.ID != id || r.Resume {
		t.Errorf("got %+v", r)
	}
	old.Send(result(id, 9)) // may or may not reach anybody
	for {
		if _, err := old.Receive(); err != nil {
			break
		}
	}
	check(t, now.Send(result(id, 0)))
	until[*wire.Done](t, now)
	if inv, err := s.root.Instance(mine).Invocation(id); err != nil || inv.Status != cloud.InvocationSuccess {
		t.Errorf("got %+v, %v, want the newer connection's result", inv, err)
	}
}

// An agent from before knows nothing of steps that are more than a script, and would run an empty one for them.
func TestWhatAnOldAgentDoesNotKnowIsNotSentToIt(t *testing.T) {
	s := newSite(t)
	c := s.guest() // its hello names no level
	s.n++
	id := cloud.CommandID("00000000-0000-0000-0000-00000000000" + string(rune('0'+s.n)))
	check(t, s.root.Instance(mine).PutCommand(bundle.CommandRequest{CommandWish: cloud.CommandWish{
		Command: id, Instance: mine, Steps: []cloud.Step{{Name: "a", TimeoutSeconds: 60, Download: &cloud.StepDownload{URL: "http://x/y"}}},
		DeliverBy: time.Now().Add(time.Hour),
	}}))
	next := s.put(mine)
	if r := until[*wire.Request](t, c); r.ID != next {
		t.Errorf("got %+v, want the command after it", r)
	}
	for range 200 { // both were seen at once, in any order
		if inv, err := s.root.Instance(mine).Invocation(id); err == nil && inv.Status.Terminal() {
			if inv.Status != cloud.InvocationFailed || inv.Details != "InvalidPlatform" {
				t.Errorf("got %+v, want InvalidPlatform", inv)
			}
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Error("the command is open")
}

func TestNonsenseEndsTheConnection(t *testing.T) {
	for name, f := range map[string]wire.Frame{
		"a frame for agents":             &wire.Welcome{},
		"a result with too many steps":   &wire.Result{Steps: make([]wire.StepResult, 2)},
		"a result without steps":         &wire.Result{},
		"a first step that was skipped":  &wire.Result{Steps: []wire.StepResult{{Outcome: wire.Skipped}}},
		"an outcome that does not exist": &wire.Result{Steps: []wire.StepResult{{Outcome: "great\x1b[2J"}}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			id := s.put(mine)
			c := s.guest()
			until[*wire.Request](t, c)
			if r, ok := f.(*wire.Result); ok {
				r.ID = id
			}
			check(t, c.Send(f))
			for {
				if _, err := c.Receive(); err != nil {
					break
				}
			}
			if inv, err := s.root.Instance(mine).Invocation(id); err != nil || inv.Status.Terminal() {
				t.Errorf("got %+v, %v, want a command that is open", inv, err)
			}
			again := s.guest() // and it can still be ended properly
			until[*wire.Request](t, again)
			check(t, again.Send(result(id, 0)))
			until[*wire.Done](t, again)
		})
	}
}

func TestWordsOfGuestsAreMadePrintable(t *testing.T) {
	s := newSite(t)
	id := s.put(mine)
	c := s.guest()
	until[*wire.Request](t, c)
	check(t, c.Send(result(id, 1<<30)))
	until[*wire.Done](t, c)
	dir := s.root.Instance(mine)
	w, err := bundle.NewWatcher(dir.Commands(), 1)
	check(t, err)
	go w.Run(t.Context())
	for range w.C() {
		p, err := dir.Agent()
		if err != nil {
			continue
		}
		if p.Version != "x?[2Jy?" || len(p.ComputerName) != 128 {
			t.Errorf("got %+v", p)
		}
		break
	}
	if inv, _ := dir.Invocation(id); inv.ResponseCode != 255 {
		t.Errorf("got code %d, want one that fits", inv.ResponseCode)
	}
}

// A guest that was reset leaves a connection that looks alive. A command is not sent there: it would count as begun
// in a boot that never heard of it.
func TestACommandIsNotSentToAnAgentThatGivesNoSignOfLife(t *testing.T) {
	s := newSiteWith(t, 50*time.Millisecond)
	dead := s.guest() // nobody receives there any more, so nothing answers
	id := s.put(mine)
	w, err := bundle.NewWatcher(s.root.Instance(mine).Commands(), 1)
	check(t, err)
	go w.Run(t.Context())
	for range w.C() { // the gateway says so in agent.json when its patience is over
		if p, err := s.root.Instance(mine).Agent(); err == nil && !p.Connected {
			break
		}
	}
	if sent, err := os.ReadFile(s.root.Instance(mine).Path("commands", string(id), "sent")); err == nil {
		t.Errorf("the command counts as sent to boot %q", sent)
	}
	live := s.guest()
	if r := until[*wire.Request](t, live); r.ID != id || r.Resume {
		t.Errorf("got %+v, want a command that has not been sent before", r)
	}
	for {
		f, err := dead.Receive()
		if err != nil {
			break
		}
		if r, ok := f.(*wire.Request); ok {
			t.Errorf("the dead connection was sent %s", r.ID)
		}
	}
	check(t, live.Send(result(id, 0)))
	until[*wire.Done](t, live)
}

// A guest's agent is told that its metadata has changed, if it has said that it listens, and no other.
func TestWhoListensIsToldOfNewMetadata(t *testing.T) {
	s := newSite(t)
	deaf := s.guest()
	listens, err := wire.Dial(t.Context(), s.url) // fences the other
	check(t, err)
	defer listens.Close()
	check(t, listens.Send(&wire.Hello{Version: wire.Version, Boot: "boot", Listens: true}))
	until[*wire.Welcome](t, listens)
	rewrite := func(id cloud.InstanceID) {
		path := s.root.Instance(id).Path("metadata.json")
		m, err := bundle.Read[bundle.Metadata](path)
		check(t, err)
		m.KeyName += "x"
		check(t, bundle.Write(path, m, 0o644))
	}
	rewrite(neighbor)
	rewrite(mine)
	until[*wire.Metadata](t, listens)
	if f, err := deaf.Receive(); err == nil {
		t.Errorf("an agent that does not listen was told %+v", f)
	}

	// One that does not listen is sent what it understands: the next frame is its command.
	deaf = s.guest()
	rewrite(mine)
	s.put(mine)
	f, err := deaf.Receive()
	if _, ok := f.(*wire.Request); !ok {
		t.Errorf("got %+v, %v, want a request", f, err)
	}
}

func TestStrangerIsTurnedAway(t *testing.T) {
	s := newSite(t)
	check(t, os.RemoveAll(string(s.root.Instance(mine))))
	if _, err := wire.Dial(t.Context(), s.url); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("got %v, want 403", err)
	}
}

func TestDoorBoundsConnections(t *testing.T) {
	d := newDoor(nil)
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	now := time.Unix(1000, 0)
	for range perAddress {
		if now = now.Add(refill); !d.admit(a, now) {
			t.Fatal("refused within the bound")
		}
	}
	if d.admit(a, now) {
		t.Error("admitted one too many")
	}
	if !d.admit(b, now) {
		t.Error("refused another address")
	}
	for range burst { // a loop of reconnects
		d.left(a)
		d.admit(a, now)
	}
	d.left(a)
	if d.admit(a, now) {
		t.Error("admitted a busy loop")
	}
	if !d.admit(a, now.Add(2*refill)) {
		t.Error("refused after a pause")
	}
}

// A gateway that looks late has not read in time what an agent said: it asks itself before it hangs up.
func TestWhoIsLateHasPatience(t *testing.T) {
	dir := bundle.Root(t.TempDir()).Instance(mine)
	check(t, os.MkdirAll(dir.Commands(), 0o755))
	c := &crew{}
	i := newInstance(dir, Limits{Patience: 3 * time.Second}, newClock(), slog.New(slog.DiscardHandler), c.Go)
	done := make(chan struct{})
	i.turns.do(func() {
		defer close(done)
		conn := &hungUp{}
		asked := time.Now()
		i.now, i.probed = &link{conn: conn, fenced: make(chan struct{})}, asked
		for _, after := range []time.Duration{2, 5, 7} { // seconds; at 5 it should have looked at 3, and then again at 8
			if i.tick(asked.Add(after * time.Second)); conn.closed {
				t.Errorf("hung up after %d s", after)
			}
		}
		if i.tick(asked.Add(8 * time.Second)); !conn.closed {
			t.Error("not hung up on an agent that gives no sign of life")
		}
	})
	<-done
	i.retire()
	c.Wait()
}

// hungUp is a connection that knows whether it was closed.
type hungUp struct {
	Conn
	closed bool
}

func (h *hungUp) Close() error {
	h.closed = true
	return nil
}

// The digest of an output is that of its file, whether one gateway has written it or two.
func TestDigestOfWhatTwoGatewaysHaveWritten(t *testing.T) {
	for name, restart := range map[string]bool{"one": false, "two": true} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			c := s.guest()
			id := s.put(mine)
			until[*wire.Request](t, c)
			check(t, c.Send(&wire.Output{ID: id, Data: []byte("one ")}))
			if restart {
				for { // until it has come
					if info, err := os.Stat(s.root.Instance(mine).CommandOutput(id, "stdout")); err == nil && info.Size() == 4 {
						break
					}
				}
				s.stop()
				s.start(0)
				c = s.guest()
				if r := until[*wire.Request](t, c); r.Offsets[wire.Stdout] != 4 {
					t.Fatalf("goes on from %d", r.Offsets[wire.Stdout])
				}
			}
			check(t, c.Send(&wire.Output{ID: id, Offset: 4, Data: []byte("two")}))
			r := result(id, 0)
			r.Outputs[wire.Stdout] = 7
			check(t, c.Send(r))
			until[*wire.Done](t, c)
			inv, err := s.root.Instance(mine).Invocation(id)
			check(t, err)
			if want := fmt.Sprintf("%x", sha256.Sum256([]byte("one two"))); inv.StdoutSHA256 != want || inv.StderrSHA256 != "" {
				t.Errorf("got %q and %q, want %q and none", inv.StdoutSHA256, inv.StderrSHA256, want)
			}
		})
	}
}
