package ec2

import (
	"context"
	"slices"
	"strconv"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// DescribeRegions shows the region that this endpoint is.
func (s *Service) DescribeRegions(ctx context.Context, in *shape.DescribeRegionsInput) (*shape.DescribeRegionsOutput, error) {
	for _, n := range in.RegionNames {
		if n != s.Region {
			return nil, cloud.Errorf("InvalidParameterValue", "Invalid region names: [%.40s]: this is region %s", n, s.Region)
		}
	}
	q := query[shape.Region]{in: in, filters: in.Filters, id: func(r shape.Region) string { return r.RegionName }, fields: fields[shape.Region]{
		"region-name":   func(r shape.Region) []string { return one(r.RegionName) },
		"endpoint":      func(r shape.Region) []string { return one(r.Endpoint) },
		"opt-in-status": func(r shape.Region) []string { return one(r.OptInStatus) },
	}}
	page, _, err := ask(ctx, s, q, func(*store.Snapshot) ([]shape.Region, error) {
		return []shape.Region{{RegionName: s.Region, Endpoint: s.Endpoint, OptInStatus: "opt-in-not-required"}}, nil
	})
	return &shape.DescribeRegionsOutput{Regions: page}, err
}

// DescribeAvailabilityZones shows the zones that hosts are in.
func (s *Service) DescribeAvailabilityZones(ctx context.Context, in *shape.DescribeAvailabilityZonesInput) (*shape.DescribeAvailabilityZonesOutput, error) {
	type zone = shape.AvailabilityZone
	q := query[zone]{in: in, filters: in.Filters, id: func(z zone) string { return z.ZoneName }, fields: fields[zone]{
		"zone-name":     func(z zone) []string { return one(z.ZoneName) },
		"zone-id":       func(z zone) []string { return one(z.ZoneId) },
		"zone-type":     func(z zone) []string { return one(z.ZoneType) },
		"region-name":   func(z zone) []string { return one(z.RegionName) },
		"state":         func(z zone) []string { return one(z.State) },
		"group-name":    func(z zone) []string { return one(z.GroupName) },
		"opt-in-status": func(z zone) []string { return one(z.OptInStatus) },
	}}
	page, _, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]zone, error) {
		names, err := s.zones(snap)
		if err != nil {
			return nil, err
		}
		for _, n := range in.ZoneNames {
			if !slices.Contains(names, n) {
				return nil, cloud.Errorf("InvalidParameterValue", "Invalid availability zones: [%.40s]", n)
			}
		}
		var out []zone
		for _, n := range names {
			if len(in.ZoneNames) > 0 && !slices.Contains(in.ZoneNames, n) || len(in.ZoneIds) > 0 && !slices.Contains(in.ZoneIds, cloud.ZoneID(s.Region, n)) {
				continue
			}
			out = append(out, zone{ZoneName: n, ZoneId: cloud.ZoneID(s.Region, n), ZoneType: "availability-zone", RegionName: s.Region, GroupName: s.Region,
				NetworkBorderGroup: s.Region, State: "available", OptInStatus: "opt-in-not-required"})
		}
		return out, nil
	})
	return &shape.DescribeAvailabilityZonesOutput{AvailabilityZones: page}, err
}

// zones returns the zones that there are: the service's own, and those of hosts.
func (s *Service) zones(snap *store.Snapshot) ([]string, error) {
	names := []string{s.Zone}
	hosts, err := store.Mirrored(snap, store.Hosts)
	for _, h := range hosts {
		if !slices.Contains(names, h.Value.Zone) {
			names = append(names, h.Value.Zone)
		}
	}
	return names, err
}

// DescribeAccountAttributes shows the account's limits and its default VPC.
func (s *Service) DescribeAccountAttributes(ctx context.Context, in *shape.DescribeAccountAttributesInput) (*shape.DescribeAccountAttributesOutput, error) {
	vpc := "none"
	all, err := store.Mirrored(s.Mirror.Snapshot(), store.VPCs)
	if err != nil {
		return nil, err
	}
	for _, v := range all {
		if v.Value.Default && v.Value.Account == caller(ctx) {
			vpc = string(v.Value.ID)
		}
	}
	out := &shape.DescribeAccountAttributesOutput{}
	for _, a := range [][2]string{
		{"supported-platforms", "VPC"}, {"default-vpc", vpc}, {"max-instances", "1000"},
		{"vpc-max-security-groups-per-interface", "5"}, {"max-elastic-ips", "0"}, {"vpc-max-elastic-ips", "0"},
	} {
		if len(in.AttributeNames) == 0 || slices.Contains(in.AttributeNames, a[0]) {
			out.AccountAttributes = append(out.AccountAttributes, shape.AccountAttribute{AttributeName: a[0], AttributeValues: []shape.AccountAttributeValue{{AttributeValue: a[1]}}})
		}
	}
	return out, nil
}

// DescribeInstanceTypes shows the table of types.
func (s *Service) DescribeInstanceTypes(ctx context.Context, in *shape.DescribeInstanceTypesInput) (*shape.DescribeInstanceTypesOutput, error) {
	type info = shape.InstanceTypeInfo
	q := query[info]{in: in, filters: in.Filters, id: func(t info) string { return t.InstanceType }, fields: fields[info]{
		"instance-type":                         func(t info) []string { return one(t.InstanceType) },
		"bare-metal":                            func(t info) []string { return truth(t.BareMetal) },
		"burstable-performance-supported":       func(t info) []string { return truth(t.BurstablePerformanceSupported) },
		"current-generation":                    func(t info) []string { return truth(t.CurrentGeneration) },
		"hypervisor":                            func(t info) []string { return one(t.Hypervisor) },
		"instance-storage-supported":            func(t info) []string { return truth(t.InstanceStorageSupported) },
		"memory-info.size-in-mib":               func(t info) []string { return one(digits(t.MemoryInfo.SizeInMiB)) },
		"vcpu-info.default-vcpus":               func(t info) []string { return one(digits(t.VCpuInfo.DefaultVCpus)) },
		"processor-info.supported-architecture": func(t info) []string { return t.ProcessorInfo.SupportedArchitectures },
		"supported-virtualization-type":         func(t info) []string { return t.SupportedVirtualizationTypes },
		"supported-root-device-type":            func(t info) []string { return t.SupportedRootDeviceTypes },
	}}
	page, next, err := ask(ctx, s, q, func(*store.Snapshot) ([]info, error) {
		var out []info
		for _, name := range in.InstanceTypes {
			if _, err := cloud.TypeNamed(s.Types, name); err != nil {
				return nil, cloud.Errorf("InvalidInstanceType", "The following supplied instance types do not exist: [%.40s]", name)
			}
		}
		for _, t := range s.Types {
			if len(in.InstanceTypes) == 0 || slices.Contains(in.InstanceTypes, t.Name) {
				out = append(out, s.instanceType(t))
			}
		}
		return out, nil
	})
	return &shape.DescribeInstanceTypesOutput{InstanceTypes: page, NextToken: next}, err
}

func (s *Service) instanceType(t cloud.InstanceType) shape.InstanceTypeInfo {
	no, performance := ptr(false), performance(t)
	return shape.InstanceTypeInfo{
		InstanceType: t.Name, CurrentGeneration: ptr(true), BareMetal: no, Hypervisor: "nitro", BurstablePerformanceSupported: ptr(t.Burstable),
		AutoRecoverySupported: no, DedicatedHostsSupported: no, FreeTierEligible: no, HibernationSupported: no, InstanceStorageSupported: no,
		MemoryInfo:    &shape.MemoryInfo{SizeInMiB: number(t.MemoryMiB)},
		VCpuInfo:      &shape.VCpuInfo{DefaultVCpus: number(t.VCPUs), DefaultCores: number(t.VCPUs), DefaultThreadsPerCore: number(1)},
		ProcessorInfo: &shape.ProcessorInfo{SupportedArchitectures: []string{"x86_64"}},
		NetworkInfo: &shape.NetworkInfo{
			MaximumNetworkInterfaces: number(t.Interfaces), Ipv4AddressesPerInterface: number(t.Addresses), MaximumNetworkCards: number(1),
			DefaultNetworkCardIndex: number(0), EnaSupport: "unsupported", EfaSupported: no, Ipv6Supported: ptr(true), Ipv6AddressesPerInterface: number(t.Addresses),
			NetworkPerformance: performance,
			NetworkCards: []shape.NetworkCardInfo{{
				NetworkCardIndex: number(0), NetworkPerformance: performance, MaximumNetworkInterfaces: number(t.Interfaces),
				BaselineBandwidthInGbps: gbps(t.BandwidthMbit), PeakBandwidthInGbps: gbps(max(t.BandwidthMbit, t.PeakMbit)),
			}},
		},
		SupportedRootDeviceTypes: []string{"ebs"}, SupportedUsageClasses: []string{"on-demand"}, SupportedBootModes: []string{"legacy-bios"},
		SupportedVirtualizationTypes: t.Virtualizations, NitroEnclavesSupport: "unsupported", NitroTpmSupport: "unsupported",
	}
}

// performance is a type's bandwidth in EC2's words.
func performance(t cloud.InstanceType) string {
	words := func(mbit int) string {
		if mbit%1000 != 0 {
			return strconv.Itoa(mbit) + " Megabit"
		}
		return strconv.Itoa(mbit/1000) + " Gigabit"
	}
	switch {
	case t.BandwidthMbit == 0:
		return "Unlimited"
	case t.PeakMbit > t.BandwidthMbit:
		return "Up to " + words(t.PeakMbit)
	}
	return words(t.BandwidthMbit)
}

// gbps is nil for a type without bounds.
func gbps(mbit int) *float64 {
	if mbit == 0 {
		return nil
	}
	return ptr(float64(mbit) / 1000)
}

// DescribeInstanceTypeOfferings shows which types there are where: all of them everywhere.
func (s *Service) DescribeInstanceTypeOfferings(ctx context.Context, in *shape.DescribeInstanceTypeOfferingsInput) (*shape.DescribeInstanceTypeOfferingsOutput, error) {
	type offering = shape.InstanceTypeOffering
	kind, place := in.LocationType, s.Region
	switch kind {
	case "":
		kind = "region"
	case "region":
	case "availability-zone":
		place = s.Zone
	case "availability-zone-id":
		place = cloud.ZoneID(s.Region, s.Zone)
	default:
		return nil, cloud.Errorf("InvalidParameterValue", "LocationType is region, availability-zone or availability-zone-id, not %.40q", in.LocationType)
	}
	q := query[offering]{in: in, filters: in.Filters, id: func(o offering) string { return o.InstanceType }, fields: fields[offering]{
		"instance-type": func(o offering) []string { return one(o.InstanceType) },
		"location":      func(o offering) []string { return one(o.Location) },
	}}
	page, next, err := ask(ctx, s, q, func(*store.Snapshot) ([]offering, error) {
		out := make([]offering, len(s.Types))
		for i, t := range s.Types {
			out[i] = offering{InstanceType: t.Name, Location: place, LocationType: kind}
		}
		return out, nil
	})
	return &shape.DescribeInstanceTypeOfferingsOutput{InstanceTypeOfferings: page, NextToken: next}, err
}
