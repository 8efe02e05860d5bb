package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/shim"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// put writes a file that a group may read, unless it says the same already.
func put(path string, v any, group int) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	data = append(data, '\n')
	if had, err := os.ReadFile(path); err == nil && bytes.Equal(had, data) {
		return nil
	}
	// Written under a name that nobody looks for, given to the group, and then renamed into place.
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := bundle.WriteBytes(temp, data, 0o640); err != nil {
		return err
	}
	if err := os.Lchown(temp, -1, group); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// observe returns what this host sees of an instance.
func (h *Host) observe(id cloud.InstanceID, a cloud.Assignment) (cloud.InstanceStatus, error) {
	i := a.Instance
	out := cloud.InstanceStatus{ID: id, Host: h.ID, Generation: i.Generation, Boot: i.Boot, State: cloud.StatePending}
	if h.behind[id] && i.Power == cloud.PowerRunning {
		out.Generation = h.reported[id].Generation
	}
	out.Attached, out.Trouble = h.attached(id, a), h.trouble[id]
	st, err := shim.ReadStatus(string(h.Root.Instance(id)))
	if errors.Is(err, fs.ErrNotExist) {
		alive := h.Units.Alive(id) // its shim has not said anything yet, and may have started a machine
		switch {
		case i.Power == cloud.PowerTerminated && h.unsettled:
			out.State = cloud.StateShuttingDown // its address may still lead here
		case i.Power == cloud.PowerTerminated && alive:
			out.State = cloud.StateShuttingDown
		case i.Power == cloud.PowerTerminated:
			out.State = cloud.StateTerminated
		case i.Power == cloud.PowerStopped && alive:
			out.State = cloud.StateStopping
		case i.Power == cloud.PowerStopped:
			out.State = cloud.StateStopped
		}
		if why, over := h.failure(id, i.Boot); over && i.Power == cloud.PowerRunning {
			return h.stillborn(id, out, why), nil
		}
		out.Since = h.since(id, out)
		return out, nil
	}
	if err != nil {
		return out, err
	}
	if why, over := h.failure(id, i.Boot); over && st.Boot < i.Boot && i.Power == cloud.PowerRunning {
		return h.stillborn(id, out, why), nil
	}
	out.Boot, out.Since, out.Started, out.Panicked = st.Boot, st.Since, st.Started, st.State == shim.StatePanicked
	out.Reboots, _ = bundle.Read[int](h.Root.Instance(id).Path("reboots.json"))
	switch st.State {
	case shim.StateRunning, shim.StateRebooting, shim.StatePanicked:
		out.State = cloud.StateRunning
	case shim.StateStopping:
		out.State = cloud.StateStopping
	case shim.StateStopped, shim.StateFailed:
		out.State = cloud.StateStopped
		out.Reason, out.GuestEnded = reason(st)
		if h.Units.Alive(id) {
			out.State = cloud.StateStopping // its shim is still putting things away: stopped is for good
		}
	}
	if st.State == shim.StateStopping && i.Power == cloud.PowerRunning {
		out.State = cloud.StateRunning // an earlier boot is ending, or the end was not ours to ask
	}
	switch i.Power {
	case cloud.PowerTerminated:
		out.State = cloud.StateShuttingDown
	case cloud.PowerStopped:
		if out.State != cloud.StateStopped {
			out.State = cloud.StateStopping
		} else {
			out.Boot = i.Boot // also of a boot that was wished for and taken back before it began
		}
	}
	return out, nil
}

// stillborn is a boot that never had a machine.
func (h *Host) stillborn(id cloud.InstanceID, out cloud.InstanceStatus, why string) cloud.InstanceStatus {
	out.State = cloud.StateStopped
	out.Reason = cloud.Reason{Code: "Server.InternalError", Message: "Server.InternalError: the machine cannot be started: " + why}
	out.Since = h.since(id, out)
	return out
}

// reason says in EC2's codes why a boot ended, and whether the guest did it.
func reason(st shim.Status) (cloud.Reason, bool) {
	switch st.Cause {
	case shim.CauseGuest:
		return cloud.Reason{Code: "Client.InstanceInitiatedShutdown", Message: "Client.InstanceInitiatedShutdown: Instance initiated shutdown"}, true
	case shim.CauseHost, shim.CauseForce:
		return cloud.Reason{Code: "Client.UserInitiatedShutdown", Message: "Client.UserInitiatedShutdown: User initiated shutdown"}, false
	}
	return cloud.Reason{Code: "Server.InternalError", Message: "Server.InternalError: " + st.Reason}, false
}

// since keeps the time of a state that has no file to tell it.
func (h *Host) since(id cloud.InstanceID, now cloud.InstanceStatus) time.Time {
	if had, ok := h.reported[id]; ok && had.State == now.State && had.Boot == now.Boot {
		return had.Since
	}
	return h.Now().UTC()
}

// report writes the status of an instance when it is not what the store holds.
func (h *Host) report(ctx context.Context, id cloud.InstanceID, a cloud.Assignment) error {
	st, err := h.observe(id, a)
	if err != nil {
		return err
	}
	if had, ok := h.reported[id]; ok && reflect.DeepEqual(had, st) {
		return nil
	}
	err = store.PutStatus(ctx, h.Store, store.InstanceStatuses(h.ID), id, st, func(s cloud.InstanceStatus) int64 { return s.Generation })
	if err != nil {
		return err
	}
	if had := h.reported[id]; had.State != st.State {
		h.Log.Info("instance is "+string(st.State), "instance", id, "boot", st.Boot)
	}
	h.reported[id] = st
	return nil
}

// forget removes the statuses of instances that nobody wishes for and that have left nothing here.
func (h *Host) forget(ctx context.Context, want map[cloud.InstanceID]cloud.Assignment) error {
	var errs []error
	for id := range h.reported {
		if _, ok := want[id]; ok {
			continue
		}
		if _, err := os.Lstat(string(h.Root.Instance(id))); err == nil {
			continue
		}
		t := store.NewTxn()
		store.Remove(t, store.InstanceStatuses(h.ID), id)
		store.Remove(t, store.Pings(h.ID), id)
		if _, err := h.Store.Commit(ctx, t); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(h.reported, id)
		delete(h.behind, id)
		delete(h.absent, id)
	}
	return errors.Join(errs...)
}

// Recall reads what an earlier agent of this host reported, so that it is followed up.
func (h *Host) Recall(ctx context.Context) error {
	l, err := store.List(ctx, h.Store, store.InstanceStatuses(h.ID), store.Range{})
	if err != nil {
		return err
	}
	for _, o := range l.Objects {
		h.reported[o.Value.ID] = o.Value
	}
	return nil
}
