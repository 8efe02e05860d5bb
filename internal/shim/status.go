package shim

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// State is where a virtual machine is in its life; hypervisor-shim/machine draws the picture.
type State string

// Terminal states are StateStopped and StateFailed: QEMU is gone and this boot is over.
const (
	StateCreated   State = "created"
	StateStarting  State = "starting"  // QEMU is being started
	StateRunning   State = "running"   // the guest runs
	StateRebooting State = "rebooting" // a reset was asked for
	StatePanicked  State = "panicked"  // the guest's kernel panicked; the guest is paused
	StateStopping  State = "stopping"  // the power button was pressed, or QEMU was told to end
	StateStopped   State = "stopped"
	StateFailed    State = "failed"
)

// Ended reports whether QEMU is gone for good.
func (s State) Ended() bool { return s == StateStopped || s == StateFailed }

// Cause says who ended a boot.
type Cause string

const (
	CauseGuest Cause = "guest shutdown"  // the guest powered itself off, unasked
	CauseHost  Cause = "host request"    // stop, and the guest obeyed
	CauseForce Cause = "host force"      // kill, or the guest was deaf to stop
	CauseCrash Cause = "crash"           // QEMU ended by itself or by a signal that the shim did not send
	CauseStart Cause = "could not start" // QEMU never ran
)

// Status is status.json: what the shim has seen of one boot. It is written atomically at every
// change and outlives the shim.
type Status struct {
	State      State
	Boot       int   // repeats machine.json
	Generation int64 // repeats machine.json
	Accel      string
	QEMU       Process   `json:",omitzero"`
	Since      time.Time // when State was entered
	Started    time.Time `json:",omitzero"` // when the guest began to run
	Ended      time.Time `json:",omitzero"` // when QEMU was gone
	Deadline   time.Time `json:",omitzero"` // when a stopping guest is forced
	Cause      Cause     `json:",omitempty"`
	Reason     string    `json:",omitempty"` // a sentence for the user
	Exit       *Exit     `json:",omitempty"`
	Panics     int       `json:",omitempty"` // how often the guest's kernel has panicked in this boot
	Panic      string    `json:",omitempty"` // what QEMU said about the last one
	Resets     int       `json:",omitempty"` // how often the machine was reset in this boot, by whomever
	Cards      []string  `json:",omitempty"` // IDs of the network cards that are in the running machine, sorted
	Cut        []string  `json:",omitempty"` // those of Cards that have lost their tap and wait for the guest to let go
	Jail       string    `json:",omitempty"` // what holds QEMU, in words; weaker than usual if it says so
}

// Exit is how the QEMU process ended. Known is false if no shim was its parent then.
type Exit struct {
	Known  bool
	Code   int    `json:",omitempty"`
	Signal string `json:",omitempty"`
	Output string `json:",omitempty"` // the last lines that QEMU printed
}

// ReadStatus reads status.json from an instance directory. A missing file is fs.ErrNotExist.
func ReadStatus(dir string) (Status, error) {
	b, err := os.ReadFile(filepath.Join(dir, "status.json"))
	if err != nil {
		return Status{}, err
	}
	var s Status
	if err := json.Unmarshal(b, &s); err != nil {
		return Status{}, fmt.Errorf("read %s: %w", filepath.Join(dir, "status.json"), err)
	}
	return s, nil
}

// ConsoleTail returns the newest n bytes of an instance's console, whether a shim is there or not.
// The file's older part may be a hole, which is not returned. No console yet is no output.
func ConsoleTail(dir string, n int64) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, "console.log"))
	if err != nil {
		if os.IsNotExist(err) {
			return nil, nil
		}
		return nil, err
	}
	defer f.Close()
	first, end, err := Extent(f)
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(n, end-first))
	got, err := f.ReadAt(b, end-int64(len(b)))
	if got < len(b) && err != nil {
		return nil, err
	}
	return b, nil
}
