//go:build vm

package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// Cards come and go while the guest runs; it sees each at once, also when another shim has taken over meanwhile.
func TestCardsComeAndGo(t *testing.T) {
	t.Parallel()
	v := newVM(t, "cards", func(m *bundle.Machine) {
		m.Interfaces = []bundle.MachineInterface{{ID: "eni-00000000000000001", MAC: "02:00:00:00:00:01"}}
		m.HotPlug = 2
	})
	v.shim(tap(t))
	console := v.follow(0)
	console.expect(`CARDS 02:00:00:00:00:01\.`)
	v.await("running", func(s shim.Status) bool { return s.State == shim.StateRunning })

	second := shim.Card{ID: "eni-00000000000000002", MAC: "02:00:00:00:00:02", MTU: 1400}
	third := shim.Card{ID: "eni-00000000000000003", MAC: "02:00:00:00:00:03"}
	ctx := t.Context()
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	check("plug", v.client.Plug(ctx, second, tap(t)))
	console.expect(`CARDS 02:00:00:00:00:01 02:00:00:00:00:02\.`)
	check("plug again", v.client.Plug(ctx, second, tap(t)))
	check("plug another", v.client.Plug(ctx, third, tap(t)))
	console.expect(`CARDS 02:00:00:00:00:01 02:00:00:00:00:02 02:00:00:00:00:03\.`)
	if err := v.client.Plug(ctx, shim.Card{ID: "eni-00000000000000004", MAC: "02:00:00:00:00:04"}, tap(t)); !errors.Is(err, shim.ErrState) {
		t.Errorf("plugged into a machine without a free port: got %v", err)
	}

	v.killShim()
	v.shim()
	v.await("a new shim", func(shim.Status) bool { _, err := v.client.Status(ctx); return err == nil })
	console = v.follow(0) // the other one ended with its shim
	unplug := func(id cloud.InterfaceID, force bool) error {
		for {
			err := v.client.Unplug(ctx, string(id), force)
			if !errors.Is(err, shim.ErrState) { // until the new shim has found QEMU's monitor
				return err
			}
			select {
			case <-ctx.Done():
				return err
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	check("unplug", unplug("eni-00000000000000002", false))
	console.expect(`CARDS 02:00:00:00:00:01 02:00:00:00:00:03\.`)
	check("unplug what is gone", unplug("eni-00000000000000002", false))
	check("unplug by force", unplug("eni-00000000000000003", true))
	console.expect(`CARDS 02:00:00:00:00:01\.`)
	check("plug into a port that is free again", v.client.Plug(ctx, second, tap(t)))
	console.expect(`CARDS 02:00:00:00:00:01 02:00:00:00:00:02\.`)

	check("kill", v.client.Kill(context.WithoutCancel(ctx)))
	v.ended()
}

// What is not a network card of ours cannot be plugged, nor taken out.
func TestOnlyNetworkCardsArePlugged(t *testing.T) {
	t.Parallel()
	v := newVM(t, "cards", func(m *bundle.Machine) { m.HotPlug = 1 })
	v.shim()
	v.follow(0).expect("TICK")
	v.await("running", func(s shim.Status) bool { return s.State == shim.StateRunning })
	ctx := t.Context()
	for _, id := range []string{"rng", "port0", "panic", "", "eni-x", "eni-00000000000000001,bus=pcie.0"} {
		if err := v.client.Unplug(ctx, id, true); err == nil {
			t.Errorf("%q was taken out", id)
		}
		if err := v.client.Plug(ctx, shim.Card{ID: id, MAC: "02:00:00:00:00:01"}, tap(t)); err == nil {
			t.Errorf("%q was plugged", id)
		}
	}
	if err := v.client.Plug(ctx, shim.Card{ID: "eni-00000000000000001", MAC: "01:00:00:00:00:01,x=y"}, tap(t)); err == nil {
		t.Error("a card with no MAC was plugged")
	}
	v.killShim()
	if err := v.client.Plug(ctx, shim.Card{ID: "eni-00000000000000001", MAC: "02:00:00:00:00:01"}, tap(t)); !errors.Is(err, shim.ErrGone) {
		t.Errorf("without a shim: got %v", err)
	}
	v.shim()
	v.await("a new shim", func(shim.Status) bool { _, err := v.client.Status(ctx); return err == nil })
	if err := v.client.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	v.ended()
}
