package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/hypervisor-shim/qmp"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// deviceForm is what QEMU may be told as the ID of a device: nothing of its own, such as port0 or rng.
var deviceForm = regexp.MustCompile(`^eni-[0-9a-f]{8,17}$`)

func (s *Shim) postPlug(w http.ResponseWriter, r *http.Request) {
	n := qmp.NetworkCard{ID: r.FormValue("id"), MAC: r.FormValue("mac")}
	mtu, err := strconv.Atoi(r.FormValue("mtu"))
	mac, macErr := net.ParseMAC(n.MAC)
	if err != nil || macErr != nil || len(mac) != 6 || !deviceForm.MatchString(n.ID) {
		http.Error(w, "plug: give id, mac and mtu of a network interface", http.StatusBadRequest)
		return
	}
	n.MTU = mtu
	tap := shim.TakingFrom(r.Context()).File()
	if tap == nil {
		http.Error(w, "plug: no tap came with the request", http.StatusBadRequest)
		return
	}
	defer tap.Close() // QEMU has its own by then
	s.answer(w, s.ask(r.Context(), happening{ask: func(ctx context.Context, m *qmp.Client) error { return s.plug(ctx, m, n, tap) }}))
}

// plug is done in the loop: what it changes is on record before it is answered.
func (s *Shim) plug(ctx context.Context, m *qmp.Client, n qmp.NetworkCard, tap *os.File) error {
	st := s.status.get()
	switch {
	case slices.Contains(st.Cut, n.ID):
		return fmt.Errorf("the guest has not yet let go of %s, which was taken away by force: wait, or restart the instance", n.ID)
	case slices.Contains(st.Cards, n.ID):
		return nil
	}
	var err error
	if n.Port, err = m.FreePort(ctx, s.want.HotPlug); err != nil {
		return err
	}
	if err := m.RemoveNetwork(ctx, n.ID); err != nil { // of a shim that was killed in the middle of this
		return err
	}
	if err := m.AddNetworkCard(ctx, n, tap); err != nil {
		return err
	}
	s.log.Info("card plugged", "eni", n.ID, "port", n.Port)
	st.Cards = slices.Sorted(slices.Values(append(slices.Clone(st.Cards), n.ID)))
	s.status.set(st)
	return s.save()
}

func (s *Shim) postUnplug(w http.ResponseWriter, r *http.Request) {
	id := r.FormValue("id")
	if !deviceForm.MatchString(id) {
		http.Error(w, "unplug: give the id of a network interface", http.StatusBadRequest)
		return
	}
	s.answer(w, s.unplug(r.Context(), id, r.FormValue("force") != "", r.FormValue("wait") != "0"))
}

// unplug asks the guest to let go of a card, and takes the tap away from it by force. It returns when the guest has let
// go if it is to wait for that.
func (s *Shim) unplug(ctx context.Context, id string, force, wait bool) error {
	gone := s.waiting.add(id)
	defer s.waiting.remove(id, gone)
	there := false
	err := s.ask(ctx, happening{anyhow: force, ask: func(ctx context.Context, m *qmp.Client) error {
		st := s.status.get()
		if there = slices.Contains(st.Cards, id); !there {
			return m.RemoveNetwork(ctx, id)
		}
		err := m.RemoveDevice(ctx, id)
		var refused *qmp.Error
		if errors.As(err, &refused) { // it has been asked before, and takes its time
			s.log.Info("QEMU does not ask the guest again", "device", id, "err", err)
			err = nil
		}
		if err != nil || !force || slices.Contains(st.Cut, id) {
			return err
		}
		if err := m.RemoveNetwork(ctx, id); err != nil {
			return err
		}
		st.Cut = slices.Sorted(slices.Values(append(slices.Clone(st.Cut), id)))
		s.status.set(st)
		return s.save()
	}})
	if err != nil || !there || force || !wait {
		return err
	}
	select {
	case <-gone:
	case <-s.over: // the machine has ended, and the device with it
	case <-ctx.Done():
		return fmt.Errorf("the guest does not let go of %s", id)
	}
	return nil
}

// letGone takes note that the guest has let go of a card: the tap goes with it.
func (s *Shim) letGone(ctx context.Context, id string) error {
	s.drop(ctx, id)
	s.log.Info("card unplugged", "eni", id)
	err := s.save()
	s.waiting.tell(id)
	return err
}

// drop forgets a card that is not in the machine any more.
func (s *Shim) drop(ctx context.Context, id string) {
	s.attempt(ctx, "drop tap", func(m *qmp.Client, ctx context.Context) error { return m.RemoveNetwork(ctx, id) })
	st := s.status.get()
	other := func(x string) bool { return x == id }
	st.Cards = slices.DeleteFunc(slices.Clone(st.Cards), other)
	st.Cut = slices.DeleteFunc(slices.Clone(st.Cut), other)
	s.status.set(st)
}

// recount compares the cards that are on record with those that QEMU has: some may have come or gone while no shim
// watched. It reports whether there is something to record.
func (s *Shim) recount(ctx context.Context, devices []string) (news bool) {
	cards := slices.DeleteFunc(slices.Clone(devices), func(d string) bool { return !deviceForm.MatchString(d) })
	slices.Sort(cards)
	for _, id := range s.status.get().Cards {
		if !slices.Contains(cards, id) {
			s.drop(ctx, id)
			s.waiting.tell(id)
			news = true
		}
	}
	st := s.status.get()
	if !slices.Equal(cards, st.Cards) {
		st.Cards, news = cards, true
		s.status.set(st)
	}
	return news
}

// ask has the loop consult QEMU's monitor. A shim that has just taken over a machine finds it within moments.
func (s *Shim) ask(ctx context.Context, h happening) error {
	ctx, cancel := context.WithTimeout(ctx, ask)
	defer cancel()
	for {
		refused := make(chan error, 1)
		h.refused = refused
		if !s.tell(ctx, h) {
			return errors.New("the machine's keeper is ending")
		}
		err := <-refused
		if !errors.Is(err, errNoMonitor) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(redial):
		}
	}
}

func (s *Shim) answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// waiters are those who wait for a device to be gone.
type waiters struct {
	mu   sync.Mutex
	list map[string][]chan struct{}
}

func (w *waiters) add(id string) chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.list == nil {
		w.list = map[string][]chan struct{}{}
	}
	c := make(chan struct{}, 1)
	w.list[id] = append(w.list[id], c)
	return c
}

func (w *waiters) remove(id string, c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := w.list[id][:0]
	for _, other := range w.list[id] {
		if other != c {
			left = append(left, other)
		}
	}
	if w.list[id] = left; len(left) == 0 {
		delete(w.list, id)
	}
}

func (w *waiters) tell(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.list[id] {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
