package ec2

import (
	"context"
	"encoding/base64"
	"slices"
	"time"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// instanceFields are the filters of DescribeInstances.
var instanceFields = fields[shape.Instance]{
	"instance-id":         func(i shape.Instance) []string { return one(i.InstanceId) },
	"image-id":            func(i shape.Instance) []string { return one(i.ImageId) },
	"instance-type":       func(i shape.Instance) []string { return one(i.InstanceType) },
	"instance-state-name": func(i shape.Instance) []string { return one(i.State.Name) },
	"instance-state-code": func(i shape.Instance) []string { return one(digits(i.State.Code)) },
	"availability-zone":   func(i shape.Instance) []string { return one(i.Placement.AvailabilityZone) },
	"architecture":        func(i shape.Instance) []string { return one(i.Architecture) },
	"virtualization-type": func(i shape.Instance) []string { return one(i.VirtualizationType) },
	"hypervisor":          func(i shape.Instance) []string { return one(i.Hypervisor) },
	"key-name":            func(i shape.Instance) []string { return one(i.KeyName) },
	"kernel-id":           func(i shape.Instance) []string { return one(i.KernelId) },
	"ramdisk-id":          func(i shape.Instance) []string { return one(i.RamdiskId) },
	"launch-index":        func(i shape.Instance) []string { return one(digits(i.AmiLaunchIndex)) },
	"launch-time":         func(i shape.Instance) []string { return one(i.LaunchTime.Format("2006-01-02T15:04:05.000Z")) },
	"client-token":        func(i shape.Instance) []string { return one(i.ClientToken) },
	"private-ip-address":  func(i shape.Instance) []string { return one(i.PrivateIpAddress) },
	"private-dns-name":    func(i shape.Instance) []string { return one(i.PrivateDnsName) },
	"ip-address":          func(i shape.Instance) []string { return one(i.PublicIpAddress) },
	"dns-name":            func(i shape.Instance) []string { return one(i.PublicDnsName) },
	"ipv6-address":        func(i shape.Instance) []string { return one(i.Ipv6Address) },
	"subnet-id":           func(i shape.Instance) []string { return one(i.SubnetId) },
	"vpc-id":              func(i shape.Instance) []string { return one(i.VpcId) },
	"root-device-type":    func(i shape.Instance) []string { return one(i.RootDeviceType) },
	"root-device-name":    func(i shape.Instance) []string { return one(i.RootDeviceName) },
	"monitoring-state":    func(i shape.Instance) []string { return one(i.Monitoring.State) },
	"tenancy":             func(i shape.Instance) []string { return one(i.Placement.Tenancy) },
	"source-dest-check":   func(i shape.Instance) []string { return truth(i.SourceDestCheck) },
	"instance.group-id":   func(i shape.Instance) []string { return groupIDs(i.SecurityGroups) },
	"instance.group-name": func(i shape.Instance) []string { return groupNames(i.SecurityGroups) },
	"group-id":            func(i shape.Instance) []string { return groupIDs(i.SecurityGroups) },
	"group-name":          func(i shape.Instance) []string { return groupNames(i.SecurityGroups) },
	"iam-instance-profile.arn": func(i shape.Instance) []string {
		return profileOf(i, func(p *shape.IamInstanceProfile) string { return p.Arn })
	},
	"iam-instance-profile.id": func(i shape.Instance) []string {
		return profileOf(i, func(p *shape.IamInstanceProfile) string { return p.Id })
	},
	"metadata-options.http-tokens":   func(i shape.Instance) []string { return one(i.MetadataOptions.HttpTokens) },
	"metadata-options.http-endpoint": func(i shape.Instance) []string { return one(i.MetadataOptions.HttpEndpoint) },
	"state-reason-code":              func(i shape.Instance) []string { return reasonOf(i) },
	"instance-lifecycle":             func(i shape.Instance) []string { return one(i.InstanceLifecycle) },
}

func profileOf(i shape.Instance, f func(*shape.IamInstanceProfile) string) []string {
	if i.IamInstanceProfile == nil {
		return nil
	}
	return one(f(i.IamInstanceProfile))
}

func reasonOf(i shape.Instance) []string {
	if i.StateReason == nil {
		return nil
	}
	return one(i.StateReason.Code)
}

func groupIDs(groups []shape.GroupIdentifier) []string {
	var out []string
	for _, g := range groups {
		out = append(out, g.GroupId)
	}
	return out
}

func groupNames(groups []shape.GroupIdentifier) []string {
	var out []string
	for _, g := range groups {
		out = append(out, g.GroupName)
	}
	return out
}

// instances returns the account's instances, or those named, in order of reservations.
func (s *Service) instances(snap *store.Snapshot, who cloud.AccountID, ids []string) ([]cloud.Instance, error) {
	var out []cloud.Instance
	for _, id := range ids {
		o, err := find(snap, store.Instances, cloud.InstanceID(id), who, anInstance)
		if err != nil {
			return nil, err
		}
		out = append(out, o.Value)
	}
	if len(ids) > 0 {
		return out, nil
	}
	all, err := store.Mirrored(snap, store.Instances)
	if err != nil {
		return nil, err
	}
	for _, o := range all {
		if o.Value.Account == who {
			out = append(out, o.Value)
		}
	}
	return out, nil
}

// reservationFields are the filters on what an instance's reservation has.
var reservationFields = api.Fields[cloud.Instance]{
	"reservation-id": func(i cloud.Instance) []string { return one(string(i.Reservation)) },
	"owner-id":       func(i cloud.Instance) []string { return one(string(i.Account)) },
}

// DescribeInstances shows instances in their reservations. A filter on the reservation goes by its
// instances, as in EC2: a reservation is shown with those of its instances that match.
func (s *Service) DescribeInstances(ctx context.Context, in *shape.DescribeInstancesInput) (*shape.DescribeInstancesOutput, error) {
	if in.MaxResults != nil && len(in.InstanceIds) > 0 {
		return nil, cloud.Errorf("InvalidParameterCombination", "The parameter instancesSet cannot be used with the parameter maxResults: leave one out")
	}
	q := query[shape.Instance]{
		in: in, filters: in.Filters, fields: withInterfaces(instanceFields), tags: func(i shape.Instance) []shape.Tag { return i.Tags },
		id: func(i shape.Instance) string { return i.InstanceId },
	}
	// Filters on the reservation are taken out and applied to the spec, which names it.
	var ofReservation []shape.Filter
	q.filters = slices.DeleteFunc(slices.Clone(q.filters), func(f shape.Filter) bool {
		if reservationFields[f.Name] == nil {
			return false
		}
		ofReservation = append(ofReservation, f)
		return true
	})
	matches, err := api.Match(ofReservation, reservationFields, nil)
	if err != nil {
		return nil, err
	}
	who := caller(ctx)
	var specs map[string]cloud.Instance
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]shape.Instance, error) {
		list, err := s.instances(snap, who, in.InstanceIds)
		if err != nil {
			return nil, err
		}
		w := s.look(snap)
		specs = make(map[string]cloud.Instance, len(list))
		out := make([]shape.Instance, 0, len(list))
		for _, i := range list {
			if !matches(i) {
				continue
			}
			specs[string(i.ID)] = i
			out = append(out, w.instance(i))
		}
		return out, nil
	})
	if err != nil {
		return nil, err
	}
	out := &shape.DescribeInstancesOutput{NextToken: next}
	at := map[cloud.ReservationID]int{}
	for _, i := range page {
		spec := specs[i.InstanceId]
		k, ok := at[spec.Reservation]
		if !ok {
			k = len(out.Reservations)
			at[spec.Reservation] = k
			out.Reservations = append(out.Reservations, shape.Reservation{ReservationId: string(spec.Reservation), OwnerId: string(spec.Account)})
		}
		out.Reservations[k].Instances = append(out.Reservations[k].Instances, i)
	}
	for k := range out.Reservations {
		slices.SortStableFunc(out.Reservations[k].Instances, func(a, b shape.Instance) int {
			return int(*a.AmiLaunchIndex - *b.AmiLaunchIndex)
		})
	}
	return out, nil
}

var statusFields = fields[shape.InstanceStatus]{
	"availability-zone":            func(i shape.InstanceStatus) []string { return one(i.AvailabilityZone) },
	"instance-state-name":          func(i shape.InstanceStatus) []string { return one(i.InstanceState.Name) },
	"instance-state-code":          func(i shape.InstanceStatus) []string { return one(digits(i.InstanceState.Code)) },
	"instance-status.status":       func(i shape.InstanceStatus) []string { return one(i.InstanceStatus.Status) },
	"instance-status.reachability": func(i shape.InstanceStatus) []string { return one(i.InstanceStatus.Details[0].Status) },
	"system-status.status":         func(i shape.InstanceStatus) []string { return one(i.SystemStatus.Status) },
	"system-status.reachability":   func(i shape.InstanceStatus) []string { return one(i.SystemStatus.Details[0].Status) },

	"event.code":                ofEvents(func(e shape.InstanceStatusEvent) string { return e.Code }),
	"event.description":         ofEvents(func(e shape.InstanceStatusEvent) string { return e.Description }),
	"event.instance-event-id":   ofEvents(func(e shape.InstanceStatusEvent) string { return e.InstanceEventId }),
	"event.not-after":           ofEvents(func(e shape.InstanceStatusEvent) string { return filterTime(e.NotAfter) }),
	"event.not-before":          ofEvents(func(e shape.InstanceStatusEvent) string { return filterTime(e.NotBefore) }),
	"event.not-before-deadline": ofEvents(func(e shape.InstanceStatusEvent) string { return filterTime(e.NotBeforeDeadline) }),
}

// hostSilence is how long a host may be silent before its instances' system status is no longer known:
// three of its ten-second reports.
const hostSilence = 30 * time.Second

// DescribeInstanceStatus shows running instances, or all that are asked for. What is not measured yet, such
// as whether the guest answers, is said to lack data rather than to be well.
func (s *Service) DescribeInstanceStatus(ctx context.Context, in *shape.DescribeInstanceStatusInput) (*shape.DescribeInstanceStatusOutput, error) {
	q := query[shape.InstanceStatus]{
		in: in, filters: in.Filters, fields: statusFields,
		id: func(i shape.InstanceStatus) string { return i.InstanceId },
	}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]shape.InstanceStatus, error) {
		list, err := s.instances(snap, caller(ctx), in.InstanceIds)
		if err != nil {
			return nil, err
		}
		var out []shape.InstanceStatus
		for _, i := range list {
			st := status(snap, i)
			if i.State(st) == cloud.StateRunning || yes(in.IncludeAllInstances) {
				out = append(out, s.health(snap, i, st))
			}
		}
		return out, nil
	})
	return &shape.DescribeInstanceStatusOutput{InstanceStatuses: page, NextToken: next}, err
}

func (s *Service) health(snap *store.Snapshot, i cloud.Instance, st *cloud.InstanceStatus) shape.InstanceStatus {
	out := shape.InstanceStatus{
		InstanceId: string(i.ID), AvailabilityZone: i.Zone, InstanceState: state(i.State(st)),
		InstanceStatus: summary("not-applicable", "insufficient-data", nil), SystemStatus: summary("not-applicable", "insufficient-data", nil),
		Events: s.shownEvents(i),
	}
	if i.State(st) != cloud.StateRunning {
		return out
	}
	out.SystemStatus = summary("ok", "passed", nil)
	if h, err := store.MirroredGet(snap, store.Hosts, i.Host); err != nil || s.Now().Sub(h.Value.Seen) > hostSilence {
		out.SystemStatus = summary("insufficient-data", "insufficient-data", nil)
	}
	ping, err := store.MirroredGet(snap, store.Pings(i.Host), i.ID)
	switch {
	case st.Panicked:
		out.InstanceStatus = summary("impaired", "failed", &st.Since)
	case err == nil && ping.Value.Connected:
		out.InstanceStatus = summary("ok", "passed", nil)
	case s.Now().Sub(st.Since) < 5*time.Minute:
		out.InstanceStatus = summary("initializing", "initializing", nil)
	default:
		out.InstanceStatus = summary("insufficient-data", "insufficient-data", nil)
	}
	return out
}

func summary(status, reachability string, since *time.Time) *shape.InstanceStatusSummary {
	return &shape.InstanceStatusSummary{Status: status, Details: []shape.InstanceStatusDetails{{Name: "reachability", Status: reachability, ImpairedSince: since}}}
}

// GetConsoleOutput returns the last 64 KiB that the guest wrote to its console, from its host.
func (s *Service) GetConsoleOutput(ctx context.Context, in *shape.GetConsoleOutputInput) (*shape.GetConsoleOutputOutput, error) {
	snap := s.Mirror.Snapshot()
	o, err := find(snap, store.Instances, cloud.InstanceID(in.InstanceId), caller(ctx), anInstance)
	if err != nil {
		return nil, err
	}
	out := &shape.GetConsoleOutputOutput{InstanceId: in.InstanceId, Timestamp: ptr(s.Now())}
	if o.Value.Host == "" || yes(in.DryRun) {
		return out, nil
	}
	h, err := store.MirroredGet(snap, store.Hosts, o.Value.Host)
	if err != nil {
		return nil, err
	}
	text, at, err := s.Door.Console(ctx, h.Value, o.Value.ID)
	if err != nil {
		return nil, cloud.Errorf("InternalError", "The host of %s does not answer: try again, and look at `ichiro status` there", in.InstanceId)
	}
	out.Output, out.Timestamp = base64.StdEncoding.EncodeToString(text), &at
	return out, nil
}
