package host

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

// A wish becomes a file, what the gateway writes becomes a status that never goes back, and both go with the wish.
func TestCommandsGoToTheGatewayAndBack(t *testing.T) {
	const id, cmd = cloud.InstanceID("i-0123456789abcdef0"), cloud.CommandID("01234567-89ab-cdef-0123-456789abcdef")
	c := storetest.New(t)
	ctx := t.Context()
	m := storetest.Mirror(t, c, store.WishPrefix("h-1"))
	storetest.Write(t, c, m, func(t *store.Txn) { store.Create(t, store.Memberships("h-1"), store.MembershipID, "c-1") })
	member, err := NewMember("h-1", filepath.Join(t.TempDir(), "cloud-id"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{ID: "h-1", Root: bundle.Root(t.TempDir()), Store: c, Mirror: m, Member: member, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	dir := cfg.Root.Instance(id)
	if err := os.MkdirAll(dir.Commands(), 0o755); err != nil {
		t.Fatal(err)
	}
	key := store.InvocationID(cmd, id)
	commands := NewCommands(cfg)
	// step changes the wish and what the gateway says, runs once, and returns what the store then holds.
	step := func(wish func(t *store.Txn), says cloud.InvocationStatus) cloud.InvocationStatus {
		t.Helper()
		if wish != nil {
			storetest.Write(t, c, m, wish)
		}
		if says != "" {
			if err := bundle.Write(dir.Path("commands", string(cmd)+".json"), cloud.Invocation{Command: cmd, Instance: id, Status: says}, 0o640); err != nil {
				t.Fatal(err)
			}
		}
		if err := commands.Reconcile(ctx); err != nil {
			t.Error(err)
		}
		o, err := store.Get(ctx, c, store.Invocations("h-1"), key)
		if err != nil {
			return ""
		}
		return o.Value.Status
	}
	wish := cloud.CommandWish{Command: cmd, Instance: id}
	if got := step(func(t *store.Txn) { store.Create(t, store.CommandWishes("h-1"), key, wish) }, ""); got != "" {
		t.Errorf("nothing is known yet: got %s", got)
	}
	if _, err := os.Stat(dir.Path("commands", string(cmd), "request.json")); err != nil {
		t.Fatal(err)
	}
	if got := step(nil, cloud.InvocationInProgress); got != cloud.InvocationInProgress {
		t.Errorf("got %s", got)
	}
	was, _ := c.Head(ctx)
	if got := step(nil, cloud.InvocationPending); got != cloud.InvocationInProgress {
		t.Errorf("it went back to %s", got)
	}
	if now, _ := c.Head(ctx); now != was {
		t.Error("nothing was new, and something was written")
	}
	// The host is booted again: the run directory is empty, and the gateway must learn that the guest may have had the command.
	if err := os.RemoveAll(dir.Commands()); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir.Commands(), 0o755); err != nil {
		t.Fatal(err)
	}
	commands = NewCommands(cfg)
	if err := commands.Recall(ctx); err != nil {
		t.Fatal(err)
	}
	if got := step(nil, ""); got != cloud.InvocationInProgress {
		t.Errorf("when all was forgotten: got %s", got)
	}
	if data, err := os.ReadFile(dir.Path("commands", string(cmd), "request.json")); err != nil || !strings.Contains(string(data), `"Begun":true`) {
		t.Errorf("the gateway is asked for %s, %v, want it to know that the command has begun", data, err)
	}
	wish.Cancel = true
	step(func(t *store.Txn) { store.Put(t, store.CommandWishes("h-1"), key, wish) }, "")
	if _, err := os.Stat(dir.Path("commands", string(cmd)+".cancel")); err != nil {
		t.Error(err)
	}
	if got := step(nil, cloud.InvocationCancelled); got != cloud.InvocationCancelled {
		t.Errorf("got %s", got)
	}
	commands = NewCommands(cfg) // the agent starts again
	if err := commands.Recall(ctx); err != nil {
		t.Fatal(err)
	}
	if got := step(nil, cloud.InvocationInProgress); got != cloud.InvocationCancelled {
		t.Errorf("after its end: got %s", got)
	}
	if got := step(func(t *store.Txn) { store.Remove(t, store.CommandWishes("h-1"), key) }, ""); got != "" {
		t.Errorf("nobody wishes for it any more: got %s", got)
	}
	if entries, err := os.ReadDir(dir.Commands()); err != nil || len(entries) != 0 {
		t.Errorf("got %v, %v, want nothing left", entries, err)
	}
}
