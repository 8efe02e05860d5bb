package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/control/cluster"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// mint counts the sessions that it makes, and refuses when told to.
type mint struct {
	w      *world
	made   int
	refuse error
}

func (m *mint) Current(_ context.Context, _ cloud.ProfileRef, had cloud.Credentials) (bool, error) {
	return m.refuse == nil && had.Code == "Success", nil
}

func (m *mint) MintForInstance(_ context.Context, p cloud.ProfileRef, _ cloud.InstanceID, life time.Duration) (cloud.Credentials, error) {
	if m.refuse != nil {
		return cloud.Credentials{}, m.refuse
	}
	m.made++
	return cloud.Credentials{Role: "r", Profile: p.ID, Code: "Success", AccessKeyID: fmt.Sprint(m.made), Expiration: m.w.now.Add(life)}, nil
}

func TestRoleCredentials(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 4096)
	w.launch("i-1", "t", func(i *cloud.Instance) { i.Profile = &cloud.ProfileRef{ARN: "p", ID: "AIPA1", RoleName: "r"} })
	w.launch("i-22", "t") // has no role
	w.settle()
	sealer, err := store.NewSealer(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	m := &mint{w: w}
	c := &cluster.Credentials{Config: w.config(w.m), Minter: m, Sealer: sealer}
	kind := store.Credentials("h-1")
	// look runs once, and returns what the instance has.
	look := func() (cloud.Credentials, error) {
		t.Helper()
		if err := w.m.WaitRev(t.Context(), w.head()); err != nil {
			t.Fatal(err)
		}
		run := c.Reconcile(t.Context())
		box, err := store.Get(t.Context(), w.c, kind, "i-1")
		if err != nil {
			return cloud.Credentials{}, errors.Join(run, err)
		}
		got, err := store.Unseal[cloud.Credentials](sealer, kind, cloud.InstanceID("i-1"), box.Value)
		if err != nil {
			t.Fatal(err)
		}
		return got, run
	}
	for _, step := range []struct {
		name   string
		after  time.Duration
		refuse error
		code   string
		key    string
		fails  bool
	}{
		{"missing", 0, nil, "Success", "1", false},
		{"fresh", 0, nil, "Success", "1", false},
		{"before half of its life", 3*time.Hour - time.Minute, nil, "Success", "1", false},
		{"past half of its life", 3*time.Hour + time.Minute, nil, "Success", "2", false},
		{"the store is away: the last good set stays", 7 * time.Hour, errors.New("away"), "Success", "2", true},
		{"the role is gone", 7 * time.Hour, cloud.Errorf("NoSuchEntity", "gone"), "AssumeRoleUnauthorizedAccess", "", false},
		{"the role is there again", 8 * time.Hour, nil, "Success", "3", false},
	} {
		w.now, m.refuse = start.Add(step.after), step.refuse
		got, err := look()
		if got.Code != step.code || got.AccessKeyID != step.key || (err != nil) != step.fails {
			t.Errorf("%s: got %s, key %q, %v; want %s, key %q", step.name, got.Code, got.AccessKeyID, err, step.code, step.key)
		}
		was := w.head()
		if _, err := look(); (err != nil) != step.fails || w.head() != was {
			t.Errorf("%s: a second run wrote something, %v", step.name, err)
		}
	}
	// The worst hour to be away is the one that begins just before keys would have been replaced. botocore takes keys with less than
	// 20 minutes left (10 and up to 10 by chance) for those of a service in trouble.
	w.now, m.refuse = start.Add(8*time.Hour+3*time.Hour-time.Second), nil
	if got, err := look(); err != nil || got.AccessKeyID != "3" {
		t.Fatalf("just before half of its life: got key %q, %v", got.AccessKeyID, err)
	}
	w.now, m.refuse = w.now.Add(time.Hour), errors.New("away")
	if got, _ := look(); got.AccessKeyID != "3" || got.Expiration.Sub(w.now) < 20*time.Minute {
		t.Errorf("after an hour without the control plane key %q has %v left, want 20m at least", got.AccessKeyID, got.Expiration.Sub(w.now))
	}
	m.refuse = nil
	if n := w.keys(store.WishPrefix("h-1", "credentials")); n != 1 {
		t.Errorf("%d instances have credentials, want the one with a role", n)
	}
	w.edit("i-1", func(i *cloud.Instance) { i.Profile = &cloud.ProfileRef{ARN: "q", ID: "AIPA2", RoleName: "s"} })
	m.refuse = nil
	if got, err := look(); err != nil || got.Profile != "AIPA2" || got.AccessKeyID != "4" {
		t.Errorf("with another profile, at once: got key %q of %s, %v", got.AccessKeyID, got.Profile, err)
	}
	w.edit("i-1", func(i *cloud.Instance) { i.Profile = nil })
	look()
	if n := w.keys(store.WishPrefix("h-1", "credentials")); n != 0 {
		t.Error("an instance whose role was taken away keeps its keys")
	}
}
