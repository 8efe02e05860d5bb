package cloud

import "net/netip"

// Address is a public address of an account: an Elastic one, or one that an interface was given at its launch and
// that goes with it. It stands for one private address of one interface, or of a NAT gateway.
type Address struct {
	ID          AllocationID
	Account     AccountID
	Public      netip.Addr
	Association AssociationID `json:",omitempty"` // eipassoc-
	Interface   InterfaceID   `json:",omitempty"`
	Private     netip.Addr    `json:",omitzero"`
	Launch      bool          `json:",omitempty"` // not Elastic: it is given back when the instance stops or the interface leaves it
	Tags        Tags          `json:",omitempty"`
}
