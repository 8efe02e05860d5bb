package ec2

import (
	"context"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// DescribeNetworkInterfaceAttribute shows one attribute of an interface.
func (s *Service) DescribeNetworkInterfaceAttribute(ctx context.Context, in *shape.DescribeNetworkInterfaceAttributeInput) (*shape.DescribeNetworkInterfaceAttributeOutput, error) {
	snap := s.Mirror.Snapshot()
	o, err := find(snap, store.Interfaces, cloud.InterfaceID(in.NetworkInterfaceId), caller(ctx), anInterface)
	if err != nil {
		return nil, err
	}
	n := s.look(snap).networkInterface(o.Value)
	out := &shape.DescribeNetworkInterfaceAttributeOutput{NetworkInterfaceId: in.NetworkInterfaceId}
	switch in.Attribute {
	case "description":
		out.Description = &shape.AttributeValue{Value: n.Description}
	case "groupSet":
		out.Groups = n.Groups
	case "sourceDestCheck":
		out.SourceDestCheck = &shape.AttributeBooleanValue{Value: n.SourceDestCheck}
	case "attachment":
		out.Attachment = n.Attachment
	case "associatePublicIpAddress":
		out.AssociatePublicIpAddress = ptr(o.Value.AssignPublic)
	case "":
		return nil, cloud.Errorf("MissingParameter", "The request must contain the parameter Attribute")
	default:
		return nil, cloud.Errorf("InvalidParameterValue", "Value (%.40s) for parameter attribute is invalid. Unknown attribute.", in.Attribute)
	}
	return out, nil
}

// ModifyNetworkInterfaceAttribute changes one attribute of an interface.
func (s *Service) ModifyNetworkInterfaceAttribute(ctx context.Context, in *shape.ModifyNetworkInterfaceAttributeInput) (*shape.ModifyNetworkInterfaceAttributeOutput, error) {
	given := 0
	for _, is := range []bool{in.Description != nil, in.SourceDestCheck != nil, len(in.Groups) > 0, in.Attachment != nil,
		in.ConnectionTrackingSpecification != nil, in.AssociatePublicIpAddress != nil, in.EnablePrimaryIpv6 != nil, in.EnaSrdSpecification != nil} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return nil, cloud.Errorf("InvalidParameterCombination", "Name exactly one attribute to change; this names %d", given)
	case in.EnablePrimaryIpv6 != nil:
		return nil, cloud.Errorf("UnsupportedOperation", "EnablePrimaryIpv6: primary IPv6 addresses are not there yet")
	case in.EnaSrdSpecification != nil:
		return nil, cloud.Errorf("UnsupportedOperation", "EnaSrdSpecification: ENA Express is not there")
	}
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := s.ownInterface(ctx, snap, in.NetworkInterfaceId)
		if err != nil {
			return err
		}
		n := o.Value
		n.Generation++
		switch {
		case in.Description != nil:
			if len([]rune(in.Description.Value)) > 255 {
				return cloud.Errorf("InvalidParameterValue", "Description may have 255 characters")
			}
			n.Description = in.Description.Value
		case in.SourceDestCheck != nil:
			n.SourceDestCheck = yes(in.SourceDestCheck.Value)
		case in.AssociatePublicIpAddress != nil:
			n.AssignPublic = *in.AssociatePublicIpAddress
		case len(in.Groups) > 0:
			n, err = s.regroup(snap, t, n, in.Groups)
		case in.Attachment != nil:
			n, err = keepOrDelete(n, in.Attachment)
		default:
			n.Tracking, err = retrack(n.Tracking, in.ConnectionTrackingSpecification)
		}
		if err != nil {
			return err
		}
		store.Update(t, store.Interfaces, o, n)
		return nil
	})
	return &shape.ModifyNetworkInterfaceAttributeOutput{}, err
}

// regroup returns the interface in other groups of its VPC.
func (s *Service) regroup(snap *store.Snapshot, t *store.Txn, n cloud.NetworkInterface, ids []string) (cloud.NetworkInterface, error) {
	groups, err := s.groupsIn(snap, t, n.Account, n.VPC, ids, nil)
	if err != nil {
		return n, err
	}
	return n.InGroups(groups)
}

// keepOrDelete returns the interface with what shall become of it when its instance is terminated.
func keepOrDelete(n cloud.NetworkInterface, in *shape.NetworkInterfaceAttachmentChanges) (cloud.NetworkInterface, error) {
	id := cloud.AttachmentID(in.AttachmentId)
	switch {
	case in.AttachmentId == "" || in.DeleteOnTermination == nil:
		return n, cloud.Errorf("MissingParameter", "Attachment must contain AttachmentId and DeleteOnTermination")
	case !cloud.WellFormed(id, anAttachment.prefixes...):
		return n, cloud.Malformed(anAttachment.code+".Malformed", id)
	case n.Attachment != id:
		return n, cloud.NotFound(anAttachment.code+".NotFound", anAttachment.name, id)
	}
	n.DeleteOnTermination = *in.DeleteOnTermination
	return n, nil
}

// retrack returns the timeouts with those changed that are given.
func retrack(had cloud.Tracking, in *shape.ConnectionTrackingSpecificationRequest) (cloud.Tracking, error) {
	next, err := trackingOf(in)
	if err != nil {
		return had, err
	}
	if in.TcpEstablishedTimeout != nil {
		had.TCPEstablished = next.TCPEstablished
	}
	if in.UdpStreamTimeout != nil {
		had.UDPStream = next.UDPStream
	}
	if in.UdpTimeout != nil {
		had.UDP = next.UDP
	}
	return had, nil
}

// ResetNetworkInterfaceAttribute sets the source/destination check to its default: on.
func (s *Service) ResetNetworkInterfaceAttribute(ctx context.Context, in *shape.ResetNetworkInterfaceAttributeInput) (*shape.ResetNetworkInterfaceAttributeOutput, error) {
	if in.SourceDestCheck == "" {
		return nil, cloud.Errorf("MissingParameter", "The request must contain the parameter SourceDestCheck: nothing else can be reset")
	}
	_, err := s.ModifyNetworkInterfaceAttribute(ctx, &shape.ModifyNetworkInterfaceAttributeInput{
		NetworkInterfaceId: in.NetworkInterfaceId, DryRun: in.DryRun, SourceDestCheck: &shape.AttributeBooleanValue{Value: ptr(true)},
	})
	return &shape.ResetNetworkInterfaceAttributeOutput{}, err
}
