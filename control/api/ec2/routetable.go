package ec2

import (
	"context"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// Who uses a route table: a subnet has an association of its own, or follows the main table, with which its VPC has
// the association.

// AssociateRouteTable has a subnet use a table instead of the main one.
func (s *Service) AssociateRouteTable(ctx context.Context, in *shape.AssociateRouteTableInput) (*shape.AssociateRouteTableOutput, error) {
	switch {
	case in.GatewayId != "":
		return nil, cloud.Errorf("UnsupportedOperation", "GatewayId: route tables of gateways are not there: name a subnet")
	case in.SubnetId == "":
		return nil, cloud.Errorf("MissingParameter", "The request must contain the parameter SubnetId")
	}
	id := newID[cloud.AssociationID](s, "rtbassoc")
	var next cloud.Subnet
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		table, err := find(snap, store.RouteTables, cloud.RouteTableID(in.RouteTableId), caller(ctx), aRouteTable)
		if err != nil {
			return err
		}
		o, err := find(snap, store.Subnets, cloud.SubnetID(in.SubnetId), caller(ctx), aSubnet)
		if err != nil {
			return err
		}
		next, err = o.Value.Associate(table.Value, id)
		if err != nil || next.RouteAssociation != id {
			return err
		}
		touch(t, store.RouteTables, table)
		store.Update(t, store.Subnets, o, next)
		return nil
	})
	return &shape.AssociateRouteTableOutput{
		AssociationId: string(next.RouteAssociation), AssociationState: &shape.RouteTableAssociationState{State: "associated"},
	}, err
}

// DisassociateRouteTable has a subnet use the main table again.
func (s *Service) DisassociateRouteTable(ctx context.Context, in *shape.DisassociateRouteTableInput) (*shape.DisassociateRouteTableOutput, error) {
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		subnet, vpc, err := user(snap, caller(ctx), in.AssociationId)
		if err != nil {
			return err
		}
		if vpc != nil {
			return cloud.Errorf("InvalidParameterValue", "cannot disassociate the main route table association %s", in.AssociationId)
		}
		next := subnet.Value
		next.RouteTable, next.RouteAssociation = "", ""
		store.Update(t, store.Subnets, *subnet, next)
		return nil
	})
	return &shape.DisassociateRouteTableOutput{}, err
}

// ReplaceRouteTableAssociation has a subnet, or a VPC for the subnets without one of their own, use another table.
func (s *Service) ReplaceRouteTableAssociation(ctx context.Context, in *shape.ReplaceRouteTableAssociationInput) (*shape.ReplaceRouteTableAssociationOutput, error) {
	fresh := newID[cloud.AssociationID](s, "rtbassoc")
	var id cloud.AssociationID
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		subnet, vpc, err := user(snap, caller(ctx), in.AssociationId)
		if err != nil {
			return err
		}
		table, err := find(snap, store.RouteTables, cloud.RouteTableID(in.RouteTableId), caller(ctx), aRouteTable)
		if err != nil {
			return err
		}
		touch(t, store.RouteTables, table)
		if vpc != nil {
			next := vpc.Value
			if table.Value.VPC != next.ID {
				return cloud.Errorf("InvalidParameterValue", "Route table %s and network %s belong to different networks", table.ID, next.ID)
			}
			next.MainTable = table.Value.ID
			id = next.MainAssociation()
			store.Update(t, store.VPCs, *vpc, next)
			return nil
		}
		next := subnet.Value
		next.RouteTable = ""
		if next, err = next.Associate(table.Value, fresh); err != nil {
			return err
		}
		id = fresh
		store.Update(t, store.Subnets, *subnet, next)
		return nil
	})
	return &shape.ReplaceRouteTableAssociationOutput{
		NewAssociationId: string(id), AssociationState: &shape.RouteTableAssociationState{State: "associated"},
	}, err
}

// user returns whose association it is: a subnet's, or a VPC's with its main table.
func user(snap *store.Snapshot, who cloud.AccountID, id string) (*store.Object[cloud.Subnet], *store.Object[cloud.VPC], error) {
	subnets, err := store.Mirrored(snap, store.Subnets)
	if err != nil {
		return nil, nil, err
	}
	for _, o := range subnets {
		if o.Value.Account == who && id != "" && string(o.Value.RouteAssociation) == id {
			return &o, nil, nil
		}
	}
	vpcs, err := store.Mirrored(snap, store.VPCs)
	if err != nil {
		return nil, nil, err
	}
	for _, o := range vpcs {
		if o.Value.Account == who && string(o.Value.MainAssociation()) == id {
			return nil, &o, nil
		}
	}
	return nil, nil, cloud.NotFound("InvalidAssociationID.NotFound", "association ID", id)
}

// joinedBy returns what permission is asked for to change an association: the table, and the subnet that uses it.
func (s *Service) joinedBy(id string) []string {
	snap := s.Mirror.Snapshot()
	if subnets, err := store.Mirrored(snap, store.Subnets); err == nil {
		for _, o := range subnets {
			if string(o.Value.RouteAssociation) == id && id != "" {
				return []string{"route-table/" + string(o.Value.RouteTable), "subnet/" + o.ID}
			}
		}
	}
	if vpcs, err := store.Mirrored(snap, store.VPCs); err == nil {
		for _, o := range vpcs {
			if string(o.Value.MainAssociation()) == id {
				return []string{"route-table/" + string(o.Value.MainTable)}
			}
		}
	}
	return []string{"route-table/*"}
}
