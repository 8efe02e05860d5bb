package cluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/control/cluster"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// letterbox takes notices, unless it is shut.
type letterbox struct {
	shut  error
	slow  func() // called by each
	tries int
	got   []string
	ids   map[string]string
}

func (l *letterbox) Post(_ context.Context, address string, header map[string]string, body []byte) error {
	l.tries++
	if l.slow != nil {
		l.slow()
	}
	if l.shut != nil {
		return l.shut
	}
	var n struct{ Type, MessageId, Message string }
	var m struct{ InstanceId, Status, EventTime string }
	if err := errors.Join(json.Unmarshal(body, &n), json.Unmarshal([]byte(n.Message), &m)); err != nil {
		return err
	}
	text := fmt.Sprintf("%s %s%s %s", address, m.InstanceId, m.Status, m.EventTime)
	l.got = append(l.got, text)
	if had, ok := l.ids[text]; ok && had != n.MessageId || n.MessageId != header["x-amz-sns-message-id"] {
		return fmt.Errorf("the message is %s now, was %s", n.MessageId, had)
	}
	l.ids[text] = n.MessageId
	return nil
}

// Whoever is named is told what happens, also if they were away, and is left alone for a while if so.
func TestNotices(t *testing.T) {
	w := newWorld(t)
	c := w.queue(2, "4", "0", nil)
	c.Notify = &cloud.Notification{URL: "https://hook"}
	w.write(func(t *store.Txn) {
		store.Put(t, store.Commands, c.ID, c)
		store.Create(t, store.Notices, c.ID, cloud.Notice{Command: c.ID})
	})
	box := &letterbox{ids: map[string]string{}}
	cfg := w.config(w.m)
	now := start
	cfg.Now = func() time.Time { return now }
	u := &cluster.Notices{Config: cfg, Poster: box}
	round := func(want ...string) {
		t.Helper()
		if err := u.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%q", box.got); got != fmt.Sprintf("%q", want) {
			t.Errorf("told %s, want %q", got, want)
		}
		rev, _ := w.c.Head(t.Context())
		if err := w.m.WaitRev(t.Context(), rev); err != nil {
			t.Fatal(err)
		}
	}
	at := func(seconds int) string {
		return start.Add(time.Duration(seconds) * time.Second).Format("2006-01-02T15:04:05.000Z")
	}
	says := func(id cloud.InstanceID, s cloud.InvocationStatus, ended time.Time) {
		w.write(func(t *store.Txn) {
			store.Put(t, store.Invocations(c.Hosts[id]), store.InvocationID(c.ID, id), cloud.Invocation{Command: c.ID, Instance: id, Status: s, Details: string(s),
				Started: start.Add(time.Second), Ended: ended})
		})
	}
	round()
	says("i-000", cloud.InvocationInProgress, time.Time{})
	box.shut = errors.New("away")
	round()
	round() // not at once again
	if box.tries != 1 {
		t.Errorf("tried %d times at the same moment", box.tries)
	}
	now = now.Add(2 * time.Second)
	round()
	now = now.Add(time.Second) // twice as long as before
	round()
	if box.tries != 2 {
		t.Errorf("tried %d times, want 2", box.tries)
	}
	box.shut, now = nil, now.Add(time.Minute)
	begun := "https://hook InProgress " + at(1)
	round(begun)
	round(begun)
	says("i-000", cloud.InvocationSuccess, start.Add(2*time.Second))
	round(begun)
	says("i-001", cloud.InvocationFailed, start.Add(3*time.Second))
	round(begun, "https://hook Failed "+at(3))
	if _, err := store.Get(t.Context(), w.c, store.Notices, c.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("all is told, and there is still something to do: %v", err)
	}

	// Told and not written down: told again, as the same message. Nobody there for a day: given up.
	w.write(func(t *store.Txn) { store.Create(t, store.Notices, c.ID, cloud.Notice{Command: c.ID}) })
	round(begun, "https://hook Failed "+at(3), begun, "https://hook Failed "+at(3))
	w.write(func(t *store.Txn) { store.Create(t, store.Notices, c.ID, cloud.Notice{Command: c.ID}) })
	box.got, box.shut, now = nil, errors.New("away"), now.Add(25*time.Hour)
	round()
	if _, err := store.Get(t.Context(), w.c, store.Notices, c.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a notice that nobody takes is kept: %v", err)
	}
}

// Who takes long for each notice does not have all others wait until they have taken theirs.
func TestASlowAddressIsToldLittleAtATime(t *testing.T) {
	w := newWorld(t)
	c := w.queue(5, "5", "0", nil)
	c.Notify = &cloud.Notification{URL: "https://hook", Instances: true, Events: []cloud.InvocationStatus{cloud.InvocationSuccess}}
	w.write(func(t *store.Txn) {
		store.Put(t, store.Commands, c.ID, c)
		store.Create(t, store.Notices, c.ID, cloud.Notice{Command: c.ID})
		for k, id := range c.Instances {
			store.Put(t, store.Invocations(c.Hosts[id]), store.InvocationID(c.ID, id), cloud.Invocation{Command: c.ID, Instance: id, Status: cloud.InvocationSuccess, Details: "Success",
				Started: start, Ended: start.Add(time.Duration(k) * time.Second)})
		}
	})
	cfg := w.config(w.m)
	now := start.Add(time.Minute)
	cfg.Now = func() time.Time { return now }
	box := &letterbox{ids: map[string]string{}, slow: func() { now = now.Add(4 * time.Second) }}
	u := &cluster.Notices{Config: cfg, Poster: box}
	for _, want := range []int{2, 4, 5} {
		if err := u.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(box.got) != want {
			t.Errorf("%d were told, want %d: %q", len(box.got), want, box.got)
		}
		rev, _ := w.c.Head(t.Context())
		if err := w.m.WaitRev(t.Context(), rev); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := store.Get(t.Context(), w.c, store.Notices, c.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("all is told, and there is still something to do: %v", err)
	}
}
