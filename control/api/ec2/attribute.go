package ec2

import (
	"context"
	"encoding/base64"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// DescribeInstanceAttribute returns one attribute of an instance.
func (s *Service) DescribeInstanceAttribute(ctx context.Context, in *shape.DescribeInstanceAttributeInput) (*shape.DescribeInstanceAttributeOutput, error) {
	snap := s.Mirror.Snapshot()
	o, err := find(snap, store.Instances, cloud.InstanceID(in.InstanceId), caller(ctx), anInstance)
	if err != nil {
		return nil, err
	}
	i := o.Value
	out := &shape.DescribeInstanceAttributeOutput{InstanceId: in.InstanceId}
	text := func(v string) *shape.AttributeValue { return &shape.AttributeValue{Value: v} }
	flag := func(v bool) *shape.AttributeBooleanValue { return &shape.AttributeBooleanValue{Value: &v} }
	switch in.Attribute {
	case "instanceType":
		out.InstanceType = text(i.Type)
	case "kernel":
		out.KernelId = text(string(i.Kernel))
	case "ramdisk":
		out.RamdiskId = text(string(i.Ramdisk))
	case "userData":
		out.UserData = &shape.AttributeValue{}
		if data, err := store.MirroredGet(snap, store.UserData, i.ID); err == nil {
			out.UserData.Value = base64.StdEncoding.EncodeToString(data.Value)
		}
	case "disableApiTermination":
		out.DisableApiTermination = flag(i.Protected)
	case "disableApiStop":
		out.DisableApiStop = flag(i.StopProtected)
	case "instanceInitiatedShutdownBehavior":
		out.InstanceInitiatedShutdownBehavior = text(i.ShutdownBehavior)
	case "rootDeviceName":
		out.RootDeviceName = text(i.RootDeviceName)
	case "ebsOptimized":
		out.EbsOptimized = flag(false)
	case "enaSupport":
		out.EnaSupport = flag(false)
	case "enclaveOptions":
		out.EnclaveOptions = &shape.EnclaveOptions{Enabled: ptr(false)}
	case "sriovNetSupport", "productCodes", "blockDeviceMapping":
		// none of these is ever set: EC2 answers with the empty attribute
	case "groupSet", "sourceDestCheck":
		w := s.look(snap).instance(i)
		if in.Attribute == "groupSet" {
			out.Groups = w.SecurityGroups
		} else {
			out.SourceDestCheck = &shape.AttributeBooleanValue{Value: w.SourceDestCheck}
		}
	default:
		return nil, cloud.Errorf("InvalidParameterValue", "Value (%.40s) for parameter attribute is invalid. Unknown attribute.", in.Attribute)
	}
	return out, nil
}

// ModifyInstanceAttribute changes one attribute. What describes the machine can change only while it is
// stopped.
func (s *Service) ModifyInstanceAttribute(ctx context.Context, in *shape.ModifyInstanceAttributeInput) (*shape.ModifyInstanceAttributeOutput, error) {
	if in.Attribute != "" {
		if err := named(in); err != nil {
			return nil, err
		}
	}
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.Instances, cloud.InstanceID(in.InstanceId), caller(ctx), anInstance)
		if err != nil {
			return err
		}
		i, set := o.Value, 0
		stopped := func(what string) error {
			if st := i.State(status(snap, i)); st != cloud.StateStopped {
				return cloud.Errorf("IncorrectInstanceState", "The instance '%s' is %s: stop it before you change its %s", i.ID, st, what)
			}
			return nil
		}
		if v := in.DisableApiTermination; v != nil {
			i.Protected, set = yes(v.Value), set+1
		}
		if v := in.DisableApiStop; v != nil {
			i.StopProtected, set = yes(v.Value), set+1
		}
		if v := in.InstanceInitiatedShutdownBehavior; v != nil {
			if v.Value != "stop" && v.Value != "terminate" {
				return cloud.Errorf("InvalidParameterValue", "InstanceInitiatedShutdownBehavior is stop or terminate, not %.40q", v.Value)
			}
			i.ShutdownBehavior, set = v.Value, set+1
		}
		if v := in.InstanceType; v != nil {
			if err := stopped("instance type"); err != nil {
				return err
			}
			typ, err := cloud.TypeNamed(s.Types, v.Value)
			if err != nil {
				return err
			}
			if !typ.Supports(i.Virtualization) {
				return cloud.Errorf("InvalidParameterCombination", "Instance type %s does not support virtualization type '%s'", typ.Name, i.Virtualization)
			}
			if err := roomy(snap, i, typ); err != nil {
				return err
			}
			i.Type, set = typ.Name, set+1
			if i.Host != "" { // the next start looks for a host that has room for it
				store.Remove(t, store.Assignments(i.Host), i.ID)
				store.Remove(t, store.Credentials(i.Host), i.ID)
				i.Host = ""
			}
		}
		if v := in.UserData; v != nil {
			if err := stopped("user data"); err != nil {
				return err
			}
			if len(v.Value) > userDataLimit {
				return cloud.Errorf("InvalidParameterValue", "User data is limited to %d bytes, and this has %d", userDataLimit, len(v.Value))
			}
			i.HasUserData, set = len(v.Value) > 0, set+1
			if i.HasUserData {
				store.Put(t, store.UserData, i.ID, v.Value)
			} else {
				store.Remove(t, store.UserData, i.ID)
			}
		}
		if len(in.Groups) > 0 || in.SourceDestCheck != nil {
			set++
		}
		if len(in.Groups) > 0 && in.SourceDestCheck != nil {
			set++
		}
		switch {
		case in.Kernel != nil, in.Ramdisk != nil, in.EbsOptimized != nil, in.EnaSupport != nil, in.SriovNetSupport != nil, len(in.BlockDeviceMappings) > 0:
			return cloud.Errorf("UnsupportedOperation", "Changing kernel, ramdisk, or devices is not there yet")
		case set != 1:
			return cloud.Errorf("InvalidParameterCombination", "Name exactly one attribute to change; this names %d", set)
		case len(in.Groups) > 0, in.SourceDestCheck != nil:
			return s.modifyPrimary(snap, t, i, in)
		}
		i.Generation++
		store.Update(t, store.Instances, o, i)
		return nil
	})
	return &shape.ModifyInstanceAttributeOutput{}, err
}

// modifyPrimary changes what EC2 shows as an instance's and is its only interface's.
func (s *Service) modifyPrimary(snap *store.Snapshot, t *store.Txn, i cloud.Instance, in *shape.ModifyInstanceAttributeInput) error {
	switch len(i.Interfaces) {
	case 0:
		return cloud.Errorf("IncorrectInstanceState", "The instance '%s' has no network interface any more", i.ID)
	case 1:
	default:
		return cloud.Errorf("InvalidInstanceID", "There are multiple interfaces attached to instance '%s'. Please specify an interface ID for the operation instead.", i.ID)
	}
	o, err := store.MirroredGet(snap, store.Interfaces, i.Interfaces[0])
	if err != nil {
		return err
	}
	n := o.Value
	if in.SourceDestCheck != nil {
		n.SourceDestCheck = yes(in.SourceDestCheck.Value)
		n.Generation++
	} else if n, err = s.regroup(snap, t, n, in.Groups); err != nil {
		return err
	}
	store.Update(t, store.Interfaces, o, n)
	return nil
}

// roomy refuses a type that may not have the instance's interfaces or their addresses.
func roomy(snap *store.Snapshot, i cloud.Instance, t cloud.InstanceType) error {
	if len(i.Interfaces) > t.Interfaces {
		return cloud.TooManyInterfaces(t, len(i.Interfaces))
	}
	for _, n := range interfacesOf(snap, i) {
		if err := n.Fits(t); err != nil {
			return err
		}
	}
	return nil
}

// named turns the older form, Attribute and Value, into the newer one.
func named(in *shape.ModifyInstanceAttributeInput) error {
	flag := &shape.AttributeBooleanValue{Value: ptr(in.Value == "true")}
	text := &shape.AttributeValue{Value: in.Value}
	switch in.Attribute {
	case "disableApiTermination":
		in.DisableApiTermination = flag
	case "disableApiStop":
		in.DisableApiStop = flag
	case "sourceDestCheck":
		in.SourceDestCheck = flag
	case "instanceType":
		in.InstanceType = text
	case "instanceInitiatedShutdownBehavior":
		in.InstanceInitiatedShutdownBehavior = text
	case "userData":
		raw, err := decodeUserData(in.Value)
		if err != nil {
			return err
		}
		in.UserData = &shape.BlobAttributeValue{Value: raw}
	default:
		return cloud.Errorf("InvalidParameterValue", "Value (%.40s) for parameter attribute is invalid, or it cannot be changed yet", in.Attribute)
	}
	return nil
}
