package storetest

import (
	"context"
	"sync"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/store"
)

// Mirror returns a mirror of what is below the prefixes, which is ready and ends with the test.
func Mirror(t testing.TB, c *store.Client, prefixes ...store.Prefix) *store.Mirror {
	t.Helper()
	m := store.NewMirror(c, prefixes...)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { m.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	<-m.Ready()
	return m
}

// Write writes, and returns when the mirror has it.
func Write(t testing.TB, c *store.Client, m *store.Mirror, f func(t *store.Txn)) {
	t.Helper()
	tx := store.NewTxn()
	f(tx)
	rev, err := c.Commit(t.Context(), tx)
	if err == nil {
		err = m.WaitRev(t.Context(), rev)
	}
	if err != nil {
		t.Fatal(err)
	}
}
