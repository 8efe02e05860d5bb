package ec2

import (
	"context"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// anAttachment is how EC2 speaks of attachments.
var anAttachment = noun{"attachment", "InvalidAttachmentID", []string{"eni-attach"}}

// AttachNetworkInterface wishes that an instance, running or stopped, has a further interface. Its host plugs it in.
func (s *Service) AttachNetworkInterface(ctx context.Context, in *shape.AttachNetworkInterfaceInput) (*shape.AttachNetworkInterfaceOutput, error) {
	switch {
	case in.DeviceIndex == nil:
		return nil, cloud.Errorf("MissingParameter", "The request must contain the parameter DeviceIndex")
	case *in.DeviceIndex < 0 || *in.DeviceIndex > 255:
		return nil, cloud.Errorf("InvalidParameterValue", "DeviceIndex is 0 to 255, not %d", *in.DeviceIndex)
	case in.NetworkCardIndex != nil && *in.NetworkCardIndex != 0:
		return nil, cloud.Errorf("InvalidParameterValue", "NetworkCardIndex %d: instances here have one network card, 0", *in.NetworkCardIndex)
	case in.EnaSrdSpecification != nil:
		return nil, cloud.Errorf("UnsupportedOperation", "EnaSrdSpecification: ENA Express is not there: leave the parameter out")
	}
	at := cloud.Attachment{ID: newID[cloud.AttachmentID](s, "eni-attach"), DeviceIndex: int(*in.DeviceIndex), Time: s.attachTime()}
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		n, err := find(snap, store.Interfaces, cloud.InterfaceID(in.NetworkInterfaceId), caller(ctx), anInterface)
		if err != nil {
			return err
		}
		i, err := find(snap, store.Instances, cloud.InstanceID(in.InstanceId), caller(ctx), anInstance)
		if err != nil {
			return err
		}
		typ, err := cloud.TypeNamed(s.Types, i.Value.Type)
		if err != nil {
			return err
		}
		nextN, nextI, err := n.Value.Attach(i.Value, status(snap, i.Value), typ, interfacesOf(snap, i.Value), at)
		if err != nil {
			return err
		}
		store.Update(t, store.Interfaces, n, nextN)
		store.Update(t, store.Instances, i, nextI)
		return nil
	})
	return &shape.AttachNetworkInterfaceOutput{AttachmentId: string(at.ID), NetworkCardIndex: number(0)}, err
}

// interfacesOf returns the interfaces of an instance, in its order.
func interfacesOf(snap *store.Snapshot, i cloud.Instance) []cloud.NetworkInterface {
	var out []cloud.NetworkInterface
	for _, id := range i.Interfaces {
		if o, err := store.MirroredGet(snap, store.Interfaces, id); err == nil {
			out = append(out, o.Value)
		}
	}
	return out
}

// attachedBy finds the interface of an attachment.
func attachedBy(snap *store.Snapshot, id cloud.AttachmentID, who cloud.AccountID) (store.Object[cloud.NetworkInterface], error) {
	var none store.Object[cloud.NetworkInterface]
	if !cloud.WellFormed(id, anAttachment.prefixes...) {
		return none, cloud.Malformed(anAttachment.code+".Malformed", id)
	}
	all, err := store.Mirrored(snap, store.Interfaces)
	if err != nil {
		return none, err
	}
	for _, o := range all {
		if o.Value.Attachment == id && o.Value.Account == who {
			return o, nil
		}
	}
	return none, cloud.NotFound(anAttachment.code+".NotFound", anAttachment.name, id)
}

// DetachNetworkInterface wishes that an instance does not have an interface any more. Its host unplugs it, and then the
// planner sets it free.
func (s *Service) DetachNetworkInterface(ctx context.Context, in *shape.DetachNetworkInterfaceInput) (*shape.DetachNetworkInterfaceOutput, error) {
	how := cloud.DetachAsked
	if yes(in.Force) {
		how = cloud.DetachForce
	}
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		n, err := attachedBy(snap, cloud.AttachmentID(in.AttachmentId), caller(ctx))
		if err != nil {
			return err
		}
		i, err := store.MirroredGet(snap, store.Instances, n.Value.Instance)
		if err != nil {
			return err
		}
		nextN, nextI, err := n.Value.AskDetach(i.Value, how)
		if err != nil || nextN.Detach == n.Value.Detach {
			return err
		}
		store.Update(t, store.Interfaces, n, nextN)
		store.Update(t, store.Instances, i, nextI)
		return nil
	})
	return &shape.DetachNetworkInterfaceOutput{}, err
}

// detached returns the resources of a request to detach: the interface and the instance of the attachment.
func (s *Service) detached(in *shape.DetachNetworkInterfaceInput) []string {
	all, err := store.Mirrored(s.Mirror.Snapshot(), store.Interfaces)
	if err == nil && in.AttachmentId != "" {
		for _, o := range all {
			if string(o.Value.Attachment) == in.AttachmentId {
				return []string{"network-interface/" + o.ID, "instance/" + string(o.Value.Instance)}
			}
		}
	}
	return []string{"network-interface/*", "instance/*"}
}
