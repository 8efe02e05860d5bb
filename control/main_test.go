package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	iamapi "github.com/ichiro-metal/ichiro/control/api/iam"
	"github.com/ichiro-metal/ichiro/control/iam"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

// All services fit into one front: what two parts of the program have twice, only a whole one shows.
func TestTheAPIHasEachServiceOnce(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"keys", "audit"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	c := storetest.New(t)
	engine, err := iam.New(c, iam.Config{KeyDir: filepath.Join(dir, "keys"), Account: "000000000000"})
	if err != nil {
		t.Fatal(err)
	}
	o := options{root: bundle.Root(dir), state: dir, region: "ichiro-1", zone: "ichiro-1a", account: "000000000000"}
	front, sessions, audit, err := newFront(o, backing{
		store: c, mirror: store.NewMirror(c, store.All("spec")), engine: engine, authority: iamapi.NewAuthority(engine), endpoint: "http://127.0.0.1:8773",
		types: cloud.Types, tokens: newIssuer(nil, "http://127.0.0.1:8773", nil, nil), registry: prometheus.NewRegistry(), log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer audit.Close()
	if front == nil || sessions == nil {
		t.Error("a part is missing")
	}
}
