package ec2

import (
	"context"
	"net/netip"
	"slices"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/ipam"
	"github.com/ichiro-metal/ichiro/control/ledger"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// AssignPrivateIpAddresses gives an interface further private addresses or prefixes, named or any. With
// AllowReassignment a secondary address of another interface moves here, with the public address that stands for it.
func (s *Service) AssignPrivateIpAddresses(ctx context.Context, in *shape.AssignPrivateIpAddressesInput) (*shape.AssignPrivateIpAddressesOutput, error) {
	wanted := addressing{more: in.SecondaryPrivateIpAddressCount, morePrefixes: in.Ipv4PrefixCount}
	for _, a := range in.PrivateIpAddresses {
		wanted.listed = append(wanted.listed, shape.PrivateIpAddressSpecification{Primary: ptr(false), PrivateIpAddress: a})
	}
	for _, p := range in.Ipv4Prefixes {
		wanted.prefixes = append(wanted.prefixes, shape.Ipv4PrefixSpecificationRequest{Ipv4Prefix: p})
	}
	ask, err := wanted.four()
	if err != nil {
		return nil, err
	}
	ask.Addresses = ask.Addresses[1:] // it has a primary one
	if len(ask.Addresses)+len(ask.Prefixes)+ask.More == 0 {
		return nil, cloud.Errorf("MissingParameter", "The request must contain PrivateIpAddresses, SecondaryPrivateIpAddressCount, Ipv4Prefixes or Ipv4PrefixCount")
	}
	var got ipam.Grant
	err = s.assign(ctx, in.NetworkInterfaceId, func(snap *store.Snapshot, t *store.Txn, n *cloud.NetworkInterface, space *ipam.Space) error {
		rest := ask
		rest.Addresses = nil
		var moved []netip.Addr
		for _, a := range ask.Addresses {
			switch had := holder(snap, n.Subnet, a); {
			case slices.Contains(n.Addresses, a) || slices.Contains(moved, a): // it has it: as at EC2 no error
			case had != nil && yes(in.AllowReassignment):
				moved = append(moved, a)
			default:
				rest.Addresses = append(rest.Addresses, a)
			}
		}
		if err := s.move(snap, t, *n, moved); err != nil {
			return err
		}
		g, err := space.Serve(rest)
		if err != nil {
			return err
		}
		ledger.Take(t, n.Subnet, n.ID, g)
		got = ipam.Grant{Addresses: slices.Concat(moved, g.Addresses), Prefixes: g.Prefixes}
		return nil
	}, &got)
	if err != nil {
		return nil, err
	}
	out := &shape.AssignPrivateIpAddressesOutput{NetworkInterfaceId: in.NetworkInterfaceId}
	for _, a := range got.Addresses {
		out.AssignedPrivateIpAddresses = append(out.AssignedPrivateIpAddresses, shape.AssignedPrivateIpAddress{PrivateIpAddress: a.String()})
	}
	for _, p := range got.Prefixes {
		out.AssignedIpv4Prefixes = append(out.AssignedIpv4Prefixes, shape.Ipv4PrefixSpecification{Ipv4Prefix: p.String()})
	}
	return out, nil
}

// assign gives an interface what take has put into the transaction and into got, if it may have so much.
func (s *Service) assign(ctx context.Context, id string, take func(*store.Snapshot, *store.Txn, *cloud.NetworkInterface, *ipam.Space) error, got *ipam.Grant) error {
	return s.commit(ctx, nil, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := s.ownInterface(ctx, snap, id)
		if err != nil {
			return err
		}
		n := o.Value
		subnet, err := store.MirroredGet(snap, store.Subnets, n.Subnet)
		if err != nil {
			return err
		}
		store.Require(t, store.Subnets, n.Subnet, subnet.Rev) // its IPv6 block may be going
		space, err := s.space(snap, subnet.Value)
		if err != nil {
			return err
		}
		if err := take(snap, t, &n, space); err != nil {
			return err
		}
		n.Addresses, n.IPv6, n.Prefixes = slices.Concat(n.Addresses, got.Addresses), slices.Concat(n.IPv6, got.IPv6), slices.Concat(n.Prefixes, got.Prefixes)
		typ, err := s.addressLimit(snap, n)
		if err == nil {
			err = n.Fits(typ)
		}
		if err != nil {
			return err
		}
		n.Generation++
		store.Update(t, store.Interfaces, o, n)
		return nil
	})
}

// ownInterface finds an interface that its owner may change: not one of a NAT gateway.
func (s *Service) ownInterface(ctx context.Context, snap *store.Snapshot, id string) (store.Object[cloud.NetworkInterface], error) {
	o, err := find(snap, store.Interfaces, cloud.InterfaceID(id), caller(ctx), anInterface)
	if err != nil {
		return o, err
	}
	return o, o.Value.Managed()
}

// holder returns the interface of the subnet that has a private address, nil if none has.
func holder(snap *store.Snapshot, subnet cloud.SubnetID, a netip.Addr) *store.Object[cloud.NetworkInterface] {
	all, err := store.Mirrored(snap, store.Interfaces)
	if err != nil {
		return nil
	}
	for _, o := range all {
		if o.Value.Subnet == subnet && slices.Contains(o.Value.Addresses, a) {
			return &o
		}
	}
	return nil
}

// move takes secondary addresses away from the interfaces that have them, for another interface, with the public
// addresses that stand for them.
func (s *Service) move(snap *store.Snapshot, t *store.Txn, to cloud.NetworkInterface, addrs []netip.Addr) error {
	from := map[cloud.InterfaceID]store.Object[cloud.NetworkInterface]{}
	left := map[cloud.InterfaceID]cloud.NetworkInterface{}
	for _, a := range addrs {
		o := holder(snap, to.Subnet, a)
		switch {
		case o.Value.Account != to.Account || o.Value.Managed() != nil:
			return cloud.Errorf("InvalidIPAddress.InUse", "Address %s is in use.", a)
		case o.Value.Primary() == a:
			return cloud.Errorf("InvalidParameterValue", "Address %s is the primary address of interface '%s' and cannot be reassigned: only secondary ones can", a, o.Value.ID)
		}
		n, ok := left[o.Value.ID]
		if !ok {
			n = o.Value
			n.Generation++
		}
		n.Addresses = slices.DeleteFunc(slices.Clone(n.Addresses), func(b netip.Addr) bool { return a == b })
		from[n.ID], left[n.ID] = *o, n
		ledger.Move(t, to.Subnet, a, to.ID)
	}
	for id, o := range from {
		store.Update(t, store.Interfaces, o, left[id])
	}
	all, err := store.Mirrored(snap, store.Addresses)
	for _, o := range all {
		if _, ok := from[o.Value.Interface]; ok && slices.Contains(addrs, o.Value.Private) {
			p := o.Value
			p.Interface = to.ID
			store.Update(t, store.Addresses, o, p)
		}
	}
	return err
}

// UnassignPrivateIpAddresses takes secondary private addresses or prefixes from an interface. A public address that
// stands for one of them stands for nothing then.
func (s *Service) UnassignPrivateIpAddresses(ctx context.Context, in *shape.UnassignPrivateIpAddressesInput) (*shape.UnassignPrivateIpAddressesOutput, error) {
	var gone ipam.Grant
	for _, text := range in.PrivateIpAddresses {
		a, err := fourAddr(text)
		if err != nil {
			return nil, err
		}
		gone.Addresses = append(gone.Addresses, a)
	}
	for _, text := range in.Ipv4Prefixes {
		p, err := parsePrefix("ipv4Prefix", text)
		if err != nil {
			return nil, err
		}
		gone.Prefixes = append(gone.Prefixes, p)
	}
	if len(gone.Addresses)+len(gone.Prefixes) == 0 {
		return nil, cloud.Errorf("MissingParameter", "The request must contain PrivateIpAddresses or Ipv4Prefixes")
	}
	return &shape.UnassignPrivateIpAddressesOutput{}, s.unassign(ctx, in.NetworkInterfaceId, gone)
}

// unassign takes from an interface what it must have.
func (s *Service) unassign(ctx context.Context, id string, gone ipam.Grant) error {
	slices.SortFunc(gone.Addresses, netip.Addr.Compare)
	slices.SortFunc(gone.IPv6, netip.Addr.Compare)
	slices.SortFunc(gone.Prefixes, netip.Prefix.Compare)
	gone = ipam.Grant{Addresses: slices.Compact(gone.Addresses), IPv6: slices.Compact(gone.IPv6), Prefixes: slices.Compact(gone.Prefixes)}
	return s.commit(ctx, nil, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := s.ownInterface(ctx, snap, id)
		if err != nil {
			return err
		}
		n := o.Value
		if slices.Contains(gone.Addresses, n.Primary()) {
			return cloud.Errorf("InvalidParameterValue", "Address %s is the primary address of interface '%s' and cannot be unassigned", n.Primary(), n.ID)
		}
		if n.Addresses, err = without(n.ID, n.Addresses, gone.Addresses); err != nil {
			return err
		}
		if n.IPv6, err = without(n.ID, n.IPv6, gone.IPv6); err != nil {
			return err
		}
		if n.Prefixes, err = without(n.ID, n.Prefixes, gone.Prefixes); err != nil {
			return err
		}
		n.Generation++
		store.Update(t, store.Interfaces, o, n)
		ledger.Give(t, n.Subnet, gone, s.Now())
		if len(gone.Addresses) == 0 {
			return nil
		}
		return ledger.Part(t, snap, n.ID, s.Now(), gone.Addresses)
	})
}

// without returns what an interface has without some that it must have.
func without[T interface {
	comparable
	String() string
}](id cloud.InterfaceID, had, gone []T) ([]T, error) {
	for _, g := range gone {
		if !slices.Contains(had, g) {
			return nil, cloud.Errorf("InvalidParameterValue", "Some of the addresses are not assigned to interface '%s': %s is not", id, g)
		}
	}
	return slices.DeleteFunc(slices.Clone(had), func(h T) bool { return slices.Contains(gone, h) }), nil
}

// AssignIpv6Addresses gives an interface IPv6 addresses or prefixes, named or any.
func (s *Service) AssignIpv6Addresses(ctx context.Context, in *shape.AssignIpv6AddressesInput) (*shape.AssignIpv6AddressesOutput, error) {
	wanted := sixAddressing{more: in.Ipv6AddressCount, morePrefixes: in.Ipv6PrefixCount}
	for _, a := range in.Ipv6Addresses {
		wanted.listed = append(wanted.listed, shape.InstanceIpv6Address{Ipv6Address: a})
	}
	for _, p := range in.Ipv6Prefixes {
		wanted.prefixes = append(wanted.prefixes, shape.Ipv6PrefixSpecificationRequest{Ipv6Prefix: p})
	}
	ask, err := wanted.ask()
	if err != nil {
		return nil, err
	}
	if len(ask.IPv6)+ask.MoreIPv6+len(ask.Prefixes)+ask.MorePrefixes == 0 {
		return nil, cloud.Errorf("MissingParameter", "The request must contain Ipv6Addresses, Ipv6AddressCount, Ipv6Prefixes or Ipv6PrefixCount")
	}
	var got ipam.Grant
	err = s.assign(ctx, in.NetworkInterfaceId, func(_ *store.Snapshot, t *store.Txn, n *cloud.NetworkInterface, space *ipam.Space) (err error) {
		rest := ask
		rest.IPv6 = slices.DeleteFunc(slices.Clone(ask.IPv6), func(a netip.Addr) bool { return slices.Contains(n.IPv6, a) })
		if got, err = space.Serve(rest); err == nil {
			ledger.Take(t, n.Subnet, n.ID, got)
		}
		return err
	}, &got)
	if err != nil {
		return nil, err
	}
	out := &shape.AssignIpv6AddressesOutput{NetworkInterfaceId: in.NetworkInterfaceId}
	for _, a := range got.IPv6 {
		out.AssignedIpv6Addresses = append(out.AssignedIpv6Addresses, a.String())
	}
	for _, p := range got.Prefixes {
		out.AssignedIpv6Prefixes = append(out.AssignedIpv6Prefixes, p.String())
	}
	return out, nil
}

// UnassignIpv6Addresses takes IPv6 addresses or prefixes from an interface.
func (s *Service) UnassignIpv6Addresses(ctx context.Context, in *shape.UnassignIpv6AddressesInput) (*shape.UnassignIpv6AddressesOutput, error) {
	var wanted sixAddressing
	for _, a := range in.Ipv6Addresses {
		wanted.listed = append(wanted.listed, shape.InstanceIpv6Address{Ipv6Address: a})
	}
	gone, err := wanted.ask()
	if err != nil {
		return nil, err
	}
	wanted = sixAddressing{}
	for _, p := range in.Ipv6Prefixes {
		wanted.prefixes = append(wanted.prefixes, shape.Ipv6PrefixSpecificationRequest{Ipv6Prefix: p})
	}
	prefixes, err := wanted.ask()
	if err != nil {
		return nil, err
	}
	if len(gone.IPv6)+len(prefixes.Prefixes) == 0 {
		return nil, cloud.Errorf("MissingParameter", "The request must contain Ipv6Addresses or Ipv6Prefixes")
	}
	if err := s.unassign(ctx, in.NetworkInterfaceId, ipam.Grant{IPv6: gone.IPv6, Prefixes: prefixes.Prefixes}); err != nil {
		return nil, err
	}
	out := &shape.UnassignIpv6AddressesOutput{NetworkInterfaceId: in.NetworkInterfaceId}
	for _, a := range gone.IPv6 {
		out.UnassignedIpv6Addresses = append(out.UnassignedIpv6Addresses, a.String())
	}
	for _, p := range prefixes.Prefixes {
		out.UnassignedIpv6Prefixes = append(out.UnassignedIpv6Prefixes, p.String())
	}
	return out, nil
}
