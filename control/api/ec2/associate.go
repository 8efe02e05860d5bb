package ec2

import (
	"context"
	"net/netip"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/ledger"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// Who changes which public address stands for an interface touches it: the address is not in it, and whoever takes the
// private one away, or the interface, must see it.

// AssociateAddress makes an Elastic address stand for a private one. What stood for that before does not any more: an
// address of the launch is given back, an Elastic one stays its owner's. Unless AllowReassociation is false it may
// stand for something else already.
func (s *Service) AssociateAddress(ctx context.Context, in *shape.AssociateAddressInput) (*shape.AssociateAddressOutput, error) {
	var private netip.Addr
	if in.PrivateIpAddress != "" {
		var err error
		if private, err = fourAddr(in.PrivateIpAddress); err != nil {
			return nil, err
		}
	}
	move := in.AllowReassociation == nil || *in.AllowReassociation
	var id cloud.AssociationID
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := elasticNamed(snap, caller(ctx), in.AllocationId, in.PublicIp)
		if err != nil {
			return err
		}
		if err := ofNoGateway(snap, o.Value); err != nil {
			return err
		}
		n, err := associable(snap, t, caller(ctx), in)
		if err != nil {
			return err
		}
		next, err := o.Value.Associate(n.Value, private, newID[cloud.AssociationID](s, "eipassoc"), move)
		id = next.Association
		if err != nil || next.Association == o.Value.Association {
			return err
		}
		if o.Value.Interface != "" && o.Value.Interface != n.Value.ID {
			from, err := store.MirroredGet(snap, store.Interfaces, o.Value.Interface)
			if err != nil {
				return err
			}
			touch(t, store.Interfaces, from)
		}
		if err := s.replaced(snap, t, n.Value, next, move); err != nil {
			return err
		}
		store.Update(t, store.Addresses, o, next)
		touch(t, store.Interfaces, n)
		return nil
	})
	return &shape.AssociateAddressOutput{AssociationId: string(id)}, err
}

// associable returns the interface that a request names by itself or by its instance.
func associable(snap *store.Snapshot, t *store.Txn, who cloud.AccountID, in *shape.AssociateAddressInput) (store.Object[cloud.NetworkInterface], error) {
	var none store.Object[cloud.NetworkInterface]
	id := cloud.InterfaceID(in.NetworkInterfaceId)
	switch {
	case in.InstanceId != "" && in.NetworkInterfaceId != "":
		return none, cloud.Errorf("InvalidParameterCombination", "Name an instance or a network interface, not both")
	case in.InstanceId == "" && in.NetworkInterfaceId == "":
		return none, cloud.Errorf("MissingParameter", "Either 'InstanceId' or 'NetworkInterfaceId' must be provided")
	case in.InstanceId != "":
		i, err := find(snap, store.Instances, cloud.InstanceID(in.InstanceId), who, anInstance)
		if err != nil {
			return none, err
		}
		switch {
		case i.Value.Power == cloud.PowerTerminated || len(i.Value.Interfaces) == 0:
			return none, cloud.Errorf("InvalidInstanceID", "The %s instance '%s' is not in a valid state for this operation.", i.Value.State(status(snap, i.Value)), in.InstanceId)
		case len(i.Value.Interfaces) > 1:
			return none, cloud.Errorf("InvalidInstanceID", "There are multiple interfaces attached to instance '%s'. Please specify an interface ID for the operation instead.", in.InstanceId)
		}
		id = i.Value.Interfaces[0]
	}
	n, err := find(snap, store.Interfaces, id, who, anInterface)
	if err != nil {
		return none, err
	}
	if err := n.Value.Managed(); err != nil {
		return none, err
	}
	v, err := store.MirroredGet(snap, store.VPCs, n.Value.VPC)
	if err != nil {
		return none, err
	}
	store.Require(t, store.VPCs, v.Value.ID, v.Rev) // its gateway stays until this is done
	if v.Value.Gateway == "" {
		return none, cloud.Errorf("Gateway.NotAttached", "Network %s is not attached to any internet gateway: attach one first", n.Value.VPC)
	}
	return n, nil
}

// replaced takes away what stands for the private address that another one shall stand for.
func (s *Service) replaced(snap *store.Snapshot, t *store.Txn, n cloud.NetworkInterface, next cloud.Address, move bool) error {
	all, err := store.Mirrored(snap, store.Addresses)
	for _, o := range all {
		if o.Value.Interface == n.ID && o.Value.Private == next.Private && o.Value.ID != next.ID && !o.Value.Launch && !move {
			return cloud.Errorf("Resource.AlreadyAssociated", "resource %s is already associated with associate-id %s", n.ID, o.Value.Association)
		}
	}
	if err != nil {
		return err
	}
	return ledger.Part(t, snap, n.ID, s.Now(), []netip.Addr{next.Private})
}

// DisassociateAddress makes an Elastic address stand for nothing. Of one that does so already it is no error to say.
func (s *Service) DisassociateAddress(ctx context.Context, in *shape.DisassociateAddressInput) (*shape.DisassociateAddressOutput, error) {
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := associatedBy(snap, caller(ctx), in)
		if err != nil || o.Value.Interface == "" {
			return err
		}
		if err := ofNoGateway(snap, o.Value); err != nil {
			return err
		}
		n, err := store.MirroredGet(snap, store.Interfaces, o.Value.Interface)
		if err != nil {
			return err
		}
		touch(t, store.Interfaces, n)
		store.Update(t, store.Addresses, o, o.Value.Disassociate())
		return nil
	})
	return &shape.DisassociateAddressOutput{}, err
}

// associatedBy finds the Elastic address of an association, or the one that is named itself.
func associatedBy(snap *store.Snapshot, who cloud.AccountID, in *shape.DisassociateAddressInput) (store.Object[cloud.Address], error) {
	id := cloud.AssociationID(in.AssociationId)
	switch {
	case id == "":
		return elasticNamed(snap, who, "", in.PublicIp)
	case in.PublicIp != "":
		return store.Object[cloud.Address]{}, cloud.Errorf("InvalidParameterCombination", "Name an association by AssociationId or by PublicIp, not by both")
	case !cloud.WellFormed(id, "eipassoc"):
		return store.Object[cloud.Address]{}, cloud.Malformed("InvalidAssociationID.Malformed", id)
	}
	all, err := store.Mirrored(snap, store.Addresses)
	if err != nil {
		return store.Object[cloud.Address]{}, err
	}
	for _, o := range all {
		if o.Value.Association == id && o.Value.Account == who && !o.Value.Launch {
			return o, nil
		}
	}
	return store.Object[cloud.Address]{}, cloud.NotFound("InvalidAssociationID.NotFound", "association ID", id)
}
