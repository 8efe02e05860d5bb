package cloud

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"time"
)

// A machine that is no guest, such as a bare-metal server or one of another cloud, is managed by Run Command once it has
// registered itself with an activation:
// https://docs.aws.amazon.com/systems-manager/latest/userguide/activations.html

// ActivationID is a UUID.
type ActivationID string

// Activation lets so many machines register until it expires.
type Activation struct {
	ID          ActivationID
	Account     AccountID
	Code        string // what ActivationCode makes of it; the code itself is known to who created it
	Description string
	Name        string // of the machines that register, in lists
	Role        string
	Limit       int
	Count       int // that have registered
	Created     time.Time
	Expires     time.Time
	Tags        Tags // of the machines
}

// ActivationCode is what is kept of an activation's code.
func ActivationCode(code string) string {
	sum := sha256.Sum256([]byte(code))
	return hex.EncodeToString(sum[:])
}

// Admits reports whether a machine that shows a code may register now.
func (a Activation) Admits(code string, now time.Time) error {
	switch {
	case subtle.ConstantTimeCompare([]byte(ActivationCode(code)), []byte(a.Code)) != 1:
		return Errorf("InvalidActivation", "There is no such activation: see create-activation")
	case now.After(a.Expires):
		return Errorf("InvalidActivation", "The activation has expired: create another with create-activation")
	case a.Count >= a.Limit:
		return Errorf("InvalidActivation", "The activation is used up by %d registrations: create another with a larger registration limit", a.Count)
	}
	return nil
}

// ManagedPrefix is that of the IDs of managed machines, which stand where an instance's does.
const ManagedPrefix = "mi"

// ManagedNode is a machine that has registered.
type ManagedNode struct {
	ID         InstanceID
	Account    AccountID
	Activation ActivationID
	Name       string
	Role       string
	Host       HostID // whose gateway it registered with, and connects to
	Key        string // SHA-256 of the public key by which it is known, PKIX, in hex
	Registered time.Time
	Tags       Tags
}

// Target is the machine as Run Command sees instances: one that always runs.
func (n ManagedNode) Target() Instance {
	return Instance{ID: n.ID, Account: n.Account, Host: n.Host, Tags: n.Tags, Power: PowerRunning}
}

// Wish is what a host's gateway has to know of the machine.
func (n ManagedNode) Wish() NodeWish { return NodeWish{Instance: n.ID, Key: n.Key} }

// NodeWish lets a machine connect.
type NodeWish struct {
	Instance InstanceID
	Key      string // as in ManagedNode
}
