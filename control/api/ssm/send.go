package ssm

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/document"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// Limits and defaults of SendCommand: https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_SendCommand.html
const (
	maxInstanceIDs  = 50
	maxTargets      = 5
	maxTargetKey    = 163
	maxTargetValues = 50
	defaultDelivery = 3600
	leastDelivery   = 30
	mostDelivery    = 2592000
	targetLimit     = 1000 // instances that one command may reach: its one value holds them all, with their ends
)

// What MaxConcurrency and MaxErrors look like: the patterns of SendCommand, of at most seven characters.
var (
	concurrency = regexp.MustCompile(`^([1-9][0-9]{0,6}|[1-9][0-9]?%|100%)$`)
	tolerance   = regexp.MustCompile(`^(0|[1-9][0-9]{0,6}|[0-9]%|[1-9][0-9]%|100%)$`)
)

// SendCommand stores the wish to run a document and answers Pending.
func (s *Service) SendCommand(ctx context.Context, in *shape.SendCommandInput) (*shape.SendCommandOutput, error) {
	snap := s.Mirror.Snapshot()
	doc, steps, err := s.fill(ctx, snap, in)
	if err != nil {
		return nil, err
	}
	if err := check(in); err != nil {
		return nil, err
	}
	place, err := outputPlace(in)
	if err != nil {
		return nil, err
	}
	notify, err := s.notification(in)
	if err != nil {
		return nil, err
	}
	version := strconv.Itoa(doc.version.Number)
	id, err := cloud.NewUUID(s.Rand)
	if err != nil {
		return nil, err
	}
	now := s.Now().UTC()
	c := cloud.Command{
		ID: cloud.CommandID(id), Account: caller(ctx), Owner: api.CallerFrom(ctx).ARN, DocumentName: in.DocumentName, DocumentVersion: version, Comment: in.Comment,
		Parameters: in.Parameters, Requested: now, TimeoutSeconds: defaultDelivery, MaxConcurrency: "50", MaxErrors: "0", Output: place, Notify: notify,
	}
	if in.MaxConcurrency != "" {
		c.MaxConcurrency, c.Ramp = in.MaxConcurrency, true
	}
	if in.MaxErrors != "" {
		c.MaxErrors, c.Ramp = in.MaxErrors, true
	}
	if in.TimeoutSeconds != nil {
		c.TimeoutSeconds = int(*in.TimeoutSeconds)
	}
	execution := 0
	for _, step := range steps {
		execution += step.TimeoutSeconds
	}
	delivery := time.Duration(c.TimeoutSeconds) * time.Second
	c.Expires = now.Add(delivery + time.Duration(execution)*time.Second)
	for _, i := range in.InstanceIds {
		c.AskedInstances = append(c.AskedInstances, cloud.InstanceID(i))
	}
	c.Targets = targets(in)

	instances, err := s.resolve(snap, c)
	if err != nil {
		return nil, err
	}
	if len(c.Targets) > 0 { // tags and groups may have changed since the front asked
		for _, i := range instances {
			if err := s.may(ctx, "ssm:SendCommand", targetARN(i.ID)); err != nil {
				return nil, err
			}
		}
	}
	t := store.NewTxn()
	c.Hosts = map[cloud.InstanceID]cloud.HostID{}
	seen := make([]cloud.Invocation, len(instances))
	for k, i := range instances {
		c.Instances = append(c.Instances, i.ID)
		c.Hosts[i.ID] = i.Host
		seen[k] = cloud.Invocation{Instance: i.ID, Status: cloud.InvocationPending}
	}
	if c.Output != nil && len(instances) > 0 {
		d, err := s.delivery(ctx, c, steps)
		if err != nil {
			return nil, err
		}
		store.Create(t, store.Deliveries, c.ID, d)
	}
	if c.Notify != nil && len(instances) > 0 {
		store.Create(t, store.Notices, c.ID, cloud.Notice{Command: c.ID})
	}
	c.Waiting = len(instances)
	first := c.Pace(seen, now).First(c, cloud.Batch(steps)) // the others are left to the cluster's planner
	for _, i := range first.Send {
		store.Create(t, store.CommandWishes(c.Hosts[i]), store.InvocationID(c.ID, i), c.Wish(i, steps, now))
	}
	if c.Waiting -= first.Pass; c.Waiting > 0 {
		store.Create(t, store.Sendings, c.ID, cloud.Sending{Command: c.ID, Steps: steps})
	}
	store.Create(t, store.Commands, c.ID, c)
	rev, err := s.Store.Commit(ctx, t)
	if err != nil {
		return nil, err
	}
	if err := s.Mirror.WaitRev(ctx, rev); err != nil {
		return nil, err
	}
	note{Command: c.ID, Version: version, SHA256: doc.version.Sha256}.on(ctx)
	return &shape.SendCommandOutput{Command: s.shape(s.Mirror.Snapshot(), c)}, nil
}

// fill returns the document that is asked for, and the steps that it and the parameters come to.
func (s *Service) fill(ctx context.Context, snap *store.Snapshot, in *shape.SendCommandInput) (text, []cloud.Step, error) {
	t, err := s.text(ctx, snap, in.DocumentName, in.DocumentVersion, "")
	if err != nil {
		return t, nil, err
	}
	if t.doc.Type != typeCommand {
		return t, nil, cloud.Errorf("InvalidDocument", "Document %s is of type %s, and SendCommand needs one of type Command", t.doc.Name, t.doc.Type)
	}
	if err := hashed(t.content, in.DocumentHashType, in.DocumentHash); err != nil {
		return t, nil, err
	}
	doc, err := document.Parse([]byte(t.content))
	if err != nil {
		return t, nil, err
	}
	values, err := s.refer(ctx, snap, doc, in.Parameters)
	if err != nil {
		return t, nil, err
	}
	steps, err := doc.FillWith(values, s.sources(ctx, snap))
	return t, steps, err
}

// check applies the rules that need nothing but the request, and refuses what is not there yet.
func check(in *shape.SendCommandInput) error {
	switch t := in.TimeoutSeconds; {
	case t != nil && (*t < leastDelivery || *t > mostDelivery):
		return cloud.Errorf("ValidationException", "TimeoutSeconds is %d to %d, not %d", leastDelivery, mostDelivery, *t)
	case utf8.RuneCountInString(in.Comment) > 100:
		return cloud.Errorf("ValidationException", "Comment may have 100 characters")
	case len(in.InstanceIds) > maxInstanceIDs:
		return cloud.Errorf("ValidationException", "InstanceIds may name %d instances: use Targets for more", maxInstanceIDs)
	case len(in.Targets) > maxTargets:
		return cloud.Errorf("ValidationException", "Targets may have %d elements", maxTargets)
	case len(in.InstanceIds) == 0 && len(in.Targets) == 0:
		return cloud.Errorf("ValidationException", "Name the instances, by InstanceIds or by Targets")
	case len(in.InstanceIds) > 0 && len(in.Targets) > 0:
		return cloud.Errorf("ValidationException", "Name the instances either by InstanceIds or by Targets")
	}
	for _, t := range in.Targets { // whatever instances there are
		if len(t.Key) > maxTargetKey || len(t.Values) > maxTargetValues {
			return cloud.Errorf("ValidationException", "A target has a key of at most %d characters and %d values", maxTargetKey, maxTargetValues)
		}
	}
	switch {
	case in.MaxConcurrency != "" && !concurrency.MatchString(in.MaxConcurrency):
		return cloud.Errorf("ValidationException", "MaxConcurrency is a number such as 10, or a percentage from 1%% to 100%%, not %.10q", in.MaxConcurrency)
	case in.MaxErrors != "" && !tolerance.MatchString(in.MaxErrors):
		return cloud.Errorf("ValidationException", "MaxErrors is a number such as 0 or 10, or a percentage from 0%% to 100%%, not %.10q", in.MaxErrors)
	case in.ServiceRoleArn != "":
		return cloud.Errorf("InvalidRole", "ServiceRoleArn is the role by which SNS is told: notifications go to a URL here and need none, leave it out")
	case in.AlarmConfiguration != nil:
		return cloud.Errorf("ValidationException", "Alarms are not there yet: leave AlarmConfiguration out")
	case in.CloudWatchOutputConfig != nil && in.CloudWatchOutputConfig.CloudWatchOutputEnabled != nil && *in.CloudWatchOutputConfig.CloudWatchOutputEnabled:
		return cloud.Errorf("ValidationException", "Output to CloudWatch is not there yet: leave it out")
	}
	return nil
}

// targets are the request's.
func targets(in *shape.SendCommandInput) []cloud.CommandTarget {
	var out []cloud.CommandTarget
	for _, t := range in.Targets {
		out = append(out, cloud.CommandTarget{Key: t.Key, Values: t.Values})
	}
	return out
}

// resolve returns the instances of a command. An instance that is named must have an agent; one that is
// only found by a target is left out when it has none.
func (s *Service) resolve(snap *store.Snapshot, c cloud.Command) ([]cloud.Instance, error) {
	var out []cloud.Instance
	for k, id := range c.AskedInstances {
		if slices.Contains(c.AskedInstances[:k], id) {
			return nil, cloud.Errorf("DuplicateInstanceId", "Instance %s is named twice", id)
		}
		i, err := store.Target(snap, nonEmpty(id))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if err != nil || i.Account != c.Account || !s.managed(snap, i) {
			return nil, cloud.Errorf("InvalidInstanceId", "Instances [[%.40s]] not in a valid state for account %s: it must be running and its agent must have connected, see describe-instance-information", id, c.Account)
		}
		out = append(out, i)
	}
	if len(c.Targets) == 0 {
		return out, nil
	}
	wanted, err := selectors(snap, c.Account, c.Targets)
	if err != nil {
		return nil, err
	}
	there, err := store.Targets(snap)
	if err != nil {
		return nil, err
	}
	for _, i := range there {
		if i.Account == c.Account && s.managed(snap, i) && all(wanted, i) {
			out = append(out, i)
		}
	}
	if len(out) > targetLimit {
		return nil, cloud.Errorf("ValidationException", "The targets select %d instances and one command can reach %d now: select fewer", len(out), targetLimit)
	}
	return out, nil
}

// managed reports whether Run Command reaches the instance: it runs, and its agent has connected.
func (s *Service) managed(snap *store.Snapshot, i cloud.Instance) bool {
	if i.Host == "" || i.Power != cloud.PowerRunning {
		return false
	}
	_, err := store.MirroredGet(snap, store.Pings(i.Host), i.ID)
	return err == nil
}
