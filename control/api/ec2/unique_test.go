package ec2

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/cluster"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

// unsigned is a signer for hosts that nobody asks.
type unsigned struct{}

func (unsigned) Current(_ cloud.Assignment, had cloud.IdentityDocument) bool {
	return had.Document != ""
}

func (unsigned) Sign(a cloud.Assignment) (cloud.IdentityDocument, error) {
	return cloud.IdentityDocument{Document: string(a.Instance.ID)}, nil
}

const narrow = "subnet-0000000000000abcd"

// processes are two control processes, each with its own mirror and planner, over one store.
type processes struct {
	*testing.T
	c    *store.Client
	ctx  context.Context
	each []*Service
	host *store.Mirror // of a host that ends what is to end
}

func newProcesses(t *testing.T) *processes {
	p := &processes{T: t, c: storetest.New(t), ctx: api.WithCaller(t.Context(), api.Identity{Account: "000000000000"})}
	if err := cluster.Bootstrap(t.Context(), p.c, cluster.Default{Account: "000000000000", Zones: []string{"r-1a"}}); err != nil {
		t.Fatal(err)
	}
	vpcs, err := store.List(t.Context(), p.c, store.VPCs, store.Range{})
	if err != nil {
		t.Fatal(err)
	}
	fill := store.NewTxn()
	store.Create(fill, store.Subnets, narrow, cloud.Subnet{ID: narrow, Account: "000000000000", VPC: vpcs.Objects[0].Value.ID, Zone: "r-1a", MapPublicAddress: true,
		CIDR: netip.MustParsePrefix("172.31.64.0/25"), Blocks: []cloud.CIDRBlock{{CIDR: netip.MustParsePrefix("2001:db8:0:1::/64")}}})
	store.Create(fill, store.Hosts, "h-1", cloud.Host{ID: "h-1", Zone: "r-1a", VCPUs: 4, MemoryMiB: 1 << 20})
	for _, i := range []cloud.Image{{ID: aki, Kind: cloud.ImageKernel}, {ID: ari, Kind: cloud.ImageRamdisk},
		{ID: ami, Kind: cloud.ImageMachine, Name: "small", Kernel: aki, Ramdisk: ari, Virtualization: "paravirtual", RootDeviceType: "ebs"}} {
		i.Account = "000000000000"
		store.Create(fill, store.Images, i.ID, i)
	}
	if _, err := p.c.Commit(t.Context(), fill); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		p.each = append(p.each, p.process())
	}
	p.host = p.mirror(func(m *store.Mirror) { p.end(m) })
	return p
}

// mirror returns a mirror after each change of which react is called, one at a time.
func (p *processes) mirror(react func(*store.Mirror)) *store.Mirror {
	m := store.NewMirror(p.c, store.All("spec"), store.All("wish"), store.All("status"), store.All("host"))
	ctx, cancel := context.WithCancel(p.Context())
	var wg sync.WaitGroup
	wg.Go(func() { m.Run(ctx) })
	<-m.Ready()
	wg.Go(func() {
		for {
			react(m)
			select {
			case <-m.Changed():
			case <-ctx.Done():
				return
			}
		}
	})
	p.Cleanup(func() { cancel(); wg.Wait() })
	return m
}

func (p *processes) process() *Service {
	elastic := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28")}
	name, err := cluster.Name(p.Context(), p.c)
	if err != nil {
		p.Fatal(err)
	}
	m := p.mirror(func(m *store.Mirror) {
		plan := cluster.New(cluster.Config{Store: p.c, Mirror: m, Cloud: name, Signer: unsigned{}, Region: "r-1", Account: "000000000000",
			Types: cloud.Types, Elastic: elastic, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		if err := plan.Reconcile(p.Context()); err != nil && p.Context().Err() == nil {
			p.Errorf("planner: %v", err)
		}
	})
	return &Service{Config{Store: p.c, Mirror: m, Profiles: nobody{}, Region: "r-1", Zone: "r-1a", Types: cloud.Types, Elastic: elastic,
		Now: time.Now, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler)}}
}

// end is the host: what runs has what it was given, and what is to be terminated is.
func (p *processes) end(m *store.Mirror) {
	instances, _ := store.Mirrored(m, store.Instances)
	for _, o := range instances {
		i := o.Value
		if i.Host == "" {
			continue
		}
		st := cloud.InstanceStatus{ID: i.ID, Host: i.Host, Generation: i.Generation, Boot: i.Boot, State: cloud.StateRunning}
		for _, n := range interfacesOf(m.Snapshot(), i) {
			if n.Detach == cloud.DetachNot {
				st.Attached = append(st.Attached, n.Attachment)
			}
		}
		if i.Power == cloud.PowerTerminated {
			st.State, st.Attached = cloud.StateTerminated, nil
		}
		err := store.PutStatus(p.Context(), p.c, store.InstanceStatuses(i.Host), i.ID, st, func(s cloud.InstanceStatus) int64 { return s.Generation })
		if err != nil && p.Context().Err() == nil {
			p.Errorf("host: %v", err)
		}
	}
}

// client does things at random, as one who knows what there is only from the store's mirror.
func (p *processes) client(s *Service, r *mathrand.Rand) (string, error) {
	address := fmt.Sprintf("172.31.64.%d", 1+r.IntN(126))
	six := fmt.Sprintf("2001:db8:0:1:%d::%d", 1+r.IntN(3), 1+r.IntN(4))
	block := fmt.Sprintf("2001:db8:0:1:%d::/80", 1+r.IntN(3))
	eni, instance, elastic := "", "", ""
	if all, _ := store.Mirrored(s.Mirror, store.Interfaces); len(all) > 0 {
		eni = all[r.IntN(len(all))].ID
	}
	if all, _ := store.Mirrored(s.Mirror, store.Instances); len(all) > 0 {
		instance = all[r.IntN(len(all))].ID
	}
	if all, _ := store.Mirrored(s.Mirror, store.Addresses); len(all) > 0 {
		elastic = all[r.IntN(len(all))].ID
	}
	var err error
	switch k := r.IntN(14); k {
	case 0:
		_, err = s.CreateNetworkInterface(p.ctx, &shape.CreateNetworkInterfaceInput{SubnetId: narrow, SecondaryPrivateIpAddressCount: ptr(r.Int64N(3)), Ipv6AddressCount: ptr(int64(1))})
		return "create", err
	case 1:
		_, err = s.CreateNetworkInterface(p.ctx, &shape.CreateNetworkInterfaceInput{SubnetId: narrow, PrivateIpAddress: address, Ipv6Addresses: []shape.InstanceIpv6Address{{Ipv6Address: six}}})
		return "create named", err
	case 2:
		in := &shape.CreateNetworkInterfaceInput{SubnetId: narrow, Ipv4PrefixCount: ptr(int64(1))}
		switch r.IntN(3) {
		case 0:
			in.Ipv4PrefixCount, in.Ipv6PrefixCount = nil, ptr(int64(2))
		case 1:
			in.Ipv6Prefixes = []shape.Ipv6PrefixSpecificationRequest{{Ipv6Prefix: block}}
		}
		_, err = s.CreateNetworkInterface(p.ctx, in)
		return "create with prefixes", err
	case 3:
		_, err = s.AssignPrivateIpAddresses(p.ctx, &shape.AssignPrivateIpAddressesInput{NetworkInterfaceId: eni, PrivateIpAddresses: []string{address}, AllowReassignment: ptr(true)})
		return "reassign", err
	case 4:
		_, err = s.AssignPrivateIpAddresses(p.ctx, &shape.AssignPrivateIpAddressesInput{NetworkInterfaceId: eni, SecondaryPrivateIpAddressCount: ptr(int64(1))})
		return "assign", err
	case 5:
		_, err = s.AssignIpv6Addresses(p.ctx, &shape.AssignIpv6AddressesInput{NetworkInterfaceId: eni, Ipv6Addresses: []string{six}})
		return "assign IPv6", err
	case 6:
		_, err = s.AssignIpv6Addresses(p.ctx, &shape.AssignIpv6AddressesInput{NetworkInterfaceId: eni, Ipv6Prefixes: []string{block}})
		return "delegate IPv6", err
	case 7, 8:
		o, gone := store.MirroredGet(s.Mirror, store.Interfaces, cloud.InterfaceID(eni))
		if gone != nil {
			return "unassign", nil
		}
		in := &shape.UnassignIpv6AddressesInput{NetworkInterfaceId: eni}
		for _, a := range o.Value.IPv6 {
			in.Ipv6Addresses = append(in.Ipv6Addresses, a.String())
		}
		four := &shape.UnassignPrivateIpAddressesInput{NetworkInterfaceId: eni}
		for _, q := range o.Value.Prefixes {
			if q.Addr().Is6() {
				in.Ipv6Prefixes = append(in.Ipv6Prefixes, q.String())
			} else {
				four.Ipv4Prefixes = append(four.Ipv4Prefixes, q.String())
			}
		}
		for _, a := range o.Value.Addresses[1:] {
			four.PrivateIpAddresses = append(four.PrivateIpAddresses, a.String())
		}
		if _, err = s.UnassignIpv6Addresses(p.ctx, in); err == nil || cloud.Code(err) == "MissingParameter" {
			_, err = s.UnassignPrivateIpAddresses(p.ctx, four)
		}
		return "unassign", err
	case 9:
		_, err = s.DeleteNetworkInterface(p.ctx, &shape.DeleteNetworkInterfaceInput{NetworkInterfaceId: eni})
		return "delete", err
	case 10:
		_, err = s.RunInstances(p.ctx, &shape.RunInstancesInput{ImageId: ami, InstanceType: "t2.nano", SubnetId: narrow, MinCount: ptr(int64(1)), MaxCount: ptr(int64(2))})
		return "launch", err
	case 11:
		_, err = s.TerminateInstances(p.ctx, &shape.TerminateInstancesInput{InstanceIds: []string{instance}})
		return "terminate", err
	case 12:
		if r.IntN(2) == 0 {
			_, err = s.AllocateAddress(p.ctx, &shape.AllocateAddressInput{})
			return "allocate", err
		}
		_, err = s.ReleaseAddress(p.ctx, &shape.ReleaseAddressInput{AllocationId: elastic})
		return "release", err
	default:
		if r.IntN(2) == 0 {
			_, err = s.AttachNetworkInterface(p.ctx, &shape.AttachNetworkInterfaceInput{NetworkInterfaceId: eni, InstanceId: instance, DeviceIndex: ptr(int64(1))})
			return "attach", err
		}
		_, err = s.AssociateAddress(p.ctx, &shape.AssociateAddressInput{AllocationId: elastic, NetworkInterfaceId: eni})
		return "associate", err
	}
}

// holdings returns who has what by the interfaces and addresses of one revision, and what is had twice.
func (p *processes) holdings() (held map[string]string, twice []string) {
	held = map[string]string{}
	hold := func(key, owner string) {
		if was, ok := held[key]; ok {
			twice = append(twice, key+" of "+was+" and "+owner)
		}
		held[key] = owner
	}
	all, err := store.List(p.Context(), p.c, store.Interfaces, store.Range{})
	if err != nil {
		p.Fatal(err)
	}
	blocks, singles := map[netip.Prefix]string{}, map[netip.Addr]string{}
	for _, o := range all.Objects {
		n := o.Value
		for _, a := range slices.Concat(n.Addresses, n.IPv6) {
			hold(string(n.Subnet)+"/"+a.StringExpanded(), o.ID)
			if a.Is6() {
				singles[a] = o.ID
			}
		}
		for _, b := range n.Prefixes {
			if b.Addr().Is6() {
				five := strings.Join(strings.Split(b.Addr().StringExpanded(), ":")[:5], ":")
				hold(string(n.Subnet)+"/"+five+"::/80", o.ID)
				blocks[b] = o.ID
				continue
			}
			for a := b.Addr(); b.Contains(a); a = a.Next() {
				hold(string(n.Subnet)+"/"+a.String(), o.ID)
			}
		}
	}
	for a, owner := range singles {
		if b := netip.PrefixFrom(a, 80).Masked(); blocks[b] != "" {
			twice = append(twice, fmt.Sprintf("%s of %s lies in %s of %s", a, owner, b, blocks[b]))
		}
	}
	public, err := store.List(p.Context(), p.c, store.Addresses, store.Range{Rev: all.Rev})
	if err != nil {
		p.Fatal(err)
	}
	for _, o := range public.Objects {
		hold("public/"+o.Value.Public.String(), o.ID)
	}
	keys, err := store.List(p.Context(), p.c, store.NewKind[string](store.All("ipam")), store.Range{Rev: all.Rev})
	if err != nil {
		p.Fatal(err)
	}
	for _, o := range keys.Objects {
		switch owner, ok := held[o.ID]; {
		case !ok:
			twice = append(twice, "a key without a holder: "+o.ID+" of "+o.Value)
		case owner != o.Value:
			twice = append(twice, fmt.Sprintf("%s is %s's and its key says %s", o.ID, owner, o.Value))
		}
	}
	if len(keys.Objects) != len(held) {
		twice = append(twice, fmt.Sprintf("%d keys for %d addresses", len(keys.Objects), len(held)))
	}
	return held, twice
}

// 16 clients of two control processes over one store do what they like: at every moment each address has one owner,
// and the keys are exactly what the interfaces hold.
func TestNoAddressIsGivenTwice(t *testing.T) {
	p := newProcesses(t)
	seed := mathrand.Uint64()
	t.Logf("seed %d", seed)
	// What clients that know little run into; anything else is a defect.
	mayBe := []string{"", "InvalidIPAddress.InUse", "InvalidParameterValue", "InvalidNetworkInterfaceID.NotFound", "InvalidNetworkInterfaceID.Malformed",
		"InvalidNetworkInterface.InUse", "InsufficientFreeAddressesInSubnet", "InsufficientCidrBlocks", "PrivateIpAddressLimitExceeded", "MissingParameter",
		"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed", "InsufficientAddressCapacity", "InvalidAllocationID.NotFound", "InvalidAllocationID.Malformed",
		"IncorrectState", "AttachmentLimitExceeded", "RequestLimitExceeded"}
	var mu sync.Mutex
	done := map[string]int{}
	var clients sync.WaitGroup
	for k := range 16 {
		clients.Go(func() {
			r := mathrand.New(mathrand.NewPCG(seed, uint64(k)))
			for range 40 {
				what, err := p.client(p.each[k%2], r)
				mu.Lock()
				if err == nil {
					done[what]++
				} else if !slices.Contains(mayBe, cloud.Code(err)) || cloud.Code(err) == "" {
					t.Errorf("%s: %v", what, err)
				}
				mu.Unlock()
			}
		})
	}
	over := make(chan struct{})
	go func() { clients.Wait(); close(over) }()
	for looks := 0; ; looks++ {
		held, twice := p.holdings()
		if len(twice) > 0 {
			t.Fatalf("look %d:\n%s", looks, strings.Join(twice, "\n"))
		}
		select {
		case <-over:
		default:
			continue
		}
		t.Logf("%d looks, %d addresses held at the end; done: %v", looks, len(held), done)
		break
	}
	for _, what := range []string{"create", "create named", "create with prefixes", "reassign", "assign", "assign IPv6", "unassign", "delete", "launch", "terminate"} {
		if done[what] == 0 {
			t.Errorf("%s never succeeded: the test tells nothing of it", what)
		}
	}
	p.empty()
}

// empty terminates and deletes all that there is, and expects that no key is left.
func (p *processes) empty() {
	s := p.each[0]
	for what := ""; ; {
		rev, err := p.c.Head(p.Context())
		if err == nil {
			err = s.Mirror.WaitRev(p.Context(), rev)
		}
		if err != nil {
			p.Fatal(err)
		}
		what = ""
		instances, _ := store.Mirrored(s.Mirror, store.Instances)
		for _, o := range instances {
			if o.Value.Host != "" || len(o.Value.Interfaces) > 0 {
				what += " " + o.ID
				s.TerminateInstances(p.ctx, &shape.TerminateInstancesInput{InstanceIds: []string{o.ID}})
			}
		}
		interfaces, _ := store.Mirrored(s.Mirror, store.Interfaces)
		for _, o := range interfaces {
			what += " " + o.ID
			s.DeleteNetworkInterface(p.ctx, &shape.DeleteNetworkInterfaceInput{NetworkInterfaceId: o.ID})
		}
		public, _ := store.Mirrored(s.Mirror, store.Addresses)
		for _, o := range public {
			what += " " + o.ID
			s.ReleaseAddress(p.ctx, &shape.ReleaseAddressInput{AllocationId: o.ID})
		}
		if what == "" {
			break
		}
	}
	if held, twice := p.holdings(); len(held) > 0 || len(twice) > 0 {
		p.Errorf("left: %v %v", held, twice)
	}
}
