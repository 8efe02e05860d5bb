package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/control/cluster"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/door"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// shelf is a host's door, with outputs by instance and stream, and a bucket.
type shelf struct {
	mu      sync.Mutex
	outputs map[string]string
	away    bool  // the host
	asked   int   // how often it was, while it was
	refusal error // of the bucket
	objects map[string]string
	puts    int
}

func (s *shelf) Length(_ context.Context, _ cloud.Host, i cloud.InstanceID, _ cloud.CommandID, stream string) (int64, error) {
	text := s.outputs[string(i)+"/"+stream]
	if text == "trimmed" {
		return 0, door.ErrTrimmed
	}
	if s.away {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked++
		return 0, &url.Error{Op: "Get", URL: "http://host", Err: errors.New("the host is away")}
	}
	return int64(len(text)), nil
}

func (s *shelf) Page(_ context.Context, _ cloud.Host, i cloud.InstanceID, _ cloud.CommandID, stream string, offset int64, limit int) ([]byte, error) {
	text := s.outputs[string(i)+"/"+stream][offset:]
	return []byte(text[:min(len(text), limit, 3)]), nil
}

func (s *shelf) Put(_ context.Context, grant, bucket, key string, size int64, body io.Reader) error {
	text, err := io.ReadAll(body)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.puts++; err != nil || s.refusal != nil {
		return errors.Join(err, s.refusal)
	}
	if int64(len(text)) != size {
		return fmt.Errorf("%d bytes, and %d were promised", len(text), size)
	}
	s.objects[grant+" "+bucket+"/"+key] = string(text)
	return nil
}

// Outputs land in the bucket as instances end, each once; what is away is asked again, and what refuses after a while.
func TestOutputsAreCarriedToTheirBucket(t *testing.T) {
	w := newWorld(t)
	c := w.queue(3, "4", "0", nil)
	s := &shelf{outputs: map[string]string{"i-000/stdout": "first and second", "i-000/stderr": "oops", "i-001/stdout": "trimmed"}, objects: map[string]string{}}
	c.Output = &cloud.OutputPlace{Bucket: "b", Prefix: "p"}
	w.write(func(t *store.Txn) {
		for _, h := range []cloud.HostID{"h-0", "h-1"} {
			store.Put(t, store.Hosts, h, cloud.Host{ID: h})
		}
		store.Put(t, store.Commands, c.ID, c)
		store.Create(t, store.Deliveries, c.ID, cloud.Delivery{Command: c.ID, Grant: "ann"})
	})
	cfg := w.config(w.m)
	now := start
	cfg.Now = func() time.Time { return now }
	u := &cluster.Outputs{Config: cfg, Door: s, Bucket: s}
	round := func(want ...string) error {
		t.Helper()
		err := u.Reconcile(t.Context())
		if got := slices.Sorted(maps.Keys(s.objects)); !slices.Equal(got, want) {
			t.Fatalf("objects: got %q, want %q", got, want)
		}
		rev, _ := w.c.Head(t.Context())
		if err := w.m.WaitRev(t.Context(), rev); err != nil {
			t.Fatal(err)
		}
		return err
	}
	if err := round(); err != nil || s.puts != 0 {
		t.Errorf("before any has ended: %v, %d writes", err, s.puts)
	}
	step := func(name string, stdout, stderr int64) cloud.StepResult {
		return cloud.StepResult{Name: name, Action: "aws:runShellScript", StdoutEnd: stdout, StderrEnd: stderr}
	}
	end := func(id cloud.InstanceID, inv cloud.Invocation) {
		inv.Command, inv.Instance, inv.Status = c.ID, id, cloud.InvocationSuccess
		w.write(func(t *store.Txn) { store.Put(t, store.Invocations(c.Hosts[id]), store.InvocationID(c.ID, id), inv) })
	}
	end("i-000", cloud.Invocation{StdoutBytes: 16, StderrBytes: 4, Steps: []cloud.StepResult{step("a", 9, 0), step("b", 16, 4)}})

	s.away = true
	if err := round(); err == nil {
		t.Error("a host that is away is no error")
	}
	s.away, s.refusal = false, errors.New("the object store is away")
	if err := round(); err == nil {
		t.Error("an object store that is away is no error")
	}
	s.refusal = cloud.Errorf("NoSuchBucket", "gone")
	if err := round(); err != nil {
		t.Errorf("a bucket that refuses is an error of ours: %v", err)
	}
	before := s.puts
	if err := round(); err != nil || s.puts != before {
		t.Errorf("a bucket that refuses is asked again at once: %v", err)
	}
	s.refusal, now = nil, now.Add(10*time.Minute)
	first := []string{"ann b/p/c/i-000/awsrunShellScript/a/stdout", "ann b/p/c/i-000/awsrunShellScript/b/stderr", "ann b/p/c/i-000/awsrunShellScript/b/stdout"}
	if err := round(first...); err != nil {
		t.Error(err)
	}
	if a, b := s.objects[first[0]], s.objects[first[2]]; a != "first and" || b != " second" || s.objects[first[1]] != "oops" {
		t.Errorf("got %q and %q", a, b)
	}
	before = s.puts
	if err := round(first...); err != nil || s.puts != before {
		t.Errorf("it is carried twice: %v", err)
	}

	end("i-001", cloud.Invocation{StdoutBytes: 7, Steps: []cloud.StepResult{step("a", 7, 0)}})
	trimmed := "ann b/p/c/i-001/awsrunShellScript/a/stdout"
	if err := round(append(first, trimmed)...); err != nil || !strings.Contains(s.objects[trimmed], "removed") {
		t.Errorf("what was trimmed meanwhile: %v, %q", err, s.objects[trimmed])
	}
	now = start.Add(2 * time.Hour) // the third has never begun
	if err := round(append(first, trimmed)...); err != nil {
		t.Error(err)
	}
	if _, err := store.Get(t.Context(), w.c, store.Deliveries, c.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("all is carried, and there is still something to do: %v", err)
	}
}

// A host that does not answer costs a round one wait, however many outputs it has.
func TestAHostThatIsAwayIsWaitedForOnce(t *testing.T) {
	w := newWorld(t)
	c := w.queue(1, "4", "0", nil)
	c.Output = &cloud.OutputPlace{Bucket: "b"}
	host := c.Hosts["i-000"]
	w.write(func(t *store.Txn) {
		store.Put(t, store.Hosts, host, cloud.Host{ID: host})
		for _, id := range []cloud.CommandID{"c1", "c2", "c3"} {
			c := c
			c.ID = id
			store.Put(t, store.Commands, id, c)
			store.Create(t, store.Deliveries, id, cloud.Delivery{Command: id})
			store.Put(t, store.Invocations(host), store.InvocationID(id, "i-000"), cloud.Invocation{Command: id, Instance: "i-000", Status: cloud.InvocationSuccess, StdoutBytes: 1})
		}
	})
	s := &shelf{away: true}
	u := &cluster.Outputs{Config: w.config(w.m), Door: s, Bucket: s}
	if err := u.Reconcile(t.Context()); err == nil || s.asked != 1 {
		t.Errorf("asked %d times, %v", s.asked, err)
	}
	if err := u.Reconcile(t.Context()); err == nil || s.asked != 2 {
		t.Errorf("in the next round asked %d times, %v", s.asked, err)
	}
}
