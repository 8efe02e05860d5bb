// Package machine is the life of one virtual machine as a pure state machine.
//
//	created --start--> starting --ready--> running <---reset---- rebooting
//	                       |                | ^  \                   ^
//	                       |          panic | |   `------reboot------'
//	                       |                v | reset                |
//	                       |             panicked ------reboot-------'
//	                       |                |
//	                       |   stop, kill, or the guest powers itself off
//	                       v                v
//	                     failed          stopping --exit--> stopped
//
// From every state but created, an exit of QEMU that nobody asked for leads to failed. Start,
// stop, reboot and kill are the host's; ready, reset, panic and shutdown are told by QEMU; exit is
// the kernel's word; deadline is the clock's. QEMU runs with -action shutdown=pause, so it never
// ends by itself: a guest that powered off is still there, paused, until Quit, and a shim that was
// away cannot miss who did it. A state and an event that have no row in the table are an error.
package machine

import "fmt"

// State is a place in the picture above.
type State string

// The states, as they stand in status.json.
const (
	Created   State = "created"
	Starting  State = "starting"
	Running   State = "running"
	Rebooting State = "rebooting"
	Panicked  State = "panicked"
	Stopping  State = "stopping"
	Stopped   State = "stopped"
	Failed    State = "failed"
)

// Event is something that happened or was asked for.
type Event string

// The events.
const (
	Start    Event = "start"    // host: bring the machine up
	Ready    Event = "ready"    // QEMU: answers, and the guest runs
	Reset    Event = "reset"    // QEMU: the machine was reset, by guest or host
	Panic    Event = "panic"    // QEMU: the guest's kernel panicked, and the guest is paused
	Shutdown Event = "shutdown" // QEMU: the guest has powered off, and is paused
	Exit     Event = "exit"     // kernel: the QEMU process has ended
	Stop     Event = "stop"     // host: press the power button
	Reboot   Event = "reboot"   // host: reset the machine
	Kill     Event = "kill"     // host: pull the plug
	Deadline Event = "deadline" // clock: a stopping guest had its time
)

// Action is what the conductor does upon a transition.
type Action string

// The actions.
const (
	Spawn       Action = "spawn"     // start the QEMU process
	PressButton Action = "button"    // ACPI power button
	ResetNow    Action = "reset-now" // reset
	Continue    Action = "continue"  // let a guest that was paused before its reset run
	Quit        Action = "quit"      // ask QEMU to end: its guest is off already
	KillNow     Action = "kill-now"  // SIGKILL
	Arm         Action = "arm"       // start the clock for Deadline, or shorten it
)

// Cause says who ended the machine; empty as long as nothing has.
type Cause string

// The causes, as they stand in status.json.
const (
	ByGuest Cause = "guest shutdown"
	ByHost  Cause = "host request"
	ByForce Cause = "host force"
	ByCrash Cause = "crash"
	ByStart Cause = "could not start"
)

// Machine is all that the life depends on.
type Machine struct {
	State  State
	Cause  Cause
	Resets int
	Panics int
}

// New returns a machine that nobody has started.
func New() Machine { return Machine{State: Created} }

// Illegal is an event that the state has no place for.
type Illegal struct {
	State State
	Event Event
}

func (e Illegal) Error() string {
	switch e.State {
	case Stopped, Failed:
		return fmt.Sprintf("%s: the machine has ended (%s)", e.Event, e.State)
	case Starting:
		return fmt.Sprintf("%s: the machine is still starting", e.Event)
	case Stopping:
		return fmt.Sprintf("%s: the machine is stopping", e.Event)
	}
	return fmt.Sprintf("%s: not possible while the machine is %s", e.Event, e.State)
}

type row struct {
	to    State
	cause Cause // set if none is known yet; force takes the place of a request
	do    []Action
}

// table is the whole life. A row that leads to its own state and does nothing is an event without
// effect, written down because it does happen.
var table = map[State]map[Event]row{
	Created: {
		Start: {to: Starting, do: []Action{Spawn}},
	},
	Starting: {
		Ready:    {to: Running},
		Reset:    {to: Starting},
		Exit:     {to: Failed, cause: ByStart},
		Kill:     {to: Stopping, cause: ByForce, do: []Action{KillNow}},
		Shutdown: {to: Stopping, cause: ByGuest, do: []Action{Quit}},
		Panic:    {to: Panicked},
		// The button does nothing before the guest listens; the deadline is what helps.
		Stop: {to: Stopping, cause: ByHost, do: []Action{PressButton, Arm}},
	},
	Running: {
		Ready:    {to: Running},
		Reset:    {to: Running},
		Panic:    {to: Panicked},
		Shutdown: {to: Stopping, cause: ByGuest, do: []Action{Quit}},
		Exit:     {to: Failed, cause: ByCrash},
		Stop:     {to: Stopping, cause: ByHost, do: []Action{PressButton, Arm}},
		Reboot:   {to: Rebooting, do: []Action{ResetNow}},
		Kill:     {to: Stopping, cause: ByForce, do: []Action{KillNow}},
	},
	Rebooting: {
		Ready:    {to: Rebooting, do: []Action{ResetNow}}, // adopted by a new shim: the order may have been lost
		Reset:    {to: Running, do: []Action{Continue}},
		Panic:    {to: Rebooting, do: []Action{ResetNow}}, // it panicked just before the reset took effect
		Shutdown: {to: Stopping, cause: ByGuest, do: []Action{Quit}},
		Exit:     {to: Failed, cause: ByCrash},
		Stop:     {to: Stopping, cause: ByHost, do: []Action{PressButton, Arm}},
		Reboot:   {to: Rebooting},
		Kill:     {to: Stopping, cause: ByForce, do: []Action{KillNow}},
	},
	Panicked: {
		Ready:    {to: Panicked},
		Panic:    {to: Panicked},
		Reset:    {to: Running, do: []Action{Continue}}, // by a debugger on QEMU's monitor, or a watchdog
		Shutdown: {to: Stopping, cause: ByGuest, do: []Action{Quit}},
		Exit:     {to: Failed, cause: ByCrash},
		Reboot:   {to: Rebooting, do: []Action{ResetNow}},
		Stop:     {to: Stopping, cause: ByForce, do: []Action{KillNow}}, // nobody is left to hear the button
		Kill:     {to: Stopping, cause: ByForce, do: []Action{KillNow}},
	},
	Stopping: {
		Ready:    {to: Stopping, do: []Action{PressButton, Arm}}, // came up, or was adopted, with the wish to stop pending
		Reset:    {to: Stopping},                                 // a guest that reboots instead has lost: the deadline stands
		Panic:    {to: Stopping, cause: ByForce, do: []Action{KillNow}},
		Shutdown: {to: Stopping, do: []Action{Quit}},
		Exit:     {to: Stopped},
		Stop:     {to: Stopping, do: []Action{Arm}},
		Deadline: {to: Stopping, cause: ByForce, do: []Action{KillNow}},
		Kill:     {to: Stopping, cause: ByForce, do: []Action{KillNow}},
	},
}

// Step returns the machine after the event, and what is to be done about it. On an Illegal event
// the machine is unchanged.
func (m Machine) Step(e Event) (Machine, []Action, error) {
	r, ok := table[m.State][e]
	if !ok {
		return m, nil, Illegal{m.State, e}
	}
	switch e {
	case Reset:
		m.Resets++
	case Panic:
		if m.State != Panicked { // told again to a new shim
			m.Panics++
		}
	}
	if r.cause != "" && (m.Cause == "" || m.Cause == ByHost && r.cause == ByForce) {
		m.Cause = r.cause
	}
	m.State = r.to
	return m, r.do, nil
}
