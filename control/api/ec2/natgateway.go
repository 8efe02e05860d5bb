package ec2

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/ipam"
	"github.com/ichiro-metal/ichiro/control/ledger"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// natActions are the actions on NAT gateways.
func (s *Service) natActions() []api.Action {
	return []api.Action{
		api.Do("CreateNatGateway", s.CreateNatGateway, api.Resource(func(in *shape.CreateNatGatewayInput) []string {
			out := []string{"natgateway/*", "subnet/" + in.SubnetId}
			if in.AllocationId != "" {
				out = append(out, "elastic-ip/"+in.AllocationId)
			}
			return out
		})),
		api.Do("DeleteNatGateway", s.DeleteNatGateway, the("natgateway", func(in *shape.DeleteNatGatewayInput) string { return in.NatGatewayId })),
		api.Do("DescribeNatGateways", s.DescribeNatGateways, api.ReadOnly()),
	}
}

// findNAT returns a NAT gateway that is still shown. Its errors have no "ID" in their codes.
func (s *Service) findNAT(ctx context.Context, snap *store.Snapshot, id string) (store.Object[cloud.NATGateway], error) {
	o, err := find(snap, store.NATGateways, cloud.NATGatewayID(id), caller(ctx), aNATGateway)
	switch {
	case cloud.Code(err) == "InvalidNatGatewayID.Malformed":
		return o, cloud.Malformed("NatGatewayMalformed", id)
	case cloud.Code(err) == "InvalidNatGatewayID.NotFound", err == nil && o.Value.Over(s.Now()):
		return o, cloud.Errorf("NatGatewayNotFound", "The Nat Gateway %.80s was not found", id)
	}
	return o, err
}

// CreateNatGateway makes a NAT gateway with its interface, and gives it the public address. What EC2 finds out later
// and tells as the reason of a gateway that failed is refused here at once, with the same code.
func (s *Service) CreateNatGateway(ctx context.Context, in *shape.CreateNatGatewayInput) (*shape.CreateNatGatewayOutput, error) {
	private, wanted, err := s.checkNAT(in)
	if err != nil {
		return nil, err
	}
	given, err := specifiedTags(in.TagSpecifications, "natgateway")
	if err != nil {
		return nil, err
	}
	now := s.Now().UTC().Truncate(time.Second)
	id := newID[cloud.NATGatewayID](s, "nat")
	err = s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		made, err := s.once(ctx, t, "CreateNatGateway", in, string(id))
		if made != "" || err != nil {
			id = cloud.NATGatewayID(made)
			return err
		}
		subnet, err := find(snap, store.Subnets, cloud.SubnetID(in.SubnetId), caller(ctx), aSubnet)
		if err != nil {
			return err
		}
		store.Require(t, store.Subnets, subnet.Value.ID, subnet.Rev)
		n, err := s.natInterface(snap, subnet.Value, wanted)
		if err != nil {
			return err
		}
		n.Description = "Interface for NAT Gateway " + string(id)
		if !private {
			if err := s.giveAddress(ctx, snap, t, in.AllocationId, n); err != nil {
				return err
			}
		}
		store.Create(t, store.Interfaces, n.ID, n)
		ledger.Take(t, n.Subnet, n.ID, ledger.All(n))
		store.Create(t, store.NATGateways, id, cloud.NATGateway{
			ID: id, Account: n.Account, VPC: n.VPC, Subnet: n.Subnet, Interface: n.ID, Allocation: cloud.AllocationID(in.AllocationId),
			Private: private, Created: now, Tags: given["natgateway"],
		})
		return nil
	})
	if err != nil || yes(in.DryRun) {
		return nil, err
	}
	snap := s.Mirror.Snapshot()
	o, err := s.findNAT(ctx, snap, string(id))
	if err != nil {
		return nil, err
	}
	out, err := natShape(snap, o.Value)
	return &shape.CreateNatGatewayOutput{ClientToken: in.ClientToken, NatGateway: &out}, err
}

// checkNAT applies the rules that need nothing but the request.
func (s *Service) checkNAT(in *shape.CreateNatGatewayInput) (private bool, wanted netip.Addr, err error) {
	switch in.ConnectivityType {
	case "", "public":
	case "private":
		private = true
	default:
		return false, wanted, cloud.Errorf("InvalidParameterValue", "ConnectivityType is public or private, not %.40q", in.ConnectivityType)
	}
	err = unsupported([]lack{{
		len(in.SecondaryAllocationIds) > 0 || len(in.SecondaryPrivateIpAddresses) > 0 || in.SecondaryPrivateIpAddressCount != nil,
		"SecondaryAllocationId, SecondaryPrivateIpAddress: further addresses of NAT gateways",
	}})
	switch {
	case err != nil:
	case in.SubnetId == "":
		err = cloud.Errorf("MissingParameter", "The request must contain the parameter SubnetId")
	case private && in.AllocationId != "":
		err = cloud.Errorf("InvalidParameterCombination", "AllocationId is for public NAT gateways: a private one has none")
	case !private && in.AllocationId == "":
		err = cloud.Errorf("MissingParameter", "The request must include the AllocationId parameter. Add the required parameter and retry the request.")
	case in.PrivateIpAddress != "":
		if wanted, err = netip.ParseAddr(in.PrivateIpAddress); err != nil || !wanted.Is4() {
			err = cloud.Errorf("InvalidParameterValue", "Value (%.40s) for parameter privateIpAddress is invalid: it is not an IPv4 address", in.PrivateIpAddress)
		}
	}
	return private, wanted, err
}

// natInterface returns the interface of a new NAT gateway, with the wanted address or any.
func (s *Service) natInterface(snap *store.Snapshot, subnet cloud.Subnet, wanted netip.Addr) (n cloud.NetworkInterface, err error) {
	space, err := s.space(snap, subnet)
	if err != nil {
		return n, err
	}
	got, err := space.Serve(ipam.Ask{Addresses: []netip.Addr{wanted}})
	if err != nil {
		return n, err
	}
	n = cloud.NetworkInterface{
		ID: newID[cloud.InterfaceID](s, "eni"), Generation: 1, Account: subnet.Account, VPC: subnet.VPC, Subnet: subnet.ID, Zone: subnet.Zone,
		Addresses: got.Addresses, Kind: cloud.KindNATGateway,
	}
	n.MAC = ipam.MAC(n.ID)
	return n, nil
}

// giveAddress has a public address stand for the interface's private one. The VPC must have a way out.
func (s *Service) giveAddress(ctx context.Context, snap *store.Snapshot, t *store.Txn, id string, n cloud.NetworkInterface) error {
	a, err := find(snap, store.Addresses, cloud.AllocationID(id), caller(ctx), anAddress)
	if err != nil {
		return err
	}
	v, err := find(snap, store.VPCs, n.VPC, caller(ctx), aVPC)
	if err != nil {
		return err
	}
	switch {
	case a.Value.Launch:
		return cloud.NotFound(anAddress.code+".NotFound", anAddress.name, id)
	case a.Value.Association != "":
		return cloud.Errorf("Resource.AlreadyAssociated", "Elastic IP address %s is already associated: disassociate %s first", id, a.Value.Association)
	case v.Value.Gateway == "":
		return cloud.Errorf("Gateway.NotAttached", "Network %s has no Internet gateway attached: attach one first", v.ID)
	}
	store.Require(t, store.VPCs, v.ID, v.Rev)
	next := a.Value
	next.Association, next.Interface, next.Private = newID[cloud.AssociationID](s, "eipassoc"), n.ID, n.Primary()
	store.Update(t, store.Addresses, a, next)
	return nil
}

// DeleteNatGateway deletes a NAT gateway and its interface; the public address stays its owner's. Routes to it are
// black holes from then on.
func (s *Service) DeleteNatGateway(ctx context.Context, in *shape.DeleteNatGatewayInput) (*shape.DeleteNatGatewayOutput, error) {
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := s.findNAT(ctx, snap, in.NatGatewayId)
		if err != nil || !o.Value.Deleted.IsZero() {
			return err
		}
		nat := o.Value
		nat.Deleted = s.Now().UTC().Truncate(time.Second)
		n, err := store.MirroredGet(snap, store.Interfaces, nat.Interface)
		switch {
		case err == nil:
			nat.Had.Private = n.Value.Primary()
			store.Delete(t, store.Interfaces, n)
			ledger.Give(t, nat.Subnet, ledger.All(n.Value), s.Now())
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		a, err := store.MirroredGet(snap, store.Addresses, nat.Allocation)
		switch {
		case err == nil && a.Value.Interface == nat.Interface:
			nat.Had.Public = a.Value.Public
			free := a.Value
			free.Association, free.Interface, free.Private = "", "", netip.Addr{}
			store.Update(t, store.Addresses, a, free)
		case err != nil && !errors.Is(err, store.ErrNotFound):
			return err
		}
		store.Update(t, store.NATGateways, o, nat)
		return nil
	})
	return &shape.DeleteNatGatewayOutput{NatGatewayId: in.NatGatewayId}, err
}

// DescribeNatGateways shows NAT gateways, deleted ones for an hour.
func (s *Service) DescribeNatGateways(ctx context.Context, in *shape.DescribeNatGatewaysInput) (*shape.DescribeNatGatewaysOutput, error) {
	type gateway = shape.NatGateway
	q := query[gateway]{in: in, filters: in.Filter, id: func(n gateway) string { return n.NatGatewayId }, tags: func(n gateway) []shape.Tag { return n.Tags },
		fields: fields[gateway]{
			"nat-gateway-id": func(n gateway) []string { return one(n.NatGatewayId) },
			"state":          func(n gateway) []string { return one(n.State) },
			"subnet-id":      func(n gateway) []string { return one(n.SubnetId) },
			"vpc-id":         func(n gateway) []string { return one(n.VpcId) },
		}}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]gateway, error) {
		for _, id := range in.NatGatewayIds {
			if _, err := s.findNAT(ctx, snap, id); err != nil {
				return nil, err
			}
		}
		all, err := list[cloud.NATGateway, cloud.NATGatewayID](snap, store.NATGateways, in.NatGatewayIds, caller(ctx), aNATGateway)
		if err != nil {
			return nil, err
		}
		var out []gateway
		for _, n := range all {
			if n.Over(s.Now()) {
				continue
			}
			g, err := natShape(snap, n)
			if err != nil {
				return nil, err
			}
			out = append(out, g)
		}
		return out, nil
	})
	return &shape.DescribeNatGatewaysOutput{NatGateways: page, NextToken: next}, err
}

// natShape is a NAT gateway in EC2's shape.
func natShape(snap *store.Snapshot, n cloud.NATGateway) (shape.NatGateway, error) {
	out := shape.NatGateway{
		NatGatewayId: string(n.ID), VpcId: string(n.VPC), SubnetId: string(n.Subnet), State: n.State(), ConnectivityType: "public",
		CreateTime: &n.Created, Tags: tags(n.Tags),
	}
	if n.Private {
		out.ConnectivityType = "private"
	}
	address := shape.NatGatewayAddress{NetworkInterfaceId: string(n.Interface), AllocationId: string(n.Allocation), IsPrimary: ptr(true), Status: "succeeded"}
	had := n.Had
	if !n.Deleted.IsZero() {
		out.DeleteTime = &n.Deleted
	} else {
		i, err1 := store.MirroredGet(snap, store.Interfaces, n.Interface)
		had.Private = i.Value.Primary()
		a, err2 := store.MirroredGet(snap, store.Addresses, n.Allocation)
		if errors.Is(err2, store.ErrNotFound) { // a private gateway has none
			err2 = nil
		}
		if err := errors.Join(err1, err2); err != nil {
			return out, err
		}
		had.Public, address.AssociationId = a.Value.Public, string(a.Value.Association)
	}
	if had.Private.IsValid() {
		address.PrivateIp = had.Private.String()
	}
	if had.Public.IsValid() {
		address.PublicIp = had.Public.String()
	}
	out.NatGatewayAddresses = []shape.NatGatewayAddress{address}
	return out, nil
}
