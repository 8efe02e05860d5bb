//go:build vm

package main

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// Cards come and go while the guest runs; it sees each at once, also when another shim has taken over meanwhile.
func TestCardsComeAndGo(t *testing.T) {
	t.Parallel()
	v := newVM(t, "cards", func(m *bundle.Machine) {
		m.Interfaces = []bundle.MachineInterface{
			{ID: "eni-00000000000000001", MAC: "02:00:00:00:00:01"}, {ID: "eni-00000000000000005", MAC: "02:00:00:00:00:05"},
		}
		m.HotPlug = 3
	})
	v.shim(tap(t), tap(t))
	console := v.follow(0)
	console.expect(`CARDS 02:00:00:00:00:01 02:00:00:00:00:05\.`)
	cards := func(want ...string) func(shim.Status) bool {
		return func(s shim.Status) bool { return s.State == shim.StateRunning && slices.Equal(s.Cards, want) }
	}
	v.await("running", cards("eni-00000000000000001", "eni-00000000000000005"))

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
	console.expect(`CARDS 02:00:00:00:00:01 02:00:00:00:00:02 02:00:00:00:00:05\.`)
	check("a card of the boot", v.client.LetGo(ctx, "eni-00000000000000005"))
	console.expect(`CARDS 02:00:00:00:00:01 02:00:00:00:00:02\.`)
	v.await("its end", cards("eni-00000000000000001", "eni-00000000000000002"))
	check("plug it again", v.client.Plug(ctx, shim.Card{ID: "eni-00000000000000005", MAC: "02:00:00:00:00:05"}, tap(t)))
	console.expect(`CARDS 02:00:00:00:00:01 02:00:00:00:00:02 02:00:00:00:00:05\.`)
	v.await("its return", cards("eni-00000000000000001", "eni-00000000000000002", "eni-00000000000000005"))
	check("and out", v.client.Unplug(ctx, "eni-00000000000000005", false))
	console.expect(`CARDS 02:00:00:00:00:01 02:00:00:00:00:02\.`)
	check("plug again", v.client.Plug(ctx, second, tap(t)))
	// One at a time: of a card that goes while the guest switches it on, QEMU 7.2 may leave the guest the husk.
	check("plug another", v.client.Plug(ctx, third, tap(t)))
	console.expect(`CARDS 02:00:00:00:00:01 02:00:00:00:00:02 02:00:00:00:00:03\.`)
	check("and one more", v.client.Plug(ctx, shim.Card{ID: "eni-00000000000000005", MAC: "02:00:00:00:00:05"}, tap(t)))
	console.expect(`CARDS 02:00:00:00:00:01 02:00:00:00:00:02 02:00:00:00:00:03 02:00:00:00:00:05\.`)
	check("which goes", v.client.Unplug(ctx, "eni-00000000000000005", false))
	console.expect(`CARDS 02:00:00:00:00:01 02:00:00:00:00:02 02:00:00:00:00:03\.`)
	check("and comes", v.client.Plug(ctx, shim.Card{ID: "eni-00000000000000005", MAC: "02:00:00:00:00:05"}, tap(t)))
	console.expect(`CARDS 02:00:00:00:00:01 02:00:00:00:00:02 02:00:00:00:00:03 02:00:00:00:00:05\.`)
	if err := v.client.Plug(ctx, shim.Card{ID: "eni-00000000000000004", MAC: "02:00:00:00:00:04"}, tap(t)); !errors.Is(err, shim.ErrState) {
		t.Errorf("plugged into a machine without a free port: got %v", err)
	}

	check("the last one out", v.client.Unplug(ctx, "eni-00000000000000005", false))
	console.expect(`CARDS 02:00:00:00:00:01 02:00:00:00:00:02 02:00:00:00:00:03\.`)

	// A guest lets go while no shim watches: the next one sees that it has.
	check("ask", v.client.LetGo(ctx, "eni-00000000000000002"))
	v.killShim()
	v.shim()
	v.await("a new shim", cards("eni-00000000000000001", "eni-00000000000000003"))
	patiently := func(f func() error) error {
		for {
			err := f()
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
	console = v.follow(0) // the other one ended with its shim
	console.expect(`CARDS 02:00:00:00:00:01 02:00:00:00:00:03\.`)
	check("plug it again", patiently(func() error { return v.client.Plug(ctx, second, tap(t)) }))
	console.expect(`CARDS 02:00:00:00:00:01 02:00:00:00:00:02 02:00:00:00:00:03\.`)
	unplug := func(id string, force bool) error {
		return patiently(func() error { return v.client.Unplug(ctx, id, force) })
	}
	check("unplug", unplug("eni-00000000000000002", false))
	console.expect(`CARDS 02:00:00:00:00:01 02:00:00:00:00:03\.`)
	check("unplug what is gone", unplug("eni-00000000000000002", false))
	check("unplug by force", unplug("eni-00000000000000003", true))
	console.expect(`CARDS 02:00:00:00:00:01\.`)
	v.await("nothing is left of it", func(s shim.Status) bool { return cards("eni-00000000000000001")(s) && len(s.Cut) == 0 })
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
