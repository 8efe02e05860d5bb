package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"sync"

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
	s.answer(w, s.ask(r.Context(), func(ctx context.Context, m *qmp.Client) error {
		if there, err := m.HasDevice(ctx, n.ID); there || err != nil {
			return err
		}
		if n.Port, err = m.FreePort(ctx, s.want.HotPlug); err != nil {
			return err
		}
		return m.AddNetworkCard(ctx, n, tap)
	}))
}

func (s *Shim) postUnplug(w http.ResponseWriter, r *http.Request) {
	id := r.FormValue("id")
	if !deviceForm.MatchString(id) {
		http.Error(w, "unplug: give the id of a network interface", http.StatusBadRequest)
		return
	}
	s.answer(w, s.unplug(r.Context(), id, r.FormValue("force") != ""))
}

// unplug returns when the guest has let go of the device, or at once by force.
func (s *Shim) unplug(ctx context.Context, id string, force bool) error {
	gone := s.waiting.add(id)
	defer s.waiting.remove(id, gone)
	there := true
	err := s.ask(ctx, func(ctx context.Context, m *qmp.Client) (err error) {
		if there, err = m.HasDevice(ctx, id); err != nil || !there {
			return err
		}
		err = m.RemoveDevice(ctx, id)
		var refused *qmp.Error
		if errors.As(err, &refused) { // it has been asked before, and takes its time
			s.log.Info("QEMU does not ask the guest again", "device", id, "err", err)
			err = nil
		}
		return err
	})
	if err != nil {
		return err
	}
	if there && !force {
		select {
		case <-gone:
		case <-s.over: // the machine has ended, and the device with it
			return nil
		case <-ctx.Done():
			return fmt.Errorf("the guest does not let go of %s", id)
		}
	}
	return s.ask(ctx, func(ctx context.Context, m *qmp.Client) error { return m.RemoveNetwork(ctx, id) })
}

// ask has the loop consult QEMU's monitor.
func (s *Shim) ask(ctx context.Context, do func(context.Context, *qmp.Client) error) error {
	refused := make(chan error, 1)
	if !s.tell(ctx, happening{ask: do, refused: refused}) {
		return errors.New("the machine's keeper is ending")
	}
	return <-refused
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
