package host

import (
	"errors"
	"io/fs"
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

// A machine is let in when its commands are there, and not before: the gateway has those dropped that it does not know. When it
// is not wished for any more, nothing of it is left, whoever is interrupted.
func TestAMachineIsLetInWhenItsCommandsAreThere(t *testing.T) {
	const id, cmd = cloud.InstanceID("mi-0123456789abcdef0"), cloud.CommandID("01234567-89ab-cdef-0123-456789abcdef")
	c := storetest.New(t)
	ctx := t.Context()
	m := storetest.Mirror(t, c, store.WishPrefix("h-1"))
	member, err := NewMember("h-1", filepath.Join(t.TempDir(), "cloud-id"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(f func(t *store.Txn)) {
		t.Helper()
		storetest.Write(t, c, m, f)
	}
	key := store.InvocationID(cmd, id)
	write(func(t *store.Txn) {
		store.Create(t, store.Memberships("h-1"), store.MembershipID, "c-1")
		store.Create(t, store.NodeWishes("h-1"), id, cloud.NodeWish{Instance: id, Key: strings.Repeat("a", 64)})
		store.Create(t, store.CommandWishes("h-1"), key, cloud.CommandWish{Command: cmd, Instance: id})
	})
	cfg := Config{ID: "h-1", GatewayGID: os.Getgid(), Root: bundle.Root(t.TempDir()), Store: c, Mirror: m, Member: member, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	dir := cfg.Root.Instance(id)
	bad := cloud.CommandID("no-uuid")
	write(func(t *store.Txn) {
		store.Create(t, store.CommandWishes("h-1"), store.InvocationID(bad, id), cloud.CommandWish{Command: bad, Instance: id})
	})
	commands := NewCommands(cfg)
	if err := commands.Reconcile(ctx); err == nil {
		t.Error("a command that can not be carried out is no error")
	}
	if _, err := dir.Node(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("let in without all its commands: %v", err)
	}
	write(func(t *store.Txn) { store.Remove(t, store.CommandWishes("h-1"), store.InvocationID(bad, id)) })
	if err := commands.Reconcile(ctx); err != nil {
		t.Error(err)
	}
	if n, err := dir.Node(); err != nil || n.Key != strings.Repeat("a", 64) {
		t.Errorf("got %+v, %v", n, err)
	}
	if _, err := os.Stat(dir.Path("commands", string(cmd), "request.json")); err != nil {
		t.Error(err)
	}
	if err := bundle.Write(dir.Path("commands", "agent.json"), cloud.AgentPing{Instance: id, Connected: true}, 0o640); err != nil {
		t.Fatal(err)
	}
	commands.Listen()
	if err := commands.Reconcile(ctx); err != nil {
		t.Error(err)
	}
	if _, err := store.Get(ctx, c, store.Pings("h-1"), id); err != nil {
		t.Errorf("its agent was not heard of: %v", err)
	}
	write(func(t *store.Txn) {
		store.Remove(t, store.CommandWishes("h-1"), key)
		store.Remove(t, store.NodeWishes("h-1"), id)
	})
	if err := NewCommands(cfg).Reconcile(ctx); err != nil { // another agent
		t.Error(err)
	}
	if _, err := os.Stat(string(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its directory: %v", err)
	}
	if _, err := store.Get(ctx, c, store.Pings("h-1"), id); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("what was heard of it: %v", err)
	}
}
