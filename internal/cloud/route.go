package cloud

import (
	"net/netip"
	"time"
)

// InternetGateway joins a VPC to the host's uplink. VPC.Gateway is what counts; VPC here is the same fact seen
// from the other side, written in the same transaction.
type InternetGateway struct {
	ID      GatewayID
	Account AccountID
	VPC     VPCID `json:",omitempty"`
	Tags    Tags  `json:",omitempty"`
}

// RouteTable says where packets from its subnets go. The VPC's own blocks are always local and not in Routes.
type RouteTable struct {
	ID      RouteTableID
	Account AccountID
	VPC     VPCID
	Routes  []Route `json:",omitempty"`
	Tags    Tags    `json:",omitempty"`
}

// Route leads one destination to one target: exactly one of Gateway, NAT and Interface is set. A target that is
// gone, or has no instance, makes the route a black hole.
type Route struct {
	Destination netip.Prefix
	Gateway     GatewayID    `json:",omitempty"` // igw-
	NAT         NATGatewayID `json:",omitempty"`
	Interface   InterfaceID  `json:",omitempty"`
	ByInstance  InstanceID   `json:",omitempty"` // whose primary interface Interface was when it was made
}

// NATGateway lets the private addresses of a VPC out under one address.
//
//	pending -> available -> deleting -> deleted
type NATGateway struct {
	ID         NATGatewayID
	Account    AccountID
	VPC        VPCID
	Subnet     SubnetID
	Interface  InterfaceID  // made for it, with its private address
	Allocation AllocationID `json:",omitempty"` // of a public gateway
	Private    bool         `json:",omitempty"` // connectivity type private: translates to its private address, and only within what routes reach
	Created    time.Time
	Deleted    time.Time `json:",omitzero"` // shown for an hour
	Tags       Tags      `json:",omitempty"`
}
