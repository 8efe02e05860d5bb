package cluster_test

import (
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

func TestADeletedNATGatewayIsForgottenAfterAnHour(t *testing.T) {
	w := newWorld(t)
	w.write(func(t *store.Txn) {
		store.Create(t, store.NATGateways, "nat-1", cloud.NATGateway{ID: "nat-1", Deleted: start.Add(-time.Hour - time.Second)})
		store.Create(t, store.NATGateways, "nat-2", cloud.NATGateway{ID: "nat-2", Deleted: start.Add(-time.Hour)})
		store.Create(t, store.NATGateways, "nat-3", cloud.NATGateway{ID: "nat-3", Created: start.Add(-24 * time.Hour)})
	})
	w.settle()
	l, err := store.List(t.Context(), w.c, store.NATGateways, store.Range{})
	if err != nil || len(l.Objects) != 2 || l.Objects[0].ID != "nat-2" || l.Objects[1].ID != "nat-3" {
		t.Errorf("got %v, %v, want nat-2 and nat-3", l.Objects, err)
	}
}
