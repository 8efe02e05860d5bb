package cloud

import "time"

// InvocationStatus is the state of one command on one instance, in Systems Manager's words.
//
//	Pending -> InProgress -> Success | Failed | TimedOut | Cancelled
//	   |  \-> Delayed -> InProgress
//	   \-> TimedOut (DeliveryTimedOut) | Failed (Undeliverable)
//	any of the first three -> Cancelling -> Cancelled, or the real end if that came first
//
// It never leaves a terminal state and never goes back.
type InvocationStatus string

// The states of an invocation.
const (
	InvocationPending    InvocationStatus = "Pending"
	InvocationInProgress InvocationStatus = "InProgress"
	InvocationDelayed    InvocationStatus = "Delayed"
	InvocationCancelling InvocationStatus = "Cancelling"
	InvocationSuccess    InvocationStatus = "Success"
	InvocationCancelled  InvocationStatus = "Cancelled"
	InvocationTimedOut   InvocationStatus = "TimedOut"
	InvocationFailed     InvocationStatus = "Failed"
)

// Terminal reports whether nothing follows the state.
func (s InvocationStatus) Terminal() bool {
	switch s {
	case InvocationSuccess, InvocationCancelled, InvocationTimedOut, InvocationFailed:
		return true
	}
	return false
}

// rank orders the states that are not terminal; a status never moves to a lower rank.
func (s InvocationStatus) rank() int {
	switch s {
	case InvocationPending:
		return 0
	case InvocationDelayed:
		return 1
	case InvocationInProgress:
		return 2
	case InvocationCancelling:
		return 3
	}
	return 4
}

// MayBecome reports whether next may follow s.
func (s InvocationStatus) MayBecome(next InvocationStatus) bool {
	return !s.Terminal() && next.rank() >= s.rank()
}

// Command is the wish to run a document on instances.
type Command struct {
	ID              CommandID
	Account         AccountID
	Owner           string // the ARN of who sent it
	DocumentName    string
	DocumentVersion string
	Comment         string                `json:",omitempty"`
	Parameters      map[string][]string   `json:",omitempty"`
	Instances       []InstanceID          // those that it was sent to, targets resolved
	Hosts           map[InstanceID]HostID // where each ran when it was sent
	AskedInstances  []InstanceID          `json:",omitempty"` // as given in the request
	Targets         []CommandTarget       `json:",omitempty"` // as given in the request
	Requested       time.Time
	Expires         time.Time // delivery and execution together
	TimeoutSeconds  int       // of the delivery
	MaxConcurrency  string
	MaxErrors       string
	Ramp            bool         `json:",omitempty"` // start with one instance: rate control was asked for
	Waiting         int          `json:",omitempty"` // so many at the end of Instances it was not sent to
	Halted          string       `json:",omitempty"` // why it never will be: HaltTerminated and so on
	Cancelled       []InstanceID `json:",omitempty"` // those for which cancellation was asked
	CancelAll       bool         `json:",omitempty"`

	// Settled are the ends that the control plane has told in a host's place, because its time was over or the
	// instance gone. A host that comes back later does not change what was told.
	Settled map[InstanceID]Invocation `json:",omitempty"`
	Over    bool                      `json:",omitempty"` // every invocation has ended, for good
	OverAt  time.Time                 `json:",omitzero"`  // when that was written
	Noted   bool                      `json:",omitempty"` // the audit has it

	Output *OutputPlace  `json:",omitempty"` // where its output goes besides
	Notify *Notification `json:",omitempty"` // who is told how it goes
}

// CommandTarget selects instances by a key such as tag:Name and its values.
type CommandTarget struct {
	Key    string
	Values []string
}

// CancelAsked reports whether cancellation was asked for the instance.
func (c Command) CancelAsked(id InstanceID) bool {
	if c.CancelAll {
		return true
	}
	for _, i := range c.Cancelled {
		if i == id {
			return true
		}
	}
	return false
}

// Step is one thing that a document asks a guest to do, with its parameters filled in: a script, unless Download or
// Document says otherwise.
type Step struct {
	Name             string
	Action           string // as the document names it: aws:runShellScript ...
	Script           string `json:",omitempty"`
	WorkingDirectory string `json:",omitempty"` // relative to a directory of the command's own; the root if empty
	TimeoutSeconds   int
	Environment      map[string]string `json:",omitempty"` // of this step alone
	User             string            `json:",omitempty"` // root if empty
	Umask            string            `json:",omitempty"` // in octal; the agent's if empty
	Limits           StepLimits        `json:",omitzero"`
	OnFailure        string            `json:",omitempty"` // exit or successAndExit; the next step follows if empty
	OnSuccess        string            `json:",omitempty"` // exit; the next step follows if empty
	Finally          bool              `json:",omitempty"` // it runs however the steps before have ended
	Download         *StepDownload     `json:",omitempty"`
	Document         *StepDocument     `json:",omitempty"`
}

// StepLimits bound each process of a step; zero is the guest's own limit.
type StepLimits struct {
	CPUSeconds, OpenFiles, Processes, MemoryMiB, FileSizeMiB int `json:",omitempty"`
}

// StepDownload is a file to be fetched into a guest.
type StepDownload struct {
	URL            string
	S3             bool   `json:",omitempty"` // the request is signed with the credentials of the guest's role
	SHA256         string `json:",omitempty"` // what the file must have, in hexadecimal
	User, Password string `json:",omitempty"` // for the server
	Destination    string `json:",omitempty"` // file, or directory with / at its end; relative as WorkingDirectory is
}

// StepDocument is a document to be carried out as one step: its steps, or where the guest has its text.
type StepDocument struct {
	Steps      []Step              `json:",omitempty"`
	Path       string              `json:",omitempty"` // relative as WorkingDirectory is
	Parameters map[string][]string `json:",omitempty"` // for the text at Path
}

// CommandWish is what a host must know of one command for one of its instances.
type CommandWish struct {
	Command         CommandID
	Instance        InstanceID
	DocumentName    string
	DocumentVersion string
	Steps           []Step
	Requested       time.Time
	DeliverBy       time.Time // undelivered after this: DeliveryTimedOut
	Cancel          bool      `json:",omitempty"`
}

// Invocation is what a host has seen of one command on one instance.
type Invocation struct {
	Command      CommandID
	Instance     InstanceID
	Status       InvocationStatus
	Details      string    // StatusDetails: DeliveryTimedOut, ExecutionTimedOut, Undeliverable ...
	ResponseCode int       // -1 until the script has ended
	Started      time.Time `json:",omitzero"`
	Ended        time.Time `json:",omitzero"`
	StdoutBytes  int64
	StderrBytes  int64
	StdoutSHA256 string       `json:",omitempty"` // of what is kept, in hex; once it has ended, and if anything is
	StderrSHA256 string       `json:",omitempty"`
	Steps        []StepResult `json:",omitempty"`
}

// StepResult is the outcome of one step.
type StepResult struct {
	Name         string
	Action       string
	Status       InvocationStatus
	Details      string
	ResponseCode int
	Started      time.Time `json:",omitzero"`
	Ended        time.Time `json:",omitzero"`
	StdoutEnd    int64     `json:",omitempty"` // where its part of the command's output ends; it begins where that of the step before does
	StderrEnd    int64     `json:",omitempty"`
}

// AgentPing is what a host knows of the Run Command agent in a guest.
type AgentPing struct {
	Instance     InstanceID
	Connected    bool
	LastSeen     time.Time
	Version      string
	PlatformType string // Linux
	PlatformName string
	PlatformVer  string
	ComputerName string
	Address      string
}

// Show returns what a client sees of the command on an instance (nil: gone), from what its host has seen.
// What the host said last stands, but for what it may not be there to say: that the command was never sent, that
// cancellation was asked for, that the time is over, and that the instance is gone.
func (c Command) Show(seen Invocation, i *Instance, now time.Time) Invocation {
	if told, ok := c.Settled[seen.Instance]; ok {
		return told
	}
	if seen.Status.Terminal() {
		return seen
	}
	switch {
	case c.passedOver(seen.Instance):
		seen.Status, seen.Details = InvocationCancelled, c.Halted
		if c.Halted == HaltTimedOut {
			seen.Status = InvocationTimedOut
		}
	case i == nil || i.Power == PowerTerminated:
		seen.Status, seen.Details = InvocationFailed, "Undeliverable"
	case now.After(c.Expires): // also if it was begun: ExecutionTimedOut is for the agent alone to say
		seen.Status, seen.Details = InvocationTimedOut, HaltTimedOut
	case c.CancelAsked(seen.Instance):
		seen.Status, seen.Details = InvocationCancelling, string(InvocationCancelling)
	}
	if seen.Details == "" {
		seen.Details = string(seen.Status)
	}
	return seen
}

// CommandSummary is the state of a command as a whole.
type CommandSummary struct {
	Status    string
	Details   string
	Targets   int
	Completed int
	Errors    int // failed, or timed out in execution
	TimedOut  int // never delivered in time
}

// Summarize returns the state of a command from its invocations: in progress while any is, then success
// only if all succeeded.
func Summarize(invocations []Invocation) CommandSummary {
	s := CommandSummary{Targets: len(invocations)}
	begun, cancelling, success, cancelled, slow := false, false, 0, 0, 0
	for _, i := range invocations {
		switch {
		case !i.Status.Terminal():
			begun = begun || i.Status != InvocationPending
			cancelling = cancelling || i.Status == InvocationCancelling
			continue
		case i.Status == InvocationSuccess:
			success++
		case i.Status == InvocationCancelled:
			cancelled++
		case i.Details == "DeliveryTimedOut":
			s.TimedOut++
		case i.Details == "ExecutionTimedOut":
			slow++
			s.Errors++
		case i.Details == "Undeliverable", i.Details == "InvalidPlatform", i.Details == "AccessDenied":
		default:
			s.Errors++
		}
		s.Completed++
	}
	switch {
	case cancelling:
		s.Status = "Cancelling"
	case s.Completed == 0 && !begun && s.Targets > 0:
		s.Status = "Pending"
	case s.Completed < s.Targets:
		s.Status = "InProgress"
	case success == s.Targets:
		s.Status = "Success"
	case s.Errors > slow:
		s.Status = "Failed"
	case slow > 0:
		s.Status, s.Details = "TimedOut", "ExecutionTimedOut"
	case cancelled > 0:
		s.Status = "Cancelled"
	case s.TimedOut > 0 && success == 0:
		s.Status, s.Details = "TimedOut", HaltTimedOut
	case success > 0:
		s.Status, s.Details = "Success", "Incomplete"
	default:
		s.Status = "Failed"
	}
	if s.Details == "" {
		s.Details = s.Status
	}
	return s
}
