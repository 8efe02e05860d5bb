package host

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

// A host follows the first cloud that plans for it, and no other: an empty store and another cloud's wishes end and
// remove nothing, also after the agent was started again.
func TestHostFollowsItsOwnCloudOnly(t *testing.T) {
	const id = cloud.InstanceID("i-0123456789abcdef0")
	root, path := bundle.Root(t.TempDir()), filepath.Join(t.TempDir(), "cloud-id")
	dir := root.Instance(id)
	if err := os.MkdirAll(dir.Commands(), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, cloud string
		refused     string // what the refusal must say; "" for none
	}{
		{"an empty store before any other", "", "no cloud has planned"},
		{"the first", "c-1", ""},
		{"the store is empty", "", "lost its content"},
		{"another cloud's", "c-2", "remove " + path},
		{"the first again", "c-1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := storetest.New(t)
			mirror := store.NewMirror(client, store.WishPrefix("h-1"))
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { mirror.Run(ctx) })
			defer wg.Wait()
			defer cancel()
			member, err := NewMember("h-1", path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := member.Wishes(mirror); mirror.Snapshot() == nil && !errors.Is(err, store.ErrNotReady) {
				t.Errorf("before the store answers: got %v, want %v", err, store.ErrNotReady)
			}
			<-mirror.Ready()
			if c.cloud != "" {
				tx := store.NewTxn()
				store.Create(tx, store.Memberships("h-1"), store.MembershipID, cloud.CloudID(c.cloud))
				rev, err := client.Commit(ctx, tx)
				if err == nil {
					err = mirror.WaitRev(ctx, rev)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			cfg := Config{ID: "h-1", Root: root, Store: client, Mirror: mirror, Member: member, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
			err = NewCommands(cfg).Reconcile(ctx)
			if c.refused == "" {
				if err != nil || member.Cloud() != "c-1" {
					t.Errorf("got %v, cloud %q", err, member.Cloud())
				}
				return
			}
			for _, err := range []error{err, New(cfg).Reconcile(ctx)} {
				if !errors.Is(err, ErrStranger) || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("got %v, want a refusal that says %q", err, c.refused)
				}
			}
			if _, err := os.Stat(string(dir)); err != nil {
				t.Errorf("the guest's directory: %v", err)
			}
		})
	}
}
