// Package ec2 answers the EC2 API: an action is short, it decodes a wish, asks the deciders, and encodes.
//
// Reading comes from a snapshot of the store's mirror: nothing is missing up to its revision, and what hosts
// have said since may be there already; a page after the first is read at the revision of the first.
// Writing is one transaction that compares what the action relied on; when somebody else was faster the
// action is decided again on what is there now, and its answer is given only when this process's own
// mirror shows it, so that a client reads what it wrote. Nothing here starts, stops or touches a machine:
// the wish is stored, and the hosts make it true.
package ec2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/api/wire"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// profiles finds an instance profile and asks whether the caller may hand its role to an instance.
type profiles interface {
	ResolveProfile(ctx context.Context, nameOrARN string) (cloud.ProfileRef, error)
	MayPassRole(ctx context.Context, p cloud.ProfileRef) error
}

// door reads what a host keeps of an instance.
type door interface {
	Console(ctx context.Context, host cloud.Host, id cloud.InstanceID) (output []byte, at time.Time, err error)
}

// Config is what the service works with.
type Config struct {
	Store    *store.Client
	Mirror   *store.Mirror // of spec/, status/ and host/
	Profiles profiles
	Door     door
	Pager    *api.Pager
	Region   string
	Zone     string
	Endpoint string // of this region, for DescribeRegions
	Types    []cloud.InstanceType
	Elastic  []netip.Prefix // the operator's public addresses
	IPv6Pool []netip.Prefix // the operator's addresses for VPCs' blocks of IPv6; none: unique local ones (RFC 4193)
	Now      func() time.Time
	Rand     io.Reader
	Log      *slog.Logger
}

// Service answers the actions.
type Service struct{ Config }

// New returns the service as the front's table has it.
func New(cfg Config) api.Service {
	s := &Service{cfg}
	return api.Service{
		Name: "ec2", Protocol: wire.EC2, Version: shape.Version, Namespace: shape.Namespace, Known: shape.Operations, Ignored: shape.Ignored,
		Actions: slices.Concat(
			s.actions(), s.vpcActions(), s.subnetActions(), s.routeActions(), s.gatewayActions(), s.natActions(), s.optionsActions(),
			s.aclActions(), s.groupActions(), s.interfaceActions(), s.addressActions(), s.metadataActions(), s.profileActions(), s.eventActions(),
		),
	}
}

// actions are those of instances, images, keys, tags, and of the region. A noun of the network has its own list in its own file.
func (s *Service) actions() []api.Action {
	ro := api.ReadOnly()
	return []api.Action{
		api.Do("RunInstances", s.RunInstances, api.Resource(launched)),
		api.Do("DescribeInstances", s.DescribeInstances, ro),
		api.Do("DescribeInstanceStatus", s.DescribeInstanceStatus, ro),
		api.Do("StartInstances", s.StartInstances, on(func(in *shape.StartInstancesInput) []string { return in.InstanceIds })),
		api.Do("StopInstances", s.StopInstances, on(func(in *shape.StopInstancesInput) []string { return in.InstanceIds })),
		api.Do("RebootInstances", s.RebootInstances, on(func(in *shape.RebootInstancesInput) []string { return in.InstanceIds })),
		api.Do("TerminateInstances", s.TerminateInstances, on(func(in *shape.TerminateInstancesInput) []string { return in.InstanceIds })),
		api.Do("GetConsoleOutput", s.GetConsoleOutput, ro, on(func(in *shape.GetConsoleOutputInput) []string { return []string{in.InstanceId} })),
		api.Do("DescribeInstanceAttribute", s.DescribeInstanceAttribute, ro, on(func(in *shape.DescribeInstanceAttributeInput) []string { return []string{in.InstanceId} })),
		api.Do("ModifyInstanceAttribute", s.ModifyInstanceAttribute, on(func(in *shape.ModifyInstanceAttributeInput) []string { return []string{in.InstanceId} })),
		api.Do("DescribeInstanceCreditSpecifications", s.DescribeInstanceCreditSpecifications, ro),
		api.Do("DescribeInstanceTypes", s.DescribeInstanceTypes, ro),
		api.Do("DescribeInstanceTypeOfferings", s.DescribeInstanceTypeOfferings, ro),
		api.Do("RegisterImage", s.RegisterImage, api.Resource(func(*shape.RegisterImageInput) []string { return []string{"image/*"} })),
		api.Do("DescribeImages", s.DescribeImages, ro),
		api.Do("DeregisterImage", s.DeregisterImage, api.Resource(func(in *shape.DeregisterImageInput) []string { return []string{"image/" + in.ImageId} })),
		api.Do("CreateKeyPair", s.CreateKeyPair, api.Resource(func(in *shape.CreateKeyPairInput) []string { return s.keyPair(in.KeyName, "") })),
		api.Do("ImportKeyPair", s.ImportKeyPair, api.Resource(func(in *shape.ImportKeyPairInput) []string { return s.keyPair(in.KeyName, "") })),
		api.Do("DescribeKeyPairs", s.DescribeKeyPairs, ro),
		api.Do("DeleteKeyPair", s.DeleteKeyPair, api.Resource(func(in *shape.DeleteKeyPairInput) []string { return s.keyPair(in.KeyName, in.KeyPairId) })),
		api.Do("CreateTags", s.CreateTags, api.Resource(func(in *shape.CreateTagsInput) []string { return tagged(in.Resources) })),
		api.Do("DeleteTags", s.DeleteTags, api.Resource(func(in *shape.DeleteTagsInput) []string { return tagged(in.Resources) })),
		api.Do("DescribeTags", s.DescribeTags, ro),
		api.Do("DescribeRegions", s.DescribeRegions, ro),
		api.Do("DescribeAvailabilityZones", s.DescribeAvailabilityZones, ro),
		api.Do("DescribeAccountAttributes", s.DescribeAccountAttributes, ro),
	}
}

// caller returns the account that asks.
func caller(ctx context.Context) cloud.AccountID {
	return cloud.AccountID(api.CallerFrom(ctx).Account)
}

// attempts bounds how often an action is decided again. Each lost race means that somebody else won one.
const attempts = 50

// commit decides and writes until nobody else was faster. decide fills the transaction from a snapshot; with
// dryRun nothing is written. The answer's revision is in this process's mirror when commit returns. Nobody is refused
// for what is over: a refusal counts when the mirror showed all that the store held when it was first decided, such as
// that another process has given back the address.
func (s *Service) commit(ctx context.Context, dryRun *bool, decide func(snap *store.Snapshot, t *store.Txn) error) error {
	var newest int64 // what the store held when it was first refused
	for range attempts {
		t := store.NewTxn()
		seen := s.Mirror.Rev()
		refused := decide(s.Mirror.Snapshot(), t)
		switch {
		case refused != nil && newest != 0 && seen >= newest:
			return refused
		case refused != nil:
		case yes(dryRun) || t.Len() == 0:
			return nil
		default:
			rev, err := s.Store.Commit(ctx, t)
			if err == nil {
				return s.Mirror.WaitRev(ctx, rev)
			}
			if !errors.Is(err, store.ErrConflict) {
				return err
			}
		}
		rev, err := s.Store.Head(ctx)
		if refused != nil && (err != nil || seen >= rev) { // while the store is away, what it held last decides
			return refused
		}
		if err != nil {
			return err
		}
		if refused != nil && newest == 0 {
			newest = rev
		}
		if err := s.Mirror.WaitRev(ctx, rev); err != nil {
			return err
		}
	}
	return cloud.Errorf("RequestLimitExceeded", "Too many requests change the same resource: try again")
}

// newID returns a new identifier.
func newID[ID ~string](s *Service, prefix string) ID {
	id, err := cloud.NewID[ID](s.Rand, prefix)
	if err != nil {
		panic(fmt.Sprintf("read random bytes: %v", err)) // crypto/rand never fails on Linux
	}
	return id
}

// find returns the object of the account that an identifier names, or EC2's error for its kind.
func find[T any, ID ~string](snap *store.Snapshot, k store.Kind[T], id ID, who cloud.AccountID, n noun) (store.Object[T], error) {
	var none store.Object[T]
	if !cloud.WellFormed(id, n.prefixes...) {
		return none, cloud.Malformed(n.code+".Malformed", id)
	}
	o, err := store.MirroredGet(snap, k, id)
	if errors.Is(err, store.ErrNotFound) || err == nil && owner(o.Value) != who && owner(o.Value) != "" {
		return none, cloud.NotFound(n.code+".NotFound", n.name, id)
	}
	return o, err
}

// noun is how EC2 speaks of a kind in errors.
type noun struct {
	name     string
	code     string
	prefixes []string
}

var (
	anInstance  = noun{"instance ID", "InvalidInstanceID", []string{"i"}}
	anImage     = noun{"image id", "InvalidAMIID", []string{"ami", "aki", "ari"}}
	aVPC        = noun{"vpc ID", "InvalidVpcID", []string{"vpc"}}
	aSubnet     = noun{"subnet ID", "InvalidSubnetID", []string{"subnet"}}
	aGroup      = noun{"security group", "InvalidGroup", []string{"sg"}}
	anInterface = noun{"networkInterface ID", "InvalidNetworkInterfaceID", []string{"eni"}}
	aGateway    = noun{"internetGateway ID", "InvalidInternetGatewayID", []string{"igw"}}
	aKeyPair    = noun{"key pair ID", "InvalidKeyPair", []string{"key"}}
	aRouteTable = noun{"routeTable ID", "InvalidRouteTableID", []string{"rtb"}}
	aNATGateway = noun{"NatGateway", "InvalidNatGatewayID", []string{"nat"}} // its code for "not found" is NatGatewayNotFound
	aNetworkACL = noun{"networkAcl ID", "InvalidNetworkAclID", []string{"acl"}}
	anOptions   = noun{"dhcpOption ID", "InvalidDhcpOptionID", []string{"dopt"}}
	anAddress   = noun{"allocation ID", "InvalidAllocationID", []string{"eipalloc"}}
)

// owner returns the account that a value belongs to.
func owner(v any) cloud.AccountID {
	switch v := v.(type) {
	case cloud.Instance:
		return v.Account
	case cloud.Image:
		return v.Account
	case cloud.VPC:
		return v.Account
	case cloud.Subnet:
		return v.Account
	case cloud.SecurityGroup:
		return v.Account
	case cloud.NetworkInterface:
		return v.Account
	case cloud.InternetGateway:
		return v.Account
	case cloud.KeyPair:
		return v.Account
	case cloud.RouteTable:
		return v.Account
	case cloud.NATGateway:
		return v.Account
	case cloud.NetworkACL:
		return v.Account
	case cloud.DHCPOptions:
		return v.Account
	case cloud.Address:
		return v.Account
	}
	return ""
}

// status returns what the instance's host last said of it, nil if nothing.
func status(snap *store.Snapshot, i cloud.Instance) *cloud.InstanceStatus {
	if i.Host == "" {
		return nil
	}
	o, err := store.MirroredGet(snap, store.InstanceStatuses(i.Host), i.ID)
	if err != nil {
		return nil
	}
	return &o.Value
}

func yes(b *bool) bool { return b != nil && *b }

func ptr[T any](v T) *T { return &v }

func number(n int) *int64 { return ptr(int64(n)) }
