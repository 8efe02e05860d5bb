package cloud

import (
	"net/netip"
	"slices"
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

// maxRoutes is EC2's quota of routes per table, of each family; local ones do not count.
const maxRoutes = 50

// ownAddresses are what EC2 answers itself: no route may lead there.
var ownAddresses = []netip.Prefix{netip.MustParsePrefix("169.254.168.0/22"), netip.MustParsePrefix("fd00:ec2::/32")}

// Add adds a route. v is the table's VPC.
func (t RouteTable) Add(v VPC, r Route) (RouteTable, error) {
	if err := r.check(v); err != nil {
		return t, err
	}
	n := 0
	for _, had := range t.Routes {
		if had.Destination == r.Destination {
			return t, Errorf("RouteAlreadyExists", "The route identified by %s already exists.", r.Destination)
		}
		if had.Destination.Addr().Is4() == r.Destination.Addr().Is4() {
			n++
		}
	}
	if slices.Contains(v.Prefixes(), r.Destination) {
		return t, Errorf("RouteAlreadyExists", "The route identified by %s already exists.", r.Destination)
	}
	if n >= maxRoutes {
		return t, Errorf("RouteLimitExceeded", "The maximum number of routes has been reached: %s has %d", t.ID, maxRoutes)
	}
	t.Routes = append(slices.Clone(t.Routes), r)
	return t, nil
}

// Replace gives a destination that the table has another target.
func (t RouteTable) Replace(v VPC, r Route) (RouteTable, error) {
	if err := r.check(v); err != nil {
		return t, err
	}
	k := t.find(r.Destination)
	switch {
	case slices.Contains(v.Prefixes(), r.Destination):
		return t, Errorf("UnsupportedOperation", "The local route %s cannot lead elsewhere", r.Destination)
	case k < 0:
		return t, Errorf("InvalidParameterValue", "There is no route defined for '%s' in the route table. Use CreateRoute instead.", r.Destination)
	}
	t.Routes = slices.Clone(t.Routes)
	t.Routes[k] = r
	return t, nil
}

// Remove takes a route away.
func (t RouteTable) Remove(v VPC, destination netip.Prefix) (RouteTable, error) {
	k := t.find(destination)
	switch {
	case slices.Contains(v.Prefixes(), destination):
		return t, Errorf("InvalidParameterValue", "cannot remove local route %s in route table %s", destination, t.ID)
	case k < 0:
		return t, Errorf("InvalidRoute.NotFound", "no route with destination-cidr-block %s in route table %s", destination, t.ID)
	}
	t.Routes = slices.Delete(slices.Clone(t.Routes), k, k+1)
	return t, nil
}

func (t RouteTable) find(destination netip.Prefix) int {
	return slices.IndexFunc(t.Routes, func(r Route) bool { return r.Destination == destination })
}

// check refuses destinations that no route may have: inside of a VPC every address is local.
func (r Route) check(v VPC) error {
	for _, o := range ownAddresses {
		if within(r.Destination, o) {
			return Errorf("InvalidParameterValue", "The destination %s is within %s, which is reserved", r.Destination, o)
		}
	}
	for _, b := range v.Prefixes() {
		switch {
		case b == r.Destination || !within(r.Destination, b):
		case r.Interface != "":
			return Errorf("UnsupportedOperation", "The destination %s is more specific than %s, which is local to %s: routes between subnets through an interface are not there yet", r.Destination, b, v.ID)
		default:
			return Errorf("InvalidParameterValue", "The destination CIDR block %s is more specific than %s, which is local to %s: such a route can target only an interface or an instance", r.Destination, b, v.ID)
		}
	}
	if r.NAT != "" && r.Destination.Addr().Is6() {
		return Errorf("UnsupportedOperation", "The destination %s is of IPv6, which NAT gateways do not translate", r.Destination)
	}
	return nil
}

// State returns active or blackhole. n and i are the route's NAT gateway and interface, the zero values if it has
// none or they are gone.
func (r Route) State(v VPC, n NATGateway, i NetworkInterface) string {
	ok := false
	switch {
	case r.Gateway != "":
		ok = r.Gateway == v.Gateway
	case r.NAT != "":
		ok = r.NAT == n.ID && n.Deleted.IsZero()
	case r.Interface != "":
		ok = r.Interface == i.ID && i.Instance != ""
	}
	if !ok {
		return "blackhole"
	}
	return "active"
}

// natShown is how long EC2 shows a NAT gateway that was deleted.
const natShown = time.Hour

// NATGateway lets the private addresses of a VPC out under one address.
//
//	available -> deleted
//
// EC2 has pending and deleting too, while a machine of its own comes and goes. Here the gateway is an entry in its
// VPC's hosts, and there is nothing to wait for.
type NATGateway struct {
	ID         NATGatewayID
	Account    AccountID
	VPC        VPCID
	Subnet     SubnetID
	Interface  InterfaceID  // made for it, with its private address
	Allocation AllocationID `json:",omitempty"` // of a public gateway
	Private    bool         `json:",omitempty"` // connectivity type private: translates to its private address, and only within what routes reach
	Created    time.Time
	Deleted    time.Time     `json:",omitzero"` // shown for an hour
	Had        PublicAddress `json:",omitzero"` // once deleted: the addresses that it had
	Tags       Tags          `json:",omitempty"`
}

// State returns the gateway's state in EC2's words.
func (n NATGateway) State() string {
	if n.Deleted.IsZero() {
		return "available"
	}
	return "deleted"
}

// Over reports whether the gateway need not be shown any more.
func (n NATGateway) Over(now time.Time) bool {
	return !n.Deleted.IsZero() && now.Sub(n.Deleted) > natShown
}
