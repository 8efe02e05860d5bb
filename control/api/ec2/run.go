package ec2

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"time"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/placement"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// userDataLimit is EC2's, of the raw bytes before base64.
const userDataLimit = 16 << 10

// tokenLife is how long a ClientToken is remembered; EC2 promises at least 24 hours.
const tokenLife = 48 * time.Hour

// launchLimit bounds one call; each instance takes some seven keys of a transaction, which etcd bounds.
const launchLimit = 100

// launch is a RunInstances request, checked.
type launch struct {
	in       *shape.RunInstancesInput
	account  cloud.AccountID
	min, max int
	typ      cloud.InstanceType
	userData []byte
	tags     map[string]cloud.Tags
	profile  *cloud.ProfileRef
	nics     []nic
	digest   string // of the request, for the ClientToken
}

// remembered is what a ClientToken stands for.
type remembered struct {
	Digest      string
	Reservation cloud.ReservationID
}

// RunInstances stores the wish for new instances with their network interfaces and addresses, all in one
// transaction, and answers before any host knows of it.
func (s *Service) RunInstances(ctx context.Context, in *shape.RunInstancesInput) (*shape.RunInstancesOutput, error) {
	l, err := s.checkLaunch(ctx, in)
	if err != nil {
		return nil, err
	}
	tokens := store.NewKind[remembered](store.TokenPrefix(l.account, "RunInstances"))
	var reservation cloud.ReservationID
	err = s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		reservation = newID[cloud.ReservationID](s, "r")
		if in.ClientToken != "" {
			had, err := store.Get(ctx, s.Store, tokens, in.ClientToken)
			switch {
			case err == nil && had.Value.Digest != l.digest:
				return cloud.Errorf("IdempotentParameterMismatch", "The client token %s was used for a request with other parameters: use another token", in.ClientToken)
			case err == nil:
				reservation = had.Value.Reservation
				return s.Mirror.WaitRev(ctx, had.Rev) // another control process may have answered the first time
			case !errors.Is(err, store.ErrNotFound):
				return err
			}
			store.CreateWithTTL(t, tokens, in.ClientToken, remembered{l.digest, reservation}, tokenLife)
		}
		return s.wish(snap, t, l, reservation)
	})
	if err != nil || yes(in.DryRun) {
		return nil, err
	}
	w := s.look(s.Mirror.Snapshot())
	all, err := w.reservations(l.account)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.ReservationId == string(reservation) {
			return &shape.RunInstancesOutput{Groups: r.Groups, Instances: r.Instances, OwnerId: r.OwnerId, ReservationId: r.ReservationId}, nil
		}
	}
	return nil, cloud.Errorf("InvalidReservationID.NotFound", "The instances of client token %s are gone: use another token", in.ClientToken)
}

// checkLaunch applies the rules that need nothing but the request.
func (s *Service) checkLaunch(ctx context.Context, in *shape.RunInstancesInput) (*launch, error) {
	l := &launch{in: in, account: caller(ctx)}
	if in.MinCount == nil || in.MaxCount == nil {
		return nil, cloud.Errorf("MissingParameter", "The request must contain the parameters MinCount and MaxCount")
	}
	if *in.MinCount < 1 || *in.MaxCount < *in.MinCount {
		return nil, cloud.Errorf("InvalidParameterValue", "MinCount %d and MaxCount %d: want 1 <= MinCount <= MaxCount", *in.MinCount, *in.MaxCount)
	}
	if *in.MaxCount > launchLimit {
		return nil, cloud.Errorf("InstanceLimitExceeded", "MaxCount is %d and one request may launch %d instances: ask several times", *in.MaxCount, launchLimit)
	}
	l.min, l.max = int(*in.MinCount), int(*in.MaxCount)
	name := in.InstanceType
	if name == "" {
		name = "t2.micro"
	}
	var err error
	if l.typ, err = cloud.TypeNamed(s.Types, name); err != nil {
		return nil, err
	}
	if in.ImageId == "" {
		return nil, cloud.Errorf("MissingParameter", "The request must contain the parameter ImageId")
	}
	if l.userData, err = decodeUserData(in.UserData); err != nil {
		return nil, err
	}
	if l.tags, err = specifiedTags(in.TagSpecifications, "instance", "network-interface"); err != nil {
		return nil, err
	}
	if in.IamInstanceProfile != nil {
		ref, err := s.specifiedProfile(ctx, in.IamInstanceProfile)
		if err != nil {
			return nil, err
		}
		l.profile = &ref
	}
	if err := errors.Join(unbuilt(in), creditSpecified(in.CreditSpecification, l.typ)); err != nil {
		return nil, err
	}
	if l.nics, err = nics(in, l.typ, l.max); err != nil {
		return nil, err
	}
	if len(in.ClientToken) > 64 {
		return nil, cloud.Errorf("InvalidParameterValue", "ClientToken may have 64 characters")
	}
	plain := *in
	plain.ClientToken, plain.DryRun = "", nil
	data, err := json.Marshal(plain)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	l.digest = hex.EncodeToString(sum[:])
	return l, nil
}

// unbuilt refuses what the request asks for and ichiro does not have yet: accepting it and doing something
// else would be worse.
func unbuilt(in *shape.RunInstancesInput) error {
	var place shape.Placement
	if in.Placement != nil {
		place = *in.Placement
	}
	var names shape.PrivateDnsNameOptionsRequest
	if in.PrivateDnsNameOptions != nil {
		names = *in.PrivateDnsNameOptions
	}
	for _, c := range []struct {
		asked bool
		what  string
	}{
		{len(in.BlockDeviceMappings) > 0, "BlockDeviceMapping: volumes"},
		{in.LaunchTemplate != nil, "LaunchTemplate: launch templates"},
		{in.InstanceMarketOptions != nil, "InstanceMarketOptions: spot instances"},
		{in.HibernationOptions != nil && yes(in.HibernationOptions.Configured), "HibernationOptions: hibernation"},
		{in.EnclaveOptions != nil && yes(in.EnclaveOptions.Enabled), "EnclaveOptions: enclaves"},
		{place.GroupName+place.GroupId != "", "Placement.GroupName: placement groups"},
		{place.Tenancy != "" && place.Tenancy != "default", "Placement.Tenancy: dedicated tenancy"},
		{in.CpuOptions != nil, "CpuOptions: the number of cores is the type's, options for it"},
		{len(in.ElasticGpuSpecification) > 0 || len(in.ElasticInferenceAccelerators) > 0, "ElasticGpuSpecification: accelerators"},
		{place.HostId+place.HostResourceGroupArn+place.Affinity != "", "Placement.HostId: dedicated hosts"},
		{place.PartitionNumber != nil, "Placement.PartitionNumber: placement groups"},
		{yes(in.EnablePrimaryIpv6), "EnablePrimaryIpv6: primary IPv6 addresses"},
		{in.CapacityReservationSpecification != nil && in.CapacityReservationSpecification.CapacityReservationTarget != nil, "CapacityReservationSpecification: capacity reservations"},
		{len(in.LicenseSpecifications) > 0, "LicenseSpecification: licenses"},
		{names.HostnameType == "resource-name" || yes(names.EnableResourceNameDnsARecord) || yes(names.EnableResourceNameDnsAAAARecord), "PrivateDnsNameOptions: names of instances by their IDs"},
	} {
		if c.asked {
			return cloud.Errorf("UnsupportedOperation", "%s are not there yet: leave the parameter out", c.what)
		}
	}
	return nil
}

// wish fills the transaction with the instances of one launch.
func (s *Service) wish(snap *store.Snapshot, t *store.Txn, l *launch, reservation cloud.ReservationID) error {
	in := l.in
	image, err := find(snap, store.Images, cloud.ImageID(in.ImageId), l.account, anImage)
	if err != nil {
		return err
	}
	if image.Value.Kind != cloud.ImageMachine {
		return cloud.Errorf("InvalidParameterValue", "%s is a %s and cannot be launched: name a machine image", in.ImageId, image.Value.Kind)
	}
	kernel, ramdisk := image.Value.Kernel, image.Value.Ramdisk
	if in.KernelId != "" {
		kernel = cloud.ImageID(in.KernelId)
	}
	if in.RamdiskId != "" {
		ramdisk = cloud.ImageID(in.RamdiskId)
	}
	for _, part := range []struct {
		id   cloud.ImageID
		kind cloud.ImageKind
	}{{kernel, cloud.ImageKernel}, {ramdisk, cloud.ImageRamdisk}} {
		o, err := find(snap, store.Images, part.id, l.account, anImage)
		if err != nil {
			return err
		}
		if o.Value.Kind != part.kind {
			return cloud.Errorf("InvalidParameterValue", "%s is not a %s", part.id, part.kind)
		}
		store.Require(t, store.Images, part.id, o.Rev)
	}
	store.Require(t, store.Images, image.Value.ID, image.Rev)
	if !l.typ.Supports(image.Value.Virtualization) {
		return cloud.Errorf("InvalidParameterCombination", "Virtualization type '%s' of image %s is not supported by instance type %s: choose another type", image.Value.Virtualization, image.Value.ID, l.typ.Name)
	}
	if in.KeyName != "" {
		k, err := keyNamed(snap, l.account, in.KeyName)
		if err != nil {
			return err
		}
		store.Require(t, store.KeyPairs, k.Value.ID, k.Rev)
	}
	net, err := s.network(snap, t, l)
	if err != nil {
		return err
	}
	hosts, err := s.room(snap)
	if err != nil {
		return err
	}
	defaults, err := metadataDefaults(snap, l.account)
	if err != nil {
		return err
	}
	options, err := metadataOptions(defaults.Value.Over(image.Value.MetadataOptions()), in.MetadataOptions)
	if err != nil {
		return err
	}
	if err := (cloud.Instance{Metadata: options, Tags: l.tags["instance"]}).ShowsTags(); err != nil {
		return err
	}
	behavior := in.InstanceInitiatedShutdownBehavior
	switch behavior {
	case "":
		behavior = "stop"
	case "stop", "terminate":
	default:
		return cloud.Errorf("InvalidParameterValue", "InstanceInitiatedShutdownBehavior is stop or terminate, not %.40q", behavior)
	}
	now := s.Now().UTC().Truncate(time.Second)
	for index := range l.max {
		if _, err := placement.Choose(hosts, l.typ, net.zone); err != nil {
			if index < l.min {
				return err
			}
			break
		}
		charge(hosts, l.typ, net.zone)
		id := newID[cloud.InstanceID](s, "i")
		given, err := net.give(id)
		if err != nil {
			if index < l.min {
				return err
			}
			break
		}
		i := cloud.Instance{
			ID: id, Generation: 1, Account: l.account,
			Reservation: reservation, LaunchIndex: index, ClientToken: in.ClientToken,
			Image: image.Value.ID, Kernel: kernel, Ramdisk: ramdisk,
			Architecture: image.Value.Architecture, Virtualization: image.Value.Virtualization,
			RootDeviceName: image.Value.RootDeviceName, RootDeviceType: image.Value.RootDeviceType,
			Type: l.typ.Name, KeyName: in.KeyName, Profile: l.profile, Interfaces: given.ids(),
			HasUserData: len(l.userData) > 0, Zone: net.zone, Power: cloud.PowerRunning, Boot: 1, Launched: now,
			Metadata: options, ShutdownBehavior: behavior,
			Protected: yes(in.DisableApiTermination), StopProtected: yes(in.DisableApiStop),
			Monitoring: in.Monitoring != nil && yes(in.Monitoring.Enabled), Tags: l.tags["instance"],
		}
		if p := i.Profile; p != nil {
			carried := *p
			carried.Association, carried.Since, carried.Generation = newID[cloud.AssociationID](s, "iip-assoc"), now, i.Generation
			i.Profile = &carried
		}
		store.Create(t, store.Instances, i.ID, i)
		given.write(t)
		if i.HasUserData {
			store.Create(t, store.UserData, i.ID, l.userData)
		}
	}
	return nil
}

// subnet returns the subnet that is named, or the default one of the zone.
func (s *Service) subnet(snap *store.Snapshot, who cloud.AccountID, id string, p *shape.Placement) (store.Object[cloud.Subnet], error) {
	zone := ""
	if p != nil {
		zone = p.AvailabilityZone
	}
	zones, err := s.zones(snap)
	if err != nil {
		return store.Object[cloud.Subnet]{}, err
	}
	if zone != "" && !slices.Contains(zones, zone) {
		return store.Object[cloud.Subnet]{}, cloud.Errorf("InvalidParameterValue", "Invalid availability zone: [%.40s]: see describe-availability-zones", zone)
	}
	if id != "" {
		return find(snap, store.Subnets, cloud.SubnetID(id), who, aSubnet)
	}
	all, err := store.Mirrored(snap, store.Subnets)
	if err != nil {
		return store.Object[cloud.Subnet]{}, err
	}
	var other *store.Object[cloud.Subnet]
	for k, o := range all {
		if !o.Value.Default || o.Value.Account != who || zone != "" && o.Value.Zone != zone {
			continue
		}
		if zone != "" || o.Value.Zone == s.Zone { // who leaves it to us gets the zone of this region's first host
			return o, nil
		}
		other = &all[k]
	}
	if other != nil {
		return *other, nil
	}
	return store.Object[cloud.Subnet]{}, cloud.Errorf("MissingInput", "No subnets found for the default VPC. Please specify a subnet.")
}

// room returns the hosts with what is given away on them, and on each what is promised to those that wait
// for their place.
func (s *Service) room(snap *store.Snapshot) ([]placement.Candidate, error) {
	hosts, err := store.Mirrored(snap, store.Hosts)
	if err != nil {
		return nil, err
	}
	all, err := store.Mirrored(snap, store.Instances)
	if err != nil {
		return nil, err
	}
	used := map[cloud.HostID]int{}
	var waiting []cloud.Instance
	for _, o := range all {
		if t, err := cloud.TypeNamed(s.Types, o.Value.Type); err == nil && o.Value.Power != cloud.PowerTerminated {
			used[o.Value.Host] += t.MemoryMiB
			if o.Value.Host == "" && o.Value.Power == cloud.PowerRunning {
				waiting = append(waiting, o.Value)
			}
		}
	}
	out := make([]placement.Candidate, len(hosts))
	for i, h := range hosts {
		out[i] = placement.Candidate{Host: h.Value, UsedMiB: used[h.Value.ID]}
	}
	for _, i := range waiting {
		if t, err := cloud.TypeNamed(s.Types, i.Type); err == nil {
			charge(out, t, i.Zone)
		}
	}
	return out, nil
}

// charge counts one more instance of the type on the host that placement would choose.
func charge(hosts []placement.Candidate, t cloud.InstanceType, zone string) {
	id, err := placement.Choose(hosts, t, zone)
	for i := range hosts {
		if err == nil && hosts[i].ID == id {
			hosts[i].UsedMiB += t.MemoryMiB
		}
	}
}

func decodeUserData(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, cloud.Errorf("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.")
	}
	if len(raw) > userDataLimit {
		return nil, cloud.Errorf("InvalidParameterValue", "User data is limited to %d bytes, and this has %d: put it somewhere and fetch it from a short script", userDataLimit, len(raw))
	}
	return raw, nil
}
