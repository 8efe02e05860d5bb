package ec2

import (
	"context"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/ipam"
	"github.com/ichiro-metal/ichiro/control/ledger"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// CreateNetworkInterface makes an interface with its addresses.
func (s *Service) CreateNetworkInterface(ctx context.Context, in *shape.CreateNetworkInterfaceInput) (*shape.CreateNetworkInterfaceOutput, error) {
	given, err := specifiedTags(in.TagSpecifications, "network-interface")
	if err != nil {
		return nil, err
	}
	timeouts, err := trackingOf(in.ConnectionTrackingSpecification)
	if err != nil {
		return nil, err
	}
	switch {
	case in.SubnetId == "":
		return nil, cloud.Errorf("MissingParameter", "The request must contain the parameter SubnetId")
	case in.InterfaceType != "" && in.InterfaceType != "interface":
		return nil, cloud.Errorf("UnsupportedOperation", "InterfaceType: interfaces of type %.40s are not there yet: leave the parameter out", in.InterfaceType)
	case yes(in.EnablePrimaryIpv6):
		return nil, cloud.Errorf("UnsupportedOperation", "EnablePrimaryIpv6: primary IPv6 addresses are not there yet: leave the parameter out")
	case len([]rune(in.Description)) > 255:
		return nil, cloud.Errorf("InvalidParameterValue", "Description may have 255 characters")
	}
	wanted := addressing{in.PrivateIpAddress, in.PrivateIpAddresses, in.SecondaryPrivateIpAddressCount, in.Ipv4Prefixes, in.Ipv4PrefixCount,
		sixAddressing{in.Ipv6Addresses, in.Ipv6AddressCount, in.Ipv6Prefixes, in.Ipv6PrefixCount}}
	var id cloud.InterfaceID
	err = s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		id = newID[cloud.InterfaceID](s, "eni")
		made, err := s.once(ctx, t, "CreateNetworkInterface", in, string(id))
		if made != "" || err != nil {
			id = cloud.InterfaceID(made)
			return err
		}
		who := caller(ctx)
		subnet, err := find(snap, store.Subnets, cloud.SubnetID(in.SubnetId), who, aSubnet)
		if err != nil {
			return err
		}
		store.Require(t, store.Subnets, subnet.Value.ID, subnet.Rev)
		groups, err := s.groupsIn(snap, t, who, subnet.Value.VPC, in.Groups, nil)
		if err != nil {
			return err
		}
		space, err := s.space(snap, subnet.Value)
		if err != nil {
			return err
		}
		n, err := s.newInterface(id, subnet.Value, groups, wanted, space)
		if err != nil {
			return err
		}
		limit, err := s.addressLimit(snap, n)
		if err == nil {
			err = n.Fits(limit)
		}
		if err != nil {
			return err
		}
		n.Description, n.Tracking, n.Tags = in.Description, timeouts, given["network-interface"]
		store.Create(t, store.Interfaces, n.ID, n)
		ledger.Take(t, n.Subnet, n.ID, ledger.All(n))
		return nil
	})
	if err != nil || yes(in.DryRun) {
		return nil, err
	}
	snap := s.Mirror.Snapshot()
	o, err := find(snap, store.Interfaces, id, caller(ctx), anInterface)
	if err != nil {
		return nil, err
	}
	return &shape.CreateNetworkInterfaceOutput{ClientToken: in.ClientToken, NetworkInterface: ptr(s.look(snap).networkInterface(o.Value))}, nil
}

// newInterface returns a new interface of the subnet with addresses from its space.
func (s *Service) newInterface(id cloud.InterfaceID, subnet cloud.Subnet, groups []cloud.GroupID, wanted addressing, space *ipam.Space) (cloud.NetworkInterface, error) {
	n := cloud.NetworkInterface{
		ID: id, Account: subnet.Account, VPC: subnet.VPC, Subnet: subnet.ID, Zone: subnet.Zone,
		MAC: ipam.MAC(id), SourceDestCheck: true, AssignPublic: subnet.MapPublicAddress,
	}
	ask, err := wanted.ask(subnet)
	if err != nil {
		return n, err
	}
	got, err := space.Serve(ask)
	if err != nil {
		return n, err
	}
	n.Addresses, n.IPv6, n.Prefixes = got.Addresses, got.IPv6, got.Prefixes
	return n.InGroups(groups)
}

// DeleteNetworkInterface deletes an interface that no instance has, and gives its addresses back.
func (s *Service) DeleteNetworkInterface(ctx context.Context, in *shape.DeleteNetworkInterfaceInput) (*shape.DeleteNetworkInterfaceOutput, error) {
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.Interfaces, cloud.InterfaceID(in.NetworkInterfaceId), caller(ctx), anInterface)
		if err != nil {
			return err
		}
		if err := o.Value.Deletable(); err != nil {
			return err
		}
		store.Delete(t, store.Interfaces, o)
		ledger.Give(t, o.Value.Subnet, ledger.All(o.Value), s.Now())
		return ledger.Part(t, snap, o.Value.ID, s.Now(), nil)
	})
	return &shape.DeleteNetworkInterfaceOutput{}, err
}

// trackingOf reads the idle timeouts of tracked connections.
func trackingOf(in *shape.ConnectionTrackingSpecificationRequest) (cloud.Tracking, error) {
	var out cloud.Tracking
	if in == nil {
		return out, nil
	}
	for _, f := range []struct {
		from *int64
		into *int
	}{{in.TcpEstablishedTimeout, &out.TCPEstablished}, {in.UdpStreamTimeout, &out.UDPStream}, {in.UdpTimeout, &out.UDP}} {
		if f.from != nil {
			if *f.into = int(*f.from); *f.into == 0 {
				*f.into = -1 // 0 is nobody's wish, and no timeout
			}
		}
	}
	return out, out.Validate()
}
