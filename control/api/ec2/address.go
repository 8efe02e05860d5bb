package ec2

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/ledger"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// addressActions are the actions on public addresses.
func (s *Service) addressActions() []api.Action {
	ro := api.ReadOnly()
	return []api.Action{
		api.Do("AllocateAddress", s.AllocateAddress, api.Resource(func(*shape.AllocateAddressInput) []string { return []string{"elastic-ip/*"} })),
		api.Do("ReleaseAddress", s.ReleaseAddress, api.Resource(func(in *shape.ReleaseAddressInput) []string { return s.elastic(in.AllocationId, in.PublicIp) })),
		api.Do("AssociateAddress", s.AssociateAddress, api.Resource(s.standing)),
		api.Do("DisassociateAddress", s.DisassociateAddress, api.Resource(func(in *shape.DisassociateAddressInput) []string { return s.elastic(in.AssociationId, in.PublicIp) })),
		api.Do("DescribeAddresses", s.DescribeAddresses, ro),
		api.Do("DescribeAddressesAttribute", s.DescribeAddressesAttribute, ro),
	}
}

// elastic returns the Elastic address that an allocation, an association or the address itself names, as a resource.
func (s *Service) elastic(id, public string) []string {
	all, err := store.Mirrored(s.Mirror.Snapshot(), store.Addresses)
	if err == nil {
		for _, o := range all {
			if a := o.Value; id != "" && (string(a.ID) == id || string(a.Association) == id) || public != "" && a.Public.String() == public {
				return []string{"elastic-ip/" + o.ID}
			}
		}
	}
	return []string{"elastic-ip/*"}
}

// standing returns the resources of an association: the address, and what it shall stand for.
func (s *Service) standing(in *shape.AssociateAddressInput) []string {
	out := s.elastic(in.AllocationId, in.PublicIp)
	if in.InstanceId != "" {
		out = append(out, "instance/"+in.InstanceId)
	}
	if in.NetworkInterfaceId != "" {
		out = append(out, "network-interface/"+in.NetworkInterfaceId)
	}
	return out
}

// AllocateAddress gives the account a public address of the operator's pool, any or a particular one.
func (s *Service) AllocateAddress(ctx context.Context, in *shape.AllocateAddressInput) (*shape.AllocateAddressOutput, error) {
	given, err := specifiedTags(in.TagSpecifications, "elastic-ip")
	if err != nil {
		return nil, err
	}
	switch {
	case in.Domain != "" && in.Domain != "vpc":
		return nil, cloud.Errorf("InvalidParameterValue", "Domain is vpc, not %.40q: EC2-Classic is no more", in.Domain)
	case in.CustomerOwnedIpv4Pool != "":
		return nil, cloud.Errorf("UnsupportedOperation", "CustomerOwnedIpv4Pool: there are no Outposts here: leave the parameter out")
	case in.PublicIpv4Pool != "" && in.PublicIpv4Pool != publicPool:
		return nil, cloud.Errorf("InvalidPublicIpv4PoolID.NotFound", "The pool '%.80s' does not exist: there is one, %s", in.PublicIpv4Pool, publicPool)
	case in.NetworkBorderGroup != "" && in.NetworkBorderGroup != s.Region:
		return nil, cloud.Errorf("InvalidParameterValue", "NetworkBorderGroup is %s, not %.80q", s.Region, in.NetworkBorderGroup)
	}
	a := cloud.Address{ID: newID[cloud.AllocationID](s, "eipalloc"), Account: caller(ctx), Tags: given["elastic-ip"]}
	err = s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		pool, err := s.pool(snap)
		if err != nil {
			return err
		}
		if in.Address != "" && !pool.Empty() {
			if a.Public, err = fourAddr(in.Address); err == nil {
				err = pool.Claim(a.Public)
			}
		} else {
			a.Public, err = pool.Choose()
		}
		if err != nil {
			return err
		}
		ledger.TakePublic(t, a)
		return nil
	})
	return &shape.AllocateAddressOutput{
		AllocationId: string(a.ID), Domain: "vpc", NetworkBorderGroup: s.Region, PublicIp: a.Public.String(), PublicIpv4Pool: publicPool,
	}, err
}

// publicPool is what EC2 calls the pool that is not a customer's.
const publicPool = "amazon"

// elasticNamed finds an Elastic address by its allocation, or by itself.
func elasticNamed(snap *store.Snapshot, who cloud.AccountID, id, public string) (store.Object[cloud.Address], error) {
	var none store.Object[cloud.Address]
	switch {
	case id != "" && public != "":
		return none, cloud.Errorf("InvalidParameterCombination", "Name an address by AllocationId or by PublicIp, not by both")
	case id == "" && public == "":
		return none, cloud.Errorf("MissingParameter", "The request must contain the parameter AllocationId or PublicIp")
	case id != "":
		o, err := find(snap, store.Addresses, cloud.AllocationID(id), who, anAddress)
		if err == nil && o.Value.Launch {
			return none, cloud.NotFound(anAddress.code+".NotFound", anAddress.name, id)
		}
		return o, err
	}
	a, err := netip.ParseAddr(public)
	if err != nil {
		return none, cloud.Errorf("InvalidParameterValue", "Value (%.50s) for parameter publicIp is invalid. Invalid IPv4 address.", public)
	}
	all, err := store.Mirrored(snap, store.Addresses)
	if err != nil {
		return none, err
	}
	for _, o := range all {
		if o.Value.Public == a && o.Value.Account == who && !o.Value.Launch {
			return o, nil
		}
	}
	return none, cloud.Errorf("InvalidAddress.NotFound", "Address '%s' not found.", a)
}

// ReleaseAddress gives an Elastic address back to the pool. In the default VPC it may be associated still; elsewhere
// that is an error, as at EC2.
func (s *Service) ReleaseAddress(ctx context.Context, in *shape.ReleaseAddressInput) (*shape.ReleaseAddressOutput, error) {
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := elasticNamed(snap, caller(ctx), in.AllocationId, in.PublicIp)
		if err != nil {
			return err
		}
		if err := ofNoGateway(snap, o.Value); err != nil {
			return err
		}
		if o.Value.Interface != "" {
			n, err := store.MirroredGet(snap, store.Interfaces, o.Value.Interface)
			if err != nil {
				return err
			}
			v, err := store.MirroredGet(snap, store.VPCs, n.Value.VPC)
			if err != nil || !v.Value.Default {
				return cloud.Errorf("InvalidIPAddress.InUse", "Address %s is in use: disassociate it (%s) first", o.Value.Public, o.Value.Association)
			}
			touch(t, store.Interfaces, n)
		}
		ledger.GivePublic(t, o, s.Now())
		return nil
	})
	return &shape.ReleaseAddressOutput{}, err
}

// ofNoGateway refuses an address that a NAT gateway uses.
func ofNoGateway(snap *store.Snapshot, a cloud.Address) error {
	all, err := store.Mirrored(snap, store.NATGateways)
	for _, o := range all {
		if o.Value.Allocation == a.ID && o.Value.Deleted.IsZero() {
			return cloud.Errorf("InvalidIPAddress.InUse", "Address %s is of the NAT gateway '%s': delete the gateway first", a.Public, o.Value.ID)
		}
	}
	return err
}

// DescribeAddresses shows Elastic addresses.
func (s *Service) DescribeAddresses(ctx context.Context, in *shape.DescribeAddressesInput) (*shape.DescribeAddressesOutput, error) {
	type item = shape.Address
	match, err := api.Match(in.Filters, fields[item]{
		"allocation-id":              func(a item) []string { return one(a.AllocationId) },
		"association-id":             func(a item) []string { return one(a.AssociationId) },
		"domain":                     func(a item) []string { return one(a.Domain) },
		"instance-id":                func(a item) []string { return one(a.InstanceId) },
		"network-border-group":       func(a item) []string { return one(a.NetworkBorderGroup) },
		"network-interface-id":       func(a item) []string { return one(a.NetworkInterfaceId) },
		"network-interface-owner-id": func(a item) []string { return one(a.NetworkInterfaceOwnerId) },
		"private-ip-address":         func(a item) []string { return one(a.PrivateIpAddress) },
		"public-ip":                  func(a item) []string { return one(a.PublicIp) },
	}, func(a item) map[string]string {
		out := map[string]string{}
		for _, t := range a.Tags {
			out[t.Key] = t.Value
		}
		return out
	})
	if err != nil {
		return nil, err
	}
	snap := s.Mirror.Snapshot()
	all, err := s.elastics(snap, caller(ctx), in.AllocationIds, in.PublicIps)
	if err != nil {
		return nil, err
	}
	out := &shape.DescribeAddressesOutput{}
	for _, a := range all {
		if shown := s.elasticAddress(snap, a); match(shown) {
			out.Addresses = append(out.Addresses, shown)
		}
	}
	return out, nil
}

// elastics returns the account's Elastic addresses, or those that are named.
func (s *Service) elastics(snap *store.Snapshot, who cloud.AccountID, ids, public []string) ([]cloud.Address, error) {
	var out []cloud.Address
	for k, name := range slices.Concat(ids, public) {
		id, ip := name, ""
		if k >= len(ids) {
			id, ip = "", name
		}
		o, err := elasticNamed(snap, who, id, ip)
		if err != nil {
			return nil, err
		}
		out = append(out, o.Value)
	}
	if len(ids)+len(public) > 0 {
		return out, nil
	}
	all, err := list[cloud.Address, cloud.AllocationID](snap, store.Addresses, nil, who, anAddress)
	return slices.DeleteFunc(all, func(a cloud.Address) bool { return a.Launch }), err
}

func (s *Service) elasticAddress(snap *store.Snapshot, a cloud.Address) shape.Address {
	out := shape.Address{
		AllocationId: string(a.ID), AssociationId: string(a.Association), Domain: "vpc", NetworkBorderGroup: s.Region,
		PublicIp: a.Public.String(), PublicIpv4Pool: publicPool, Tags: tags(a.Tags),
	}
	if a.Interface != "" {
		out.NetworkInterfaceId, out.NetworkInterfaceOwnerId, out.PrivateIpAddress = string(a.Interface), string(a.Account), a.Private.String()
		if n, err := store.MirroredGet(snap, store.Interfaces, a.Interface); err == nil {
			out.InstanceId = string(n.Value.Instance)
		}
	}
	return out
}

// DescribeAddressesAttribute shows the addresses with their attributes. The one that there is, a name for reverse DNS,
// none has yet.
func (s *Service) DescribeAddressesAttribute(ctx context.Context, in *shape.DescribeAddressesAttributeInput) (*shape.DescribeAddressesAttributeOutput, error) {
	type item = shape.AddressAttribute
	if in.Attribute != "" && in.Attribute != "domain-name" {
		return nil, cloud.Errorf("InvalidParameterValue", "Attribute is domain-name, not %.40q", in.Attribute)
	}
	q := query[item]{in: in, id: func(a item) string { return cmp.Or(a.AllocationId, a.PublicIp) }}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]item, error) {
		all, err := s.elastics(snap, caller(ctx), in.AllocationIds, nil)
		out := make([]item, 0, len(all))
		for _, a := range all {
			out = append(out, item{AllocationId: string(a.ID), PublicIp: a.Public.String()})
		}
		return out, err
	})
	return &shape.DescribeAddressesAttributeOutput{Addresses: page, NextToken: next}, err
}
