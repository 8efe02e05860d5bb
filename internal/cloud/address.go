package cloud

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

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

// Associate returns the address standing for a private one of the interface; the zero Addr is the primary one.
// What it stood for before is forgotten, unless move is false: then that is an error. Associating it again with
// what it stands for changes nothing.
func (a Address) Associate(n NetworkInterface, private netip.Addr, id AssociationID, move bool) (Address, error) {
	if !private.IsValid() {
		private = n.Primary()
	}
	switch {
	case !slices.Contains(n.Addresses, private):
		return a, Errorf("InvalidParameterValue", "Address %s is not a private address of interface '%s': assign it first", private, n.ID)
	case a.Association != "" && a.Interface == n.ID && a.Private == private:
		return a, nil
	case a.Association != "" && !move:
		return a, Errorf("Resource.AlreadyAssociated", "resource %s is already associated with associate-id %s", a.ID, a.Association)
	}
	a.Association, a.Interface, a.Private = id, n.ID, private
	return a, nil
}

// Disassociate returns the address standing for nothing.
func (a Address) Disassociate() Address {
	a.Association, a.Interface, a.Private = "", "", netip.Addr{}
	return a
}

// ParsePool reads the public addresses of a cloud as its operator writes them: networks of IPv4 with commas between
// them, or nothing.
func ParsePool(text string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for one := range strings.SplitSeq(text, ",") {
		if one = strings.TrimSpace(one); one == "" {
			continue
		}
		p, err := netip.ParsePrefix(one)
		switch {
		case err != nil:
			return nil, err
		case !p.Addr().Is4() || p != p.Masked():
			return nil, fmt.Errorf("%s is not a network of IPv4: want one such as 198.51.100.0/28", one)
		case slices.ContainsFunc(out, p.Overlaps):
			return nil, fmt.Errorf("%s overlaps another network of the list", one)
		}
		out = append(out, p)
	}
	return out, nil
}

// PublicDNSName returns EC2's name for a public address: ec2-198-51-100-7.REGION.compute.amazonaws.com.
func PublicDNSName(a netip.Addr, region string) string {
	zone := region + ".compute"
	if region == "us-east-1" { // the oldest region has its own form
		zone = "compute-1"
	}
	return "ec2-" + strings.ReplaceAll(a.String(), ".", "-") + "." + zone + ".amazonaws.com"
}
