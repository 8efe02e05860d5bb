package ssm

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// shape is a command in Systems Manager's shape.
func (s *Service) shape(snap *store.Snapshot, c cloud.Command) *shape.Command {
	invocations := make([]cloud.Invocation, len(c.Instances))
	for k, id := range c.Instances {
		invocations[k] = s.invocation(snap, c, id)
	}
	sum := c.Summarize(invocations)
	out := &shape.Command{
		CommandId: string(c.ID), DocumentName: c.DocumentName, DocumentVersion: c.DocumentVersion, Comment: c.Comment, Parameters: c.Parameters,
		RequestedDateTime: &c.Requested, ExpiresAfter: &c.Expires, TimeoutSeconds: number(c.TimeoutSeconds),
		MaxConcurrency: c.MaxConcurrency, MaxErrors: c.MaxErrors, Status: sum.Status, StatusDetails: sum.Details,
		TargetCount: number(sum.Targets), CompletedCount: number(sum.Completed), ErrorCount: number(sum.Errors), DeliveryTimedOutCount: number(sum.TimedOut),
		InstanceIds: []string{}, Targets: []shape.Target{},
	}
	out.NotificationConfig = notified(c.Notify)
	if c.Output != nil {
		out.OutputS3BucketName, out.OutputS3KeyPrefix = c.Output.Bucket, c.Output.Prefix
	}
	if len(c.Instances) == 0 {
		out.Status, out.StatusDetails = "Success", "NoInstancesInTag"
	}
	for _, id := range c.AskedInstances {
		out.InstanceIds = append(out.InstanceIds, string(id))
	}
	for _, t := range c.Targets {
		out.Targets = append(out.Targets, shape.Target{Key: t.Key, Values: t.Values})
	}
	return out
}

// commands returns the caller's commands that match, the newest first.
func (s *Service) commands(ctx context.Context, snap *store.Snapshot, id, instance string, filters []shape.CommandFilter) ([]cloud.Command, error) {
	if len(filters) > maxFilters {
		return nil, cloud.Errorf("ValidationException", "Filters may have %d elements", maxFilters)
	}
	for _, f := range filters { // whatever commands there are
		if _, err := passes(cloud.Command{}, f); err != nil {
			return nil, err
		}
	}
	var all []store.Object[cloud.Command]
	if id != "" {
		o, err := s.command(ctx, snap, id)
		if err != nil {
			return nil, err
		}
		all = append(all, o)
	} else {
		var err error
		if all, err = store.Mirrored(snap, store.Commands); err != nil {
			return nil, err
		}
	}
	var out []cloud.Command
	for _, o := range all {
		c := o.Value
		if c.Account != caller(ctx) || instance != "" && !slices.Contains(c.Instances, cloud.InstanceID(instance)) {
			continue
		}
		keep := true
		for _, f := range filters {
			ok, err := passes(c, f)
			if err != nil {
				return nil, err
			}
			keep = keep && ok
		}
		if keep {
			out = append(out, c)
		}
	}
	return out, nil
}

// maxFilters is how many filters one request may have, and the others are the values of ExecutionStage.
const (
	maxFilters = 5
	executing  = "Executing"
	complete   = "Complete"
)

// ofStatus applies the filter of that name: it takes what is more exactly known, such as DeliveryTimedOut, too.
func ofStatus(f shape.CommandFilter, status, details string) bool {
	return f.Key != "Status" || f.Value == status || f.Value == details
}

// passes applies the filters that go by the command; Status and ExecutionStage go by the summary, later.
func passes(c cloud.Command, f shape.CommandFilter) (bool, error) {
	switch f.Key {
	case "InvokedAfter", "InvokedBefore":
		at, err := time.Parse(time.RFC3339, f.Value)
		if err != nil {
			return false, cloud.Errorf("InvalidFilterKey", "%s takes a time such as 2026-11-23T10:00:00Z", f.Key)
		}
		return c.Requested.After(at) == (f.Key == "InvokedAfter"), nil
	case "DocumentName":
		return ownName(c.DocumentName) == ownName(f.Value), nil
	case "Status":
		return true, nil
	case "ExecutionStage":
		if f.Value != executing && f.Value != complete {
			return false, cloud.Errorf("InvalidFilterKey", "ExecutionStage is %s or %s, not %.20q", executing, complete, f.Value)
		}
		return true, nil
	}
	return false, cloud.Errorf("InvalidFilterKey", "Filter key %.40q is not known", f.Key)
}

// newestFirst is a key that sorts commands by time, the newest first.
func newestFirst(at *time.Time, id string) string {
	return fmt.Sprintf("%020d%s", uint64(1<<62)-uint64(at.UnixNano()), id)
}

// ListCommands shows commands, the newest first.
func (s *Service) ListCommands(ctx context.Context, in *shape.ListCommandsInput) (*shape.ListCommandsOutput, error) {
	page, snap, err := s.page(ctx, in)
	if err != nil {
		return nil, err
	}
	all, err := s.commands(ctx, snap, in.CommandId, in.InstanceId, in.Filters)
	if err != nil {
		return nil, err
	}
	var out []shape.Command
	for _, c := range all {
		v := s.shape(snap, c)
		stage := executing
		if *v.CompletedCount == *v.TargetCount {
			stage = complete
		}
		keep := true
		for _, f := range in.Filters {
			keep = keep && ofStatus(f, v.Status, v.StatusDetails) && (f.Key != "ExecutionStage" || f.Value == stage)
		}
		if keep {
			out = append(out, *v)
		}
	}
	cut, next := api.Cut(page, snap.Rev(), out, func(c shape.Command) string { return newestFirst(c.RequestedDateTime, c.CommandId) })
	return &shape.ListCommandsOutput{Commands: cut, NextToken: next}, nil
}

// page opens the request's token and returns the snapshot that it speaks of.
func (s *Service) page(ctx context.Context, in any) (*api.Page, *store.Snapshot, error) {
	page, err := s.Pager.Page(ctx, in, api.Bounds{Default: 50, Min: 1, Max: 50})
	if err != nil {
		return nil, nil, err
	}
	snap := s.Mirror.Snapshot()
	if page.Revision != 0 && page.Revision != snap.Rev() {
		if snap, err = store.SnapshotAt(ctx, s.Store, page.Revision, store.All("spec"), store.All("status"), store.All("wish"), store.All("host")); err != nil {
			return nil, nil, cloud.Errorf("InvalidNextToken", "The token has expired: start again without one")
		}
	}
	return page, snap, nil
}

// ListCommandInvocations shows commands instance by instance.
func (s *Service) ListCommandInvocations(ctx context.Context, in *shape.ListCommandInvocationsInput) (*shape.ListCommandInvocationsOutput, error) {
	page, snap, err := s.page(ctx, in)
	if err != nil {
		return nil, err
	}
	for _, f := range in.Filters {
		if f.Key == "ExecutionStage" {
			return nil, cloud.Errorf("InvalidFilterKey", "ExecutionStage is of commands and not of invocations: give Status")
		}
	}
	all, err := s.commands(ctx, snap, in.CommandId, in.InstanceId, in.Filters)
	if err != nil {
		return nil, err
	}
	var out []shape.CommandInvocation
	for _, c := range all {
		for _, id := range c.Instances {
			v := s.invocation(snap, c, id)
			if in.InstanceId != "" && string(id) != in.InstanceId {
				continue
			}
			keep := true
			for _, f := range in.Filters {
				keep = keep && ofStatus(f, string(v.Status), v.Details)
			}
			if !keep {
				continue
			}
			one := shape.CommandInvocation{
				CommandId: string(c.ID), InstanceId: string(id), Comment: c.Comment, DocumentName: c.DocumentName, DocumentVersion: c.DocumentVersion,
				RequestedDateTime: &c.Requested, Status: string(v.Status), StatusDetails: v.Details, CommandPlugins: []shape.CommandPlugin{},
				InstanceName: s.name(snap, id), NotificationConfig: notified(c.Notify),
			}
			if len(v.Steps) == 1 { // of several each has its own
				one.StandardOutputUrl, one.StandardErrorUrl = s.urls(c, v, 0)
			}
			out = append(out, one)
		}
	}
	cut, next := api.Cut(page, snap.Rev(), out, func(v shape.CommandInvocation) string {
		return newestFirst(v.RequestedDateTime, v.CommandId+v.InstanceId)
	})
	if in.Details != nil && *in.Details {
		r := s.outputs(snap)
		for k := range cut {
			if err := r.details(ctx, &cut[k]); err != nil {
				return nil, err
			}
		}
	}
	return &shape.ListCommandInvocationsOutput{CommandInvocations: cut, NextToken: next}, nil
}

func (s *Service) name(snap *store.Snapshot, id cloud.InstanceID) string {
	if cloud.WellFormed(id, cloud.ManagedPrefix) {
		o, err := store.MirroredGet(snap, store.Nodes, id)
		if err != nil {
			return ""
		}
		return o.Value.Name
	}
	o, err := store.MirroredGet(snap, store.Instances, id)
	if err != nil {
		return ""
	}
	return o.Value.Tags["Name"]
}

// DescribeInstanceInformation shows the instances whose agents have connected.
func (s *Service) DescribeInstanceInformation(ctx context.Context, in *shape.DescribeInstanceInformationInput) (*shape.DescribeInstanceInformationOutput, error) {
	page, snap, err := s.page(ctx, in)
	if err != nil {
		return nil, err
	}
	filters := in.Filters
	for _, f := range in.InstanceInformationFilterList {
		filters = append(filters, shape.InstanceInformationStringFilter{Key: f.Key, Values: f.ValueSet})
	}
	for _, f := range filters { // whatever instances there are
		if _, err := informed(shape.InstanceInformation{}, cloud.Instance{}, f); err != nil {
			return nil, err
		}
	}
	all, err := store.Targets(snap)
	if err != nil {
		return nil, err
	}
	var out []shape.InstanceInformation
	for _, i := range all {
		if i.Account != caller(ctx) || i.Host == "" {
			continue
		}
		ping, err := store.MirroredGet(snap, store.Pings(i.Host), i.ID)
		if err != nil {
			continue
		}
		p := ping.Value
		v := shape.InstanceInformation{
			InstanceId: string(i.ID), AgentVersion: p.Version, ComputerName: p.ComputerName, IPAddress: p.Address, PlatformName: p.PlatformName,
			PlatformType: p.PlatformType, PlatformVersion: p.PlatformVer, LastPingDateTime: &p.LastSeen, PingStatus: "ConnectionLost",
			ResourceType: "EC2Instance", IsLatestVersion: ptr(true),
		}
		if s.online(snap, i, p) {
			v.PingStatus = "Online"
		}
		if i.Profile != nil {
			v.IamRole = i.Profile.RoleName
		}
		if o, err := store.MirroredGet(snap, store.Nodes, i.ID); err == nil {
			n := o.Value
			v.ResourceType, v.ActivationId, v.Name, v.IamRole, v.RegistrationDate = managedInstance, string(n.Activation), n.Name, n.Role, &n.Registered
		}
		keep := true
		for _, f := range filters {
			ok, err := informed(v, i, f)
			if err != nil {
				return nil, err
			}
			keep = keep && ok
		}
		if keep {
			out = append(out, v)
		}
	}
	cut, next := api.Cut(page, snap.Rev(), out, func(v shape.InstanceInformation) string { return v.InstanceId })
	return &shape.DescribeInstanceInformationOutput{InstanceInformationList: cut, NextToken: next}, nil
}

// online reports whether the agent is there now. A machine that ended without a word leaves a connection
// behind that looks alive for a while, so what was heard must be of the boot that runs.
func (s *Service) online(snap *store.Snapshot, i cloud.Instance, p cloud.AgentPing) bool {
	if cloud.WellFormed(i.ID, cloud.ManagedPrefix) {
		return p.Connected
	}
	st, err := store.MirroredGet(snap, store.InstanceStatuses(i.Host), i.ID)
	return err == nil && p.Connected && i.State(&st.Value) == cloud.StateRunning && !p.LastSeen.Before(st.Value.Started)
}

// words are what filters may ask for whose values are words of a few.
var words = map[string][]string{
	"PingStatus":    {"Online", "ConnectionLost", "Inactive"},
	"PlatformTypes": {"Linux", "Windows", "MacOS"},
	"ResourceType":  {"EC2Instance", managedInstance},
}

// informed applies one filter of DescribeInstanceInformation.
func informed(v shape.InstanceInformation, i cloud.Instance, f shape.InstanceInformationStringFilter) (bool, error) {
	if len(f.Values) == 0 {
		return false, cloud.Errorf("ValidationException", "Filter key %.40q has no values: give some", f.Key)
	}
	for _, w := range f.Values {
		if known := words[f.Key]; known != nil && !slices.Contains(known, w) {
			return false, cloud.Errorf("InvalidInstanceInformationFilterValue", "%s is one of %s, not %.40q", f.Key, strings.Join(known, ", "), w)
		}
	}
	have, ok := map[string]string{
		"InstanceIds": v.InstanceId, "PingStatus": v.PingStatus, "AgentVersion": v.AgentVersion, "PlatformTypes": v.PlatformType,
		"ResourceType": v.ResourceType, "IamRole": v.IamRole, "ActivationIds": v.ActivationId,
		"AssociationStatus": "", "SourceIds": "", "SourceTypes": "", // no instance has any here
	}[f.Key]
	switch {
	case ok:
		return slices.Contains(f.Values, have), nil
	case ofTags(f.Key):
		return haveTag(i.Tags, f.Key, f.Values), nil
	}
	return false, cloud.Errorf("InvalidFilterKey", "Filter key %.40q is not known: InstanceIds, PingStatus, AgentVersion, PlatformTypes, ResourceType, IamRole, ActivationIds, tag-key and tag:KEY are", f.Key)
}
