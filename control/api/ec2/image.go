package ec2

import (
	"context"
	"errors"
	"slices"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/cluster"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// RegisterImage registers a kernel or ramdisk that is in the image pool (ImageLocation), or a paravirtual
// machine image that boots with registered ones (KernelId, RamdiskId).
func (s *Service) RegisterImage(ctx context.Context, in *shape.RegisterImageInput) (*shape.RegisterImageOutput, error) {
	if err := cloud.ValidateImageName(in.Name); err != nil {
		return nil, err
	}
	tags, err := specifiedTags(in.TagSpecifications, "image")
	if err != nil {
		return nil, err
	}
	who := caller(ctx)
	i := cloud.Image{
		Account: who, Name: in.Name, Description: in.Description, Architecture: "x86_64", Virtualization: "paravirtual",
		RootDeviceName: in.RootDeviceName, RootDeviceType: "ebs", Created: s.Now().UTC(), Tags: tags["image"], Kind: cloud.ImageMachine,
		IMDSSupport: in.ImdsSupport,
	}
	switch {
	case in.ImdsSupport != "" && in.ImdsSupport != "v2.0":
		return nil, cloud.Errorf("InvalidParameterValue", "ImdsSupport is v2.0, not %.40q: leave it out for an image that needs no tokens", in.ImdsSupport)
	case in.Architecture != "" && in.Architecture != "x86_64":
		return nil, cloud.Errorf("InvalidParameterValue", "Architecture %.40q: only x86_64 is there", in.Architecture)
	case in.VirtualizationType == "hvm":
		return nil, cloud.Errorf("UnsupportedOperation", "VirtualizationType hvm is not there yet: register a paravirtual image with KernelId and RamdiskId")
	case len(in.BlockDeviceMappings) > 0:
		return nil, cloud.Errorf("UnsupportedOperation", "BlockDeviceMapping: volumes are not there yet")
	case in.ImageLocation != "":
		if i.Kind, err = cloud.KindOfLocation(in.ImageLocation); err != nil {
			return nil, err
		}
		i.Location = in.ImageLocation
	case in.KernelId == "" || in.RamdiskId == "":
		return nil, cloud.Errorf("MissingParameter", "A paravirtual image needs KernelId and RamdiskId; a kernel or ramdisk needs ImageLocation")
	default:
		i.Kernel, i.Ramdisk, i.CommandLine = cloud.ImageID(in.KernelId), cloud.ImageID(in.RamdiskId), cloud.DefaultCommandLine
	}
	i.ID = newID[cloud.ImageID](s, i.Kind.Prefix())
	err = s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		names := cluster.ImageNames(who)
		if had, err := store.Get(ctx, s.Store, names, i.Name); err == nil {
			return cloud.Errorf("InvalidAMIName.Duplicate", "AMI name %s is already in use by AMI %s", i.Name, had.Value)
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		for _, p := range []struct {
			id   cloud.ImageID
			kind cloud.ImageKind
		}{{i.Kernel, cloud.ImageKernel}, {i.Ramdisk, cloud.ImageRamdisk}} {
			if p.id == "" {
				continue
			}
			o, err := find(snap, store.Images, p.id, who, anImage)
			if err != nil {
				return err
			}
			if o.Value.Kind != p.kind {
				return cloud.Errorf("InvalidParameterValue", "%s is not a %s", p.id, p.kind)
			}
			store.Update(t, store.Images, o, o.Value) // so that nobody deregisters it at the same moment
		}
		store.Create(t, names, i.Name, i.ID)
		store.Create(t, store.Images, i.ID, i)
		return nil
	})
	return &shape.RegisterImageOutput{ImageId: string(i.ID)}, err
}

// DeregisterImage removes an image. Instances that were launched from it go on, and can be started again;
// a kernel or ramdisk that a machine image names cannot be removed.
func (s *Service) DeregisterImage(ctx context.Context, in *shape.DeregisterImageInput) (*shape.DeregisterImageOutput, error) {
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.Images, cloud.ImageID(in.ImageId), caller(ctx), anImage)
		if err != nil {
			return err
		}
		all, err := store.Mirrored(snap, store.Images)
		if err != nil {
			return err
		}
		for _, u := range all {
			if u.Value.Kernel == o.Value.ID || u.Value.Ramdisk == o.Value.ID {
				return cloud.Errorf("DependencyViolation", "%s is used by image %s: deregister that first", o.Value.ID, u.Value.ID)
			}
		}
		store.Delete(t, store.Images, o)
		names := cluster.ImageNames(o.Value.Account)
		switch held, err := store.Get(ctx, s.Store, names, o.Value.Name); {
		case err == nil && held.Value == o.Value.ID: // kernels and ramdisks of the pool hold no name
			store.Delete(t, names, held)
		case err != nil && !errors.Is(err, store.ErrNotFound):
			return err
		}
		return nil
	})
	return &shape.DeregisterImageOutput{}, err
}

var imageFields = fields[shape.Image]{
	"image-id":            func(i shape.Image) []string { return one(i.ImageId) },
	"name":                func(i shape.Image) []string { return one(i.Name) },
	"description":         func(i shape.Image) []string { return one(i.Description) },
	"state":               func(i shape.Image) []string { return one(i.State) },
	"architecture":        func(i shape.Image) []string { return one(i.Architecture) },
	"virtualization-type": func(i shape.Image) []string { return one(i.VirtualizationType) },
	"image-type":          func(i shape.Image) []string { return one(i.ImageType) },
	"kernel-id":           func(i shape.Image) []string { return one(i.KernelId) },
	"ramdisk-id":          func(i shape.Image) []string { return one(i.RamdiskId) },
	"owner-id":            func(i shape.Image) []string { return one(i.OwnerId) },
	"owner-alias":         func(i shape.Image) []string { return one(i.ImageOwnerAlias) },
	"is-public":           func(i shape.Image) []string { return truth(i.Public) },
	"root-device-type":    func(i shape.Image) []string { return one(i.RootDeviceType) },
	"root-device-name":    func(i shape.Image) []string { return one(i.RootDeviceName) },
	"hypervisor":          func(i shape.Image) []string { return one(i.Hypervisor) },
	"manifest-location":   func(i shape.Image) []string { return one(i.ImageLocation) },
	"creation-date":       func(i shape.Image) []string { return one(i.CreationDate) },
	"platform":            func(i shape.Image) []string { return one(i.Platform) },
}

// DescribeImages shows the account's images, kernels and ramdisks.
func (s *Service) DescribeImages(ctx context.Context, in *shape.DescribeImagesInput) (*shape.DescribeImagesOutput, error) {
	who := caller(ctx)
	q := query[shape.Image]{in: in, filters: in.Filters, fields: imageFields, id: func(i shape.Image) string { return i.ImageId },
		tags: func(i shape.Image) []shape.Tag { return i.Tags }}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]shape.Image, error) {
		var list []cloud.Image
		for _, id := range in.ImageIds {
			o, err := find(snap, store.Images, cloud.ImageID(id), who, anImage)
			if err != nil {
				return nil, err
			}
			list = append(list, o.Value)
		}
		if len(in.ImageIds) == 0 {
			all, err := store.Mirrored(snap, store.Images)
			if err != nil {
				return nil, err
			}
			for _, o := range all {
				list = append(list, o.Value)
			}
		}
		var out []shape.Image
		for _, i := range list {
			mine := i.Account == who
			owned := len(in.Owners) == 0 || mine && slices.Contains(in.Owners, "self") || slices.Contains(in.Owners, string(i.Account))
			executable := len(in.ExecutableUsers) == 0 || mine && slices.Contains(in.ExecutableUsers, "self") || i.Public && slices.Contains(in.ExecutableUsers, "all")
			if (mine || i.Public) && owned && executable {
				out = append(out, s.image(i))
			}
		}
		return out, nil
	})
	return &shape.DescribeImagesOutput{Images: page, NextToken: next}, err
}

func (s *Service) image(i cloud.Image) shape.Image {
	location := i.Location
	if location == "" {
		location = string(i.Account) + "/" + i.Name
	}
	return shape.Image{
		ImageId: string(i.ID), Name: i.Name, Description: i.Description, ImageLocation: location, ImageType: string(i.Kind),
		Architecture: i.Architecture, VirtualizationType: i.Virtualization, KernelId: string(i.Kernel), RamdiskId: string(i.Ramdisk),
		RootDeviceName: i.RootDeviceName, RootDeviceType: i.RootDeviceType, State: "available", OwnerId: string(i.Account),
		Public: ptr(i.Public), CreationDate: i.Created.UTC().Format("2006-01-02T15:04:05.000Z"), Hypervisor: "xen", EnaSupport: ptr(false),
		PlatformDetails: "Linux/UNIX", UsageOperation: "RunInstances", Tags: tags(i.Tags), ImdsSupport: i.IMDSSupport,
	}
}
