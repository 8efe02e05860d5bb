package store_test

import (
	"testing"

	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

type thing struct {
	Name string
	N    int
}

var things = store.NewKind[thing](store.SpecPrefix("thing"))

func TestFirst(t *testing.T) {
	c := storetest.New(t)
	tx := store.NewTxn()
	store.Create(tx, things, "a", thing{"x", 1})
	rev, err := c.Commit(t.Context(), tx)
	t.Log(rev, err)
}
