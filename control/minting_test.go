package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/control/cluster"
	"github.com/ichiro-metal/ichiro/control/iam"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

const trust = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}`

// mint is the minting loop over a real store and a real engine.
type mint struct {
	*cluster.Credentials
	t      *testing.T
	sealer *store.Sealer
	engine *iam.Engine
	wake   chan struct{} // holds one when the loop is to run
	mu     sync.Mutex
	at     time.Time
}

func newMint(t *testing.T) *mint {
	t.Helper()
	c := storetest.New(t)
	m := &mint{t: t, at: time.Now()}
	now := func() time.Time { m.mu.Lock(); defer m.mu.Unlock(); return m.at }
	var err error
	if m.engine, err = iam.New(c, iam.Config{KeyDir: t.TempDir(), Account: "000000000000", Now: now}); err != nil {
		t.Fatal(err)
	}
	m.wake = make(chan struct{}, 1)
	m.engine.OnChange(func() {
		select {
		case m.wake <- struct{}{}:
		default:
		}
	})
	if m.sealer, err = store.NewSealer(make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	mirror := store.NewMirror(c, store.All("spec"), store.All("wish"))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { mirror.Run(ctx) })
	running.Go(func() { m.engine.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	<-mirror.Ready()
	<-m.engine.Ready()
	m.Credentials = &cluster.Credentials{
		Config: cluster.Config{Store: c, Mirror: mirror, Now: now, Log: slog.New(slog.DiscardHandler)}, Minter: minter{m.engine}, Sealer: m.sealer,
	}
	return m
}

// instance writes an instance that runs with a role of its own.
func (m *mint) instance(k int) cloud.InstanceID {
	m.t.Helper()
	name := fmt.Sprintf("role-%d", k)
	ctx := m.t.Context()
	if _, err := m.engine.CreateRole(ctx, iam.Role{Name: name, Trust: trust}); err != nil {
		m.t.Fatal(err)
	}
	if _, err := m.engine.CreateProfile(ctx, iam.Profile{Name: name}); err != nil {
		m.t.Fatal(err)
	}
	if err := m.engine.AddRole(ctx, name, name); err != nil {
		m.t.Fatal(err)
	}
	p, err := m.engine.ResolveProfile(ctx, name)
	if err != nil {
		m.t.Fatal(err)
	}
	i := cloud.Instance{ID: cloud.InstanceID(fmt.Sprintf("i-%017x", k)), Host: "h-1", Power: cloud.PowerRunning, Profile: &p}
	txn := store.NewTxn()
	store.Create(txn, store.Instances, i.ID, i)
	if _, err := m.Store.Commit(ctx, txn); err != nil {
		m.t.Fatal(err)
	}
	return i.ID
}

// run makes what is missing, and returns how long that took.
func (m *mint) run() time.Duration {
	m.t.Helper()
	rev, err := m.Store.Head(m.t.Context())
	if err == nil {
		err = m.Mirror.WaitRev(m.t.Context(), rev)
	}
	start := time.Now()
	if err == nil {
		err = m.Reconcile(m.t.Context())
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return time.Since(start)
}

func (m *mint) has(id cloud.InstanceID) cloud.Credentials {
	m.t.Helper()
	kind := store.Credentials("h-1")
	o, err := store.Get(m.t.Context(), m.Store, kind, id)
	if err != nil {
		m.t.Fatal(err)
	}
	c, err := store.Unseal[cloud.Credentials](m.sealer, kind, id, o.Value)
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

func TestARolesCredentialsAreMadeAnewWhenTheyAreRevoked(t *testing.T) {
	m := newMint(t)
	id, other := m.instance(1), m.instance(2)
	m.run()
	was, others := m.has(id), m.has(other)
	if was.Code != "Success" || was.Role != "role-1" {
		t.Fatalf("the instance has %s of %s", was.Code, was.Role)
	}
	m.mu.Lock()
	m.at = m.at.Add(time.Minute)
	cut := m.at.UTC().Format(time.RFC3339)
	m.mu.Unlock()
	for len(m.wake) > 0 { // by what was made above
		<-m.wake
	}
	err := m.engine.PutRolePolicy(t.Context(), "role-1", iam.Inline{Name: "AWSRevokeOlderSessions",
		Document: `{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"DateLessThan":{"aws:TokenIssueTime":"` + cut + `"}}}}`})
	if err != nil {
		t.Fatal(err)
	}
	<-m.wake // nobody has to wait for the clock
	m.run()
	now := m.has(id)
	if now.AccessKeyID == was.AccessKeyID || now.Code != "Success" || m.has(other) != others {
		t.Errorf("revoked: the same key %t, %s; another role's keys are the same: %t", now.AccessKeyID == was.AccessKeyID, now.Code, m.has(other) == others)
	}
	m.run()
	if m.has(id) != now {
		t.Error("the new ones are replaced too")
	}
}

// TestMeasureRotation says how long 1,000 roles take that are due at once.
func TestMeasureRotation(t *testing.T) {
	if os.Getenv("ICHIRO_MEASURE") == "" {
		t.Skip("it measures: set ICHIRO_MEASURE")
	}
	m := newMint(t)
	const n = 1000
	for k := range n {
		m.instance(k)
	}
	var raw []float64
	for range 3 {
		raw = append(raw, m.run().Seconds())
		m.mu.Lock()
		m.at = m.at.Add(4 * time.Hour) // past half of a life
		m.mu.Unlock()
	}
	line, err := json.Marshal(map[string]any{"name": "1000 roles", "raw": raw, "of": n})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("MEASURED %s\n", line)
}
