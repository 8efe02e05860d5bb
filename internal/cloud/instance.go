package cloud

import (
	"cmp"
	"time"
)

// Power is what the owner wishes an instance to be.
type Power string

// The wishes an owner can have.
const (
	PowerRunning    Power = "running"
	PowerStopped    Power = "stopped"
	PowerTerminated Power = "terminated"
)

// State is an instance's state as EC2 names it.
//
//	pending -> running -> stopping -> stopped -> pending ...
//	   any of these -> shutting-down -> terminated
type State string

// The states, with EC2's codes.
const (
	StatePending      State = "pending"
	StateRunning      State = "running"
	StateShuttingDown State = "shutting-down"
	StateTerminated   State = "terminated"
	StateStopping     State = "stopping"
	StateStopped      State = "stopped"
)

// Code returns EC2's number for the state.
func (s State) Code() int64 {
	switch s {
	case StatePending:
		return 0
	case StateRunning:
		return 16
	case StateShuttingDown:
		return 32
	case StateTerminated:
		return 48
	case StateStopping:
		return 64
	case StateStopped:
		return 80
	}
	return -1
}

// Reason says why an instance is in its state, in EC2's codes such as Client.UserInitiatedShutdown.
type Reason struct {
	Code    string
	Message string
}

// MetadataOptions are the instance's choices for its metadata service, with EC2's names and defaults.
type MetadataOptions struct {
	HTTPTokens   string // optional | required
	HTTPEndpoint string // enabled | disabled
	HopLimit     int    // 1..64
	InstanceTags string // enabled | disabled

	HTTPProtocolIPv6 string `json:",omitempty"` // enabled | disabled
}

// Over returns the options with those of a lower rank where there is none. EC2's order is launch, account, image.
func (o MetadataOptions) Over(lower MetadataOptions) MetadataOptions {
	return MetadataOptions{
		HTTPTokens: cmp.Or(o.HTTPTokens, lower.HTTPTokens), HTTPEndpoint: cmp.Or(o.HTTPEndpoint, lower.HTTPEndpoint),
		HopLimit: cmp.Or(o.HopLimit, lower.HopLimit), InstanceTags: cmp.Or(o.InstanceTags, lower.InstanceTags),
		HTTPProtocolIPv6: cmp.Or(o.HTTPProtocolIPv6, lower.HTTPProtocolIPv6),
	}
}

// MetadataOptions are what an image's instances get that ask for nothing. One whose software knows tokens wants them, and lets
// them pass to containers.
func (i Image) MetadataOptions() MetadataOptions {
	if i.IMDSSupport == "v2.0" {
		return MetadataOptions{HTTPTokens: "required", HopLimit: 2}.Over(DefaultMetadataOptions())
	}
	return DefaultMetadataOptions()
}

// DefaultMetadataOptions is what an instance gets that asks for nothing.
func DefaultMetadataOptions() MetadataOptions {
	return MetadataOptions{HTTPTokens: "optional", HTTPEndpoint: "enabled", HopLimit: 1, InstanceTags: "disabled", HTTPProtocolIPv6: "disabled"}
}

// Instance is the wish for one virtual machine. Written by the API; Host only by the planner.
type Instance struct {
	ID          InstanceID
	Generation  int64 // grows with every change of the wish
	Account     AccountID
	Reservation ReservationID
	LaunchIndex int
	ClientToken string `json:",omitempty"`

	Image          ImageID
	Kernel         ImageID `json:",omitempty"`
	Ramdisk        ImageID `json:",omitempty"`
	Architecture   string
	Virtualization string // paravirtual | hvm
	RootDeviceName string `json:",omitempty"`
	RootDeviceType string // ebs | instance-store
	Type           string
	KeyName        string      `json:",omitempty"`
	Profile        *ProfileRef `json:",omitempty"`
	Interfaces     []InterfaceID
	HasUserData    bool `json:",omitempty"`

	Zone string
	Host HostID `json:",omitempty"`

	Power   Power
	Boot    int  // the number of the boot that is wished for: grows with each start
	Reboots int  // how many reboots have been asked for
	Force   bool `json:",omitempty"` // a stop or termination that does not wait for the guest

	Launched         time.Time // the latest launch or start
	Reason           Reason    // why Power is what it is
	Transition       string    `json:",omitempty"` // EC2's text, "User initiated (2026-11-23 18:00:00 GMT)"
	Ended            time.Time `json:",omitzero"`  // when termination was asked for
	Metadata         MetadataOptions
	ShutdownBehavior string // stop | terminate: what a shutdown from inside does
	Protected        bool   `json:",omitempty"` // DisableApiTermination
	StopProtected    bool   `json:",omitempty"` // DisableApiStop
	Monitoring       bool   `json:",omitempty"`
	Tags             Tags   `json:",omitempty"`

	Events []ScheduledEvent `json:",omitempty"` // written by an operator, and moved by the owner
}

// InstanceStatus is what the host has seen of an instance.
type InstanceStatus struct {
	ID         InstanceID
	Host       HostID
	Generation int64 // of the wish that this speaks of
	Boot       int   // the boot that this speaks of
	Reboots    int   // how many of the asked reboots are done
	State      State
	Reason     Reason    `json:",omitzero"`
	Since      time.Time // when State was entered
	GuestEnded bool      `json:",omitempty"` // the guest shut itself down
	Started    time.Time `json:",omitzero"`  // when this boot's virtual machine began to run
	Panicked   bool      `json:",omitempty"`

	Attached []AttachmentID `json:",omitempty"` // interfaces that the machine has, in order
	Trouble  string         `json:",omitempty"` // why an interface could not be attached or detached
}

// State returns what EC2 would show for the wish i and what the host last said of it (nil: nothing yet).
func (i Instance) State(st *InstanceStatus) State {
	current := st != nil && st.Boot >= i.Boot
	switch i.Power {
	case PowerTerminated:
		if i.Host == "" || st != nil && st.State == StateTerminated {
			return StateTerminated
		}
		return StateShuttingDown
	case PowerStopped:
		if i.Host == "" || current && st.State == StateStopped {
			return StateStopped
		}
		return StateStopping
	}
	switch {
	case !current:
		return StatePending
	case st.State == StateStopped && i.ends(st):
		return StateShuttingDown // until Follow has made it the wish: it cannot be started again
	}
	return st.State
}

// ends reports whether a guest that ended its own boot has ended the instance by it.
func (i Instance) ends(st *InstanceStatus) bool {
	return st.GuestEnded && i.ShutdownBehavior == "terminate"
}

// StateReason returns the reason to show beside the state, zero when there is none.
func (i Instance) StateReason(st *InstanceStatus) Reason {
	if i.Power == PowerRunning && st != nil && st.Boot >= i.Boot {
		return st.Reason
	}
	return i.Reason
}

// Start returns the wish with a further boot, or an error when the state does not allow it. Starting a
// running instance changes nothing and reports false, as in EC2.
func (i Instance) Start(st *InstanceStatus, now time.Time) (Instance, bool, error) {
	switch s := i.State(st); s {
	case StateRunning, StatePending:
		return i, false, nil
	case StateStopped:
		i.Power, i.Force, i.Launched = PowerRunning, false, now
		i.Boot++
		i.Generation++
		i.Reason, i.Transition = Reason{}, ""
		return i, true, nil
	default:
		return i, false, i.stateError("started", s)
	}
}

// Stop returns the wish to be stopped. Stopping a stopped instance changes nothing.
func (i Instance) Stop(st *InstanceStatus, force bool, now time.Time) (Instance, bool, error) {
	switch s := i.State(st); s {
	case StateStopped:
		return i, false, nil
	case StateStopping:
		if !force || i.Force {
			return i, false, nil
		}
	case StateRunning, StatePending:
		if i.StopProtected {
			return i, false, Errorf("OperationNotPermitted", "The instance '%s' may not be stopped. Modify its 'disableApiStop' instance attribute and try again.", i.ID)
		}
		if i.RootDeviceType == "instance-store" {
			return i, false, Errorf("UnsupportedOperation", "The instance '%s' does not have an 'ebs' root device type and cannot be stopped.", i.ID)
		}
	default:
		return i, false, i.stateError("stopped", s)
	}
	i.Power, i.Force = PowerStopped, force
	i.Generation++
	i.Reason = Reason{"Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown"}
	i.Transition = userInitiated(now)
	return i, true, nil
}

// Reboot returns the wish for one more reboot of the running boot.
func (i Instance) Reboot(st *InstanceStatus) (Instance, error) {
	if s := i.State(st); s != StateRunning && s != StatePending {
		return i, i.stateError("rebooted", s)
	}
	i.Reboots++
	i.Generation++
	return i, nil
}

// Terminate returns the wish to be terminated. Terminating twice changes nothing.
func (i Instance) Terminate(now time.Time) (Instance, bool, error) {
	if i.Power == PowerTerminated {
		return i, false, nil
	}
	if i.Protected {
		return i, false, Errorf("OperationNotPermitted", "The instance '%s' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again.", i.ID)
	}
	i.Power, i.Ended = PowerTerminated, now
	i.Generation++
	i.Reason = Reason{"Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown"}
	i.Transition = userInitiated(now)
	return i, true, nil
}

// Follow returns the wish that agrees with a guest that ended its own boot: stopped, or terminated when
// the instance says so. It reports false when there is nothing to follow.
func (i Instance) Follow(st *InstanceStatus, now time.Time) (Instance, bool) {
	if i.Power != PowerRunning || st == nil || st.Boot < i.Boot || st.State != StateStopped {
		return i, false
	}
	i.Power = PowerStopped
	if i.ends(st) {
		i.Power, i.Ended = PowerTerminated, now
	}
	i.Generation++
	i.Reason, i.Transition = st.Reason, st.Reason.Message
	return i, true
}

func (i Instance) stateError(verb string, s State) error {
	return Errorf("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be %s: it is %s.", i.ID, verb, s)
}

func userInitiated(now time.Time) string {
	return "User initiated (" + now.UTC().Format("2006-01-02 15:04:05") + " GMT)"
}
