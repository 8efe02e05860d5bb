package ec2

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// routeActions are the actions on route tables.
func (s *Service) routeActions() []api.Action {
	return []api.Action{
		api.Do("CreateRouteTable", s.CreateRouteTable, api.Resource(func(in *shape.CreateRouteTableInput) []string {
			return []string{"route-table/*", "vpc/" + in.VpcId}
		})),
		api.Do("DeleteRouteTable", s.DeleteRouteTable, the("route-table", func(in *shape.DeleteRouteTableInput) string { return in.RouteTableId })),
		api.Do("DescribeRouteTables", s.DescribeRouteTables, api.ReadOnly()),
		api.Do("CreateRoute", s.CreateRoute, the("route-table", func(in *shape.CreateRouteInput) string { return in.RouteTableId })),
		api.Do("ReplaceRoute", s.ReplaceRoute, the("route-table", func(in *shape.ReplaceRouteInput) string { return in.RouteTableId })),
		api.Do("DeleteRoute", s.DeleteRoute, the("route-table", func(in *shape.DeleteRouteInput) string { return in.RouteTableId })),
		api.Do("AssociateRouteTable", s.AssociateRouteTable, api.Resource(func(in *shape.AssociateRouteTableInput) []string {
			if in.SubnetId == "" {
				return []string{"route-table/" + in.RouteTableId}
			}
			return []string{"route-table/" + in.RouteTableId, "subnet/" + in.SubnetId}
		})),
		api.Do("DisassociateRouteTable", s.DisassociateRouteTable, api.Resource(func(in *shape.DisassociateRouteTableInput) []string {
			return s.joinedBy(in.AssociationId)
		})),
		api.Do("ReplaceRouteTableAssociation", s.ReplaceRouteTableAssociation, api.Resource(func(in *shape.ReplaceRouteTableAssociationInput) []string {
			return append(s.joinedBy(in.AssociationId), "route-table/"+in.RouteTableId)
		})),
	}
}

// aRouteTarget is an internet gateway as CreateRoute speaks of it.
var aRouteTarget = noun{"gateway ID", "InvalidGatewayID", []string{"igw"}}

// CreateRouteTable makes a route table that leads nowhere but in its VPC.
func (s *Service) CreateRouteTable(ctx context.Context, in *shape.CreateRouteTableInput) (*shape.CreateRouteTableOutput, error) {
	given, err := specifiedTags(in.TagSpecifications, "route-table")
	if err != nil {
		return nil, err
	}
	id := newID[cloud.RouteTableID](s, "rtb")
	err = s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		made, err := s.once(ctx, t, "CreateRouteTable", in, string(id))
		if made != "" || err != nil {
			id = cloud.RouteTableID(made)
			return err
		}
		v, err := find(snap, store.VPCs, cloud.VPCID(in.VpcId), caller(ctx), aVPC)
		if err != nil {
			return err
		}
		touch(t, store.VPCs, v)
		store.Create(t, store.RouteTables, id, cloud.RouteTable{ID: id, Account: caller(ctx), VPC: v.Value.ID, Tags: given["route-table"]})
		return nil
	})
	if err != nil || yes(in.DryRun) {
		return nil, err
	}
	snap := s.Mirror.Snapshot()
	o, err := find(snap, store.RouteTables, id, caller(ctx), aRouteTable)
	if err != nil {
		return nil, err
	}
	m, err := readMap(snap)
	if err != nil {
		return nil, err
	}
	return &shape.CreateRouteTableOutput{ClientToken: in.ClientToken, RouteTable: ptr(m.table(o.Value))}, nil
}

// DeleteRouteTable deletes a table that no subnet uses. Whoever begins to use one touches it.
func (s *Service) DeleteRouteTable(ctx context.Context, in *shape.DeleteRouteTableInput) (*shape.DeleteRouteTableOutput, error) {
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.RouteTables, cloud.RouteTableID(in.RouteTableId), caller(ctx), aRouteTable)
		if err != nil {
			return err
		}
		m, err := readMap(snap)
		if err != nil {
			return err
		}
		var others []string
		for _, a := range m.table(o.Value).Associations {
			if yes(a.Main) {
				others = append(others, "it is the main table of "+string(o.Value.VPC))
			} else {
				others = append(others, a.SubnetId+" by "+a.RouteTableAssociationId)
			}
		}
		store.Delete(t, store.RouteTables, o)
		return cloud.Depended("routeTable", o.Value.ID, others)
	})
	return &shape.DeleteRouteTableOutput{}, err
}

// CreateRoute adds a route to a table.
func (s *Service) CreateRoute(ctx context.Context, in *shape.CreateRouteInput) (*shape.CreateRouteOutput, error) {
	err := s.reroute(ctx, in.DryRun, in.RouteTableId, func(snap *store.Snapshot, t *store.Txn, v cloud.VPC, table cloud.RouteTable) (cloud.RouteTable, error) {
		d, err := destination(in.DestinationCidrBlock, in.DestinationIpv6CidrBlock, in.DestinationPrefixListId)
		if err != nil {
			return table, err
		}
		r, err := s.target(ctx, snap, t, v, in)
		if err != nil {
			return table, err
		}
		if r.Destination = d; sixWay(r) {
			return table, unbuiltWay(d)
		}
		return table.Add(v, r)
	})
	return &shape.CreateRouteOutput{Return: ptr(err == nil)}, err
}

// ReplaceRoute gives a route another target.
func (s *Service) ReplaceRoute(ctx context.Context, in *shape.ReplaceRouteInput) (*shape.ReplaceRouteOutput, error) {
	err := s.reroute(ctx, in.DryRun, in.RouteTableId, func(snap *store.Snapshot, t *store.Txn, v cloud.VPC, table cloud.RouteTable) (cloud.RouteTable, error) {
		d, err := destination(in.DestinationCidrBlock, in.DestinationIpv6CidrBlock, in.DestinationPrefixListId)
		if err != nil {
			return table, err
		}
		if yes(in.LocalTarget) {
			for _, b := range v.Prefixes() {
				if b == d {
					return table, nil // it leads there already
				}
			}
			return table, cloud.Errorf("InvalidParameterValue", "The destination %s is not local to %s", d, v.ID)
		}
		r, err := s.target(ctx, snap, t, v, &shape.CreateRouteInput{
			CarrierGatewayId: in.CarrierGatewayId, CoreNetworkArn: in.CoreNetworkArn, EgressOnlyInternetGatewayId: in.EgressOnlyInternetGatewayId,
			GatewayId: in.GatewayId, InstanceId: in.InstanceId, LocalGatewayId: in.LocalGatewayId, NatGatewayId: in.NatGatewayId,
			NetworkInterfaceId: in.NetworkInterfaceId, TransitGatewayId: in.TransitGatewayId, VpcEndpointId: in.VpcEndpointId, VpcPeeringConnectionId: in.VpcPeeringConnectionId,
		})
		if err != nil {
			return table, err
		}
		if r.Destination = d; sixWay(r) {
			return table, unbuiltWay(d)
		}
		return table.Replace(v, r)
	})
	return &shape.ReplaceRouteOutput{}, err
}

// sixWay reports whether a route leads IPv6 elsewhere than to an internet gateway.
func sixWay(r cloud.Route) bool { return r.Destination.Addr().Is6() && r.Gateway == "" }

func unbuiltWay(d netip.Prefix) error {
	return cloud.Errorf("UnsupportedOperation", "DestinationIpv6CidrBlock: %s leads to an internet gateway or nowhere: IPv6 by way of instances and NAT gateways is not there yet", d)
}

// DeleteRoute takes a route out of a table.
func (s *Service) DeleteRoute(ctx context.Context, in *shape.DeleteRouteInput) (*shape.DeleteRouteOutput, error) {
	err := s.reroute(ctx, in.DryRun, in.RouteTableId, func(_ *store.Snapshot, _ *store.Txn, v cloud.VPC, table cloud.RouteTable) (cloud.RouteTable, error) {
		d, err := destination(in.DestinationCidrBlock, in.DestinationIpv6CidrBlock, in.DestinationPrefixListId)
		if err != nil {
			return table, err
		}
		return table.Remove(v, d)
	})
	return &shape.DeleteRouteOutput{}, err
}

// reroute changes the routes of a table. It relies on the VPC: which blocks are local, and which gateway is attached.
func (s *Service) reroute(ctx context.Context, dryRun *bool, id string, f func(*store.Snapshot, *store.Txn, cloud.VPC, cloud.RouteTable) (cloud.RouteTable, error)) error {
	return s.commit(ctx, dryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.RouteTables, cloud.RouteTableID(id), caller(ctx), aRouteTable)
		if err != nil {
			return err
		}
		v, err := find(snap, store.VPCs, o.Value.VPC, caller(ctx), aVPC)
		if err != nil {
			return err
		}
		store.Require(t, store.VPCs, v.ID, v.Rev)
		next, err := f(snap, t, v.Value, o.Value)
		if err != nil {
			return err
		}
		store.Update(t, store.RouteTables, o, next)
		return nil
	})
}

// destination reads the one destination that a request names.
func destination(four, six, list string) (netip.Prefix, error) {
	switch {
	case set(four != "", six != "", list != "") != 1:
		return netip.Prefix{}, cloud.Errorf("InvalidParameterCombination", "Exactly one of DestinationCidrBlock, DestinationIpv6CidrBlock and DestinationPrefixListId is needed")
	case list != "":
		return netip.Prefix{}, cloud.NotFound("InvalidPrefixListID.NotFound", "prefix list ID", list)
	case six != "":
		return cloud.ParseIPv6Block("destinationIpv6CidrBlock", six)
	}
	return cloud.ParseIPv4Block("destinationCidrBlock", four)
}

// target reads the one target that a request names, which must be of the VPC.
func (s *Service) target(ctx context.Context, snap *store.Snapshot, t *store.Txn, v cloud.VPC, in *shape.CreateRouteInput) (r cloud.Route, err error) {
	err = unsupported([]lack{
		{in.CarrierGatewayId != "", "CarrierGatewayId: carrier gateways"},
		{in.CoreNetworkArn != "", "CoreNetworkArn: core networks"},
		{in.EgressOnlyInternetGatewayId != "", "EgressOnlyInternetGatewayId: egress-only internet gateways"},
		{in.LocalGatewayId != "", "LocalGatewayId: local gateways"},
		{in.TransitGatewayId != "", "TransitGatewayId: transit gateways"},
		{in.VpcEndpointId != "", "VpcEndpointId: VPC endpoints"},
		{in.VpcPeeringConnectionId != "", "VpcPeeringConnectionId: peering connections"},
		{strings.HasPrefix(in.GatewayId, "vgw-"), "GatewayId: virtual private gateways"},
	})
	if err != nil {
		return r, err
	}
	if n := set(in.GatewayId != "", in.NatGatewayId != "", in.NetworkInterfaceId != "", in.InstanceId != ""); n != 1 {
		code := map[bool]string{true: "MissingParameter", false: "InvalidParameterCombination"}[n == 0]
		return r, cloud.Errorf(code, "The request must contain exactly one of GatewayId, NatGatewayId, NetworkInterfaceId and InstanceId; this has %d", n)
	}
	elsewhere := func(what string, id string) error {
		return cloud.Errorf("InvalidParameterValue", "route table %s and %s %s belong to different networks", in.RouteTableId, what, id)
	}
	switch {
	case in.GatewayId != "":
		g, err := find(snap, store.Gateways, cloud.GatewayID(in.GatewayId), caller(ctx), aRouteTarget)
		switch {
		case err != nil:
			return r, err
		case g.Value.VPC != v.ID:
			return r, elsewhere("network gateway", g.ID)
		}
		store.Require(t, store.Gateways, g.ID, g.Rev)
		return cloud.Route{Gateway: g.Value.ID}, nil
	case in.NatGatewayId != "":
		n, err := find(snap, store.NATGateways, cloud.NATGatewayID(in.NatGatewayId), caller(ctx), aNATGateway)
		switch {
		case err != nil:
			return r, err
		case !n.Value.Deleted.IsZero():
			return r, cloud.NotFound(aNATGateway.code+".NotFound", aNATGateway.name, n.ID)
		case n.Value.VPC != v.ID:
			return r, elsewhere("NAT gateway", n.ID)
		}
		store.Require(t, store.NATGateways, n.ID, n.Rev)
		return cloud.Route{NAT: n.Value.ID}, nil
	case in.InstanceId != "":
		i, err := find(snap, store.Instances, cloud.InstanceID(in.InstanceId), caller(ctx), anInstance)
		if err != nil {
			return r, err
		}
		if n := len(i.Value.Interfaces); n != 1 {
			return r, cloud.Errorf("InvalidInstanceID", "There are %d interfaces attached to instance '%s'. Please specify an interface ID for the operation instead.", n, i.ID)
		}
		r.ByInstance, r.Interface = i.Value.ID, i.Value.Interfaces[0]
		store.Require(t, store.Instances, i.ID, i.Rev)
	default:
		r.Interface = cloud.InterfaceID(in.NetworkInterfaceId)
	}
	n, err := find(snap, store.Interfaces, r.Interface, caller(ctx), anInterface)
	switch {
	case err != nil:
		return r, err
	case n.Value.VPC != v.ID:
		return r, elsewhere("interface", n.ID)
	}
	store.Require(t, store.Interfaces, n.ID, n.Rev)
	return r, nil
}

// DescribeRouteTables shows route tables with their routes and who uses them.
func (s *Service) DescribeRouteTables(ctx context.Context, in *shape.DescribeRouteTablesInput) (*shape.DescribeRouteTablesOutput, error) {
	q := query[shape.RouteTable]{in: in, most: 100, filters: in.Filters, fields: tableFields, id: func(t shape.RouteTable) string { return t.RouteTableId }, tags: func(t shape.RouteTable) []shape.Tag { return t.Tags }}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]shape.RouteTable, error) {
		all, err1 := list[cloud.RouteTable, cloud.RouteTableID](snap, store.RouteTables, in.RouteTableIds, caller(ctx), aRouteTable)
		m, err2 := readMap(snap)
		out := make([]shape.RouteTable, 0, len(all))
		for _, t := range all {
			out = append(out, m.table(t))
		}
		return out, errors.Join(err1, err2)
	})
	return &shape.DescribeRouteTablesOutput{RouteTables: page, NextToken: next}, err
}

var tableFields = fields[shape.RouteTable]{
	"route-table-id": func(t shape.RouteTable) []string { return one(t.RouteTableId) },
	"vpc-id":         func(t shape.RouteTable) []string { return one(t.VpcId) },
	"owner-id":       func(t shape.RouteTable) []string { return one(t.OwnerId) },

	"association.gateway-id":                 associations(func(a shape.RouteTableAssociation) string { return a.GatewayId }),
	"association.route-table-association-id": associations(func(a shape.RouteTableAssociation) string { return a.RouteTableAssociationId }),
	"association.route-table-id":             associations(func(a shape.RouteTableAssociation) string { return a.RouteTableId }),
	"association.subnet-id":                  associations(func(a shape.RouteTableAssociation) string { return a.SubnetId }),
	"association.main": associations(func(a shape.RouteTableAssociation) string {
		return truth(a.Main)[0]
	}),

	"route.destination-cidr-block":          routes(func(r shape.Route) string { return r.DestinationCidrBlock }),
	"route.destination-ipv6-cidr-block":     routes(func(r shape.Route) string { return r.DestinationIpv6CidrBlock }),
	"route.destination-prefix-list-id":      routes(func(r shape.Route) string { return r.DestinationPrefixListId }),
	"route.egress-only-internet-gateway-id": routes(func(r shape.Route) string { return r.EgressOnlyInternetGatewayId }),
	"route.gateway-id":                      routes(func(r shape.Route) string { return r.GatewayId }),
	"route.instance-id":                     routes(func(r shape.Route) string { return r.InstanceId }),
	"route.nat-gateway-id":                  routes(func(r shape.Route) string { return r.NatGatewayId }),
	"route.transit-gateway-id":              routes(func(r shape.Route) string { return r.TransitGatewayId }),
	"route.origin":                          routes(func(r shape.Route) string { return r.Origin }),
	"route.state":                           routes(func(r shape.Route) string { return r.State }),
	"route.vpc-peering-connection-id":       routes(func(r shape.Route) string { return r.VpcPeeringConnectionId }),
}

func associations(f func(shape.RouteTableAssociation) string) func(shape.RouteTable) []string {
	return func(t shape.RouteTable) []string { return mapped(t.Associations, f) }
}

func routes(f func(shape.Route) string) func(shape.RouteTable) []string {
	return func(t shape.RouteTable) []string { return mapped(t.Routes, f) }
}

// roadMap is what route tables refer to, and what refers to them.
type roadMap struct {
	vpcs       map[cloud.VPCID]cloud.VPC
	nats       map[cloud.NATGatewayID]cloud.NATGateway
	interfaces map[cloud.InterfaceID]cloud.NetworkInterface
	subnets    []cloud.Subnet
}

func readMap(snap *store.Snapshot) (m roadMap, err error) {
	var errs [4]error
	m.vpcs, errs[0] = index[cloud.VPCID](snap, store.VPCs)
	m.nats, errs[1] = index[cloud.NATGatewayID](snap, store.NATGateways)
	m.interfaces, errs[2] = index[cloud.InterfaceID](snap, store.Interfaces)
	m.subnets, errs[3] = values(snap, store.Subnets)
	return m, errors.Join(errs[:]...)
}

// table is a route table in EC2's shape: the routes that nobody made come first.
func (m roadMap) table(t cloud.RouteTable) shape.RouteTable {
	v := m.vpcs[t.VPC]
	out := shape.RouteTable{RouteTableId: string(t.ID), VpcId: string(t.VPC), OwnerId: string(t.Account), Tags: tags(t.Tags)}
	for _, b := range v.Prefixes() {
		out.Routes = append(out.Routes, to(b, shape.Route{GatewayId: "local", Origin: "CreateRouteTable", State: "active"}))
	}
	for _, r := range t.Routes {
		n := m.interfaces[r.Interface]
		route := to(r.Destination, shape.Route{
			GatewayId: string(r.Gateway), NatGatewayId: string(r.NAT), NetworkInterfaceId: string(r.Interface), InstanceId: string(n.Instance),
			Origin: "CreateRoute", State: r.State(v, m.nats[r.NAT], n),
		})
		if n.Instance != "" {
			route.InstanceOwnerId = string(n.Account)
		}
		out.Routes = append(out.Routes, route)
	}
	associated := &shape.RouteTableAssociationState{State: "associated"}
	if v.MainTable == t.ID {
		out.Associations = append(out.Associations, shape.RouteTableAssociation{
			Main: ptr(true), RouteTableId: string(t.ID), RouteTableAssociationId: string(v.MainAssociation()), AssociationState: associated,
		})
	}
	for _, s := range m.subnets {
		if s.RouteTable == t.ID {
			out.Associations = append(out.Associations, shape.RouteTableAssociation{
				Main: ptr(false), RouteTableId: string(t.ID), RouteTableAssociationId: string(s.RouteAssociation), SubnetId: string(s.ID), AssociationState: associated,
			})
		}
	}
	return out
}

// to returns a route with its destination.
func to(p netip.Prefix, r shape.Route) shape.Route {
	if p.Addr().Is4() {
		r.DestinationCidrBlock = p.String()
	} else {
		r.DestinationIpv6CidrBlock = p.String()
	}
	return r
}
