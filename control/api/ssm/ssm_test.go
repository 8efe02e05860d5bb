package ssm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

var start = time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)

const (
	one   = "i-00000000000000001" // Name=a, with an agent
	two   = "i-00000000000000002" // Name=b, with an agent
	mute  = "i-00000000000000003" // Name=a, without
	other = "i-00000000000000004" // somebody else's
)

// porch is a host's door with the same text behind it for every stream.
type porch struct {
	text  string
	shut  error
	asked int
}

func (p *porch) Part(_ context.Context, _ cloud.Host, _ cloud.InstanceID, _ cloud.CommandID, _ string, offset int64, limit int) ([]byte, error) {
	p.asked++
	if p.shut != nil {
		return nil, p.shut
	}
	text := p.text[min(int(offset), len(p.text)):]
	return []byte(text[:min(limit, len(text))]), nil
}

type rig struct {
	*Service
	*testing.T
	ctx  context.Context
	now  time.Time
	door *porch
}

func newRig(t *testing.T) *rig {
	c := storetest.New(t)
	m := storetest.Mirror(t, c, store.All("spec"), store.All("wish"), store.All("status"), store.All("host"))
	pager, err := api.NewPager(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := store.NewSealer(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, ctx: api.WithCaller(t.Context(), api.Identity{Account: "000000000000"}), now: start, door: &porch{}}
	r.Service = &Service{Config{Region: "ichiro-1", Store: c, Mirror: m, Sealer: sealer, Door: r.door, Pager: pager, Now: func() time.Time { return r.now }, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler)}}
	r.write(func(t *store.Txn) {
		store.Create(t, store.Hosts, "h-1", cloud.Host{ID: "h-1"})
		for id, name := range map[cloud.InstanceID]string{one: "a", two: "b", mute: "a", other: "a"} {
			i := cloud.Instance{ID: id, Account: "000000000000", Host: "h-1", Power: cloud.PowerRunning, Tags: cloud.Tags{"Name": name}}
			if id == other {
				i.Account = "111111111111"
			}
			store.Create(t, store.Instances, id, i)
			if id != mute {
				store.Create(t, store.Pings("h-1"), id, cloud.AgentPing{Instance: id, Connected: id == one})
			}
		}
	})
	return r
}

func (r *rig) write(f func(t *store.Txn)) {
	r.Helper()
	storetest.Write(r.T, r.Store, r.Mirror, f)
}

func script(ids ...string) *shape.SendCommandInput {
	return &shape.SendCommandInput{DocumentName: "AWS-RunShellScript", InstanceIds: ids, Parameters: map[string][]string{"commands": {"true"}}}
}

func (r *rig) send(in *shape.SendCommandInput) *shape.Command {
	r.Helper()
	out, err := r.SendCommand(r.ctx, in)
	if err != nil {
		r.Fatal(err)
	}
	return out.Command
}

// says has the host report an invocation.
func (r *rig) says(c *shape.Command, id cloud.InstanceID, inv cloud.Invocation) {
	r.Helper()
	inv.Command, inv.Instance = cloud.CommandID(c.CommandId), id
	r.write(func(t *store.Txn) { store.Put(t, store.Invocations("h-1"), store.InvocationID(inv.Command, id), inv) })
}

func (r *rig) get(c *shape.Command, id string) *shape.GetCommandInvocationOutput {
	r.Helper()
	out, err := r.GetCommandInvocation(r.ctx, &shape.GetCommandInvocationInput{CommandId: c.CommandId, InstanceId: id})
	if err != nil {
		r.Fatal(err)
	}
	return out
}

func TestRefusedCommands(t *testing.T) {
	r := newRig(t)
	long := int64(29)
	for name, c := range map[string]struct {
		code string
		in   func(in *shape.SendCommandInput)
	}{
		"unknown document": {"InvalidDocument", func(in *shape.SendCommandInput) { in.DocumentName = "x" }},
		"its version":      {"InvalidDocumentVersion", func(in *shape.SendCommandInput) { in.DocumentVersion = "9" }},
		"no parameters":    {"InvalidParameters", func(in *shape.SendCommandInput) { in.Parameters = nil }},
		"short timeout":    {"ValidationException", func(in *shape.SendCommandInput) { in.TimeoutSeconds = &long }},
		"nobody":           {"ValidationException", func(in *shape.SendCommandInput) { in.InstanceIds = nil }},
		"both":             {"ValidationException", func(in *shape.SendCommandInput) { in.Targets = make([]shape.Target, 1) }},
		"many":             {"ValidationException", func(in *shape.SendCommandInput) { in.InstanceIds = make([]string, 51) }},
		"unknown instance": {"InvalidInstanceId", func(in *shape.SendCommandInput) { in.InstanceIds = []string{"i-12345678"} }},
		"hostile name":     {"InvalidInstanceId", func(in *shape.SendCommandInput) { in.InstanceIds = []string{"../x"} }},
		"empty name":       {"InvalidInstanceId", func(in *shape.SendCommandInput) { in.InstanceIds = []string{""} }},
		"without agent":    {"InvalidInstanceId", func(in *shape.SendCommandInput) { in.InstanceIds = []string{mute} }},
		"somebody else's":  {"InvalidInstanceId", func(in *shape.SendCommandInput) { in.InstanceIds = []string{other} }},
		"a group": {"ValidationException", func(in *shape.SendCommandInput) {
			in.InstanceIds, in.Targets = nil, []shape.Target{{Key: "resource-groups:Name", Values: []string{"g"}}}
		}},
		"a group's kinds without a group": {"ValidationException", func(in *shape.SendCommandInput) {
			in.InstanceIds, in.Targets = nil, []shape.Target{{Key: "resource-groups:ResourceTypeFilters", Values: []string{"AWS::EC2::Instance"}}}
		}},
		"many values": {"ValidationException", func(in *shape.SendCommandInput) {
			in.InstanceIds, in.Targets = nil, []shape.Target{{Key: "tag:a", Values: make([]string, 51)}}
		}},
		"twice": {"DuplicateInstanceId", func(in *shape.SendCommandInput) { in.InstanceIds = []string{one, one} }},
		"unknown target": {"ValidationException", func(in *shape.SendCommandInput) {
			in.InstanceIds, in.Targets = nil, []shape.Target{{Key: "x", Values: []string{"y"}}}
		}},
		"long comment": {"ValidationException", func(in *shape.SendCommandInput) { in.Comment = strings.Repeat("é", 101) }},
	} {
		in := script(one)
		c.in(in)
		if _, err := r.SendCommand(r.ctx, in); cloud.Code(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
	}
	in := script(one)
	in.Comment = strings.Repeat("é", 100)
	r.send(in)
}

// What is asked for wrongly is refused, whether there is anything to ask about or not.
func TestWrongQuestionsAreRefusedWhereThereIsNothing(t *testing.T) {
	r := newRig(t)
	nobody := api.WithCaller(t.Context(), api.Identity{Account: "222222222222"})
	in := script(one)
	in.InstanceIds, in.Targets = nil, []shape.Target{{Key: "foo", Values: []string{"x"}}}
	for want, ask := range map[string]func() error{
		"ValidationException": func() error { _, err := r.SendCommand(nobody, in); return err },
		"InvalidFilterKey": func() error {
			_, err := r.ListCommands(nobody, &shape.ListCommandsInput{Filters: []shape.CommandFilter{{Key: "foo", Value: "x"}}})
			return err
		},
	} {
		if err := ask(); cloud.Code(err) != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	type filter = shape.InstanceInformationStringFilter
	for want, filters := range map[string][]filter{
		"InvalidFilterKey":                      {{Key: "foo", Values: []string{"x"}}},
		"InvalidInstanceInformationFilterValue": {{Key: "PingStatus", Values: []string{"Offline"}}},
		"ValidationException":                   {{Key: "InstanceIds"}},
		"":                                      {{Key: "AssociationStatus", Values: []string{"Success"}}},
	} {
		if _, err := r.DescribeInstanceInformation(nobody, &shape.DescribeInstanceInformationInput{Filters: filters}); cloud.Code(err) != want {
			t.Errorf("%+v: got %v, want %q", filters, err, want)
		}
	}
}

// An instance must pass each filter, also if two have one key.
func TestFiltersOfInstanceInformation(t *testing.T) {
	r := newRig(t)
	out, err := r.DescribeInstanceInformation(r.ctx, &shape.DescribeInstanceInformationInput{
		Filters: []shape.InstanceInformationStringFilter{{Key: "tag:Name", Values: []string{"a"}}, {Key: "tag:Name", Values: []string{"b"}}}})
	if err != nil || len(out.InstanceInformationList) != 0 {
		t.Errorf("got %+v, %v, want nobody", out, err)
	}
}

func TestTargets(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]struct {
		targets []shape.Target
		want    int64
	}{
		"by tag, of those with an agent": {[]shape.Target{{Key: "tag:Name", Values: []string{"a", "b"}}}, 2},
		"all targets must match":         {[]shape.Target{{Key: "tag:Name", Values: []string{"a", "b"}}, {Key: "InstanceIds", Values: []string{one}}}, 1},
		"by the key of a tag":            {[]shape.Target{{Key: "tag-key", Values: []string{"Name"}}}, 2},
		"nobody":                         {[]shape.Target{{Key: "tag:Name", Values: []string{"c"}}}, 0},
	} {
		in := script()
		in.Targets = c.targets
		got := r.send(in)
		if *got.TargetCount != c.want || c.want == 0 && got.StatusDetails != "NoInstancesInTag" || c.want > 0 && got.Status != "Pending" {
			t.Errorf("%s: got %d targets, %s (%s), want %d", name, *got.TargetCount, got.Status, got.StatusDetails, c.want)
		}
	}
}

// grants is a granter that lets everybody in but to some buckets.
type grants map[string]error

func (g grants) Grant(_ context.Context, bucket, key string) (string, error) {
	return bucket + "/" + key, g[bucket]
}

func TestOutputToABucket(t *testing.T) {
	r := newRig(t)
	in := script(one)
	in.OutputS3BucketName = "logs"
	if _, err := r.SendCommand(r.ctx, in); cloud.Code(err) != "InvalidOutputFolder" {
		t.Errorf("without an object store: %v", err)
	}
	r.Outputs, r.Endpoint = grants{"gone": cloud.Errorf("NoSuchBucket", "x"), "shut": cloud.Errorf("AccessDenied", "x")}, "http://127.0.0.1:1"
	for name, c := range map[string]struct{ bucket, prefix, code string }{
		"a prefix without a bucket":   {"", "p", "InvalidOutputFolder"},
		"a name that no bucket has":   {"No_Bucket", "", "InvalidOutputFolder"},
		"a prefix that climbs":        {"logs", "a/../../b", "InvalidOutputFolder"},
		"a prefix with an empty name": {"logs", "a//b", "InvalidOutputFolder"},
		"a long prefix":               {"logs", strings.Repeat("x", 501), "ValidationException"},
		"a bucket that is not there":  {"gone", "", "InvalidOutputFolder"},
		"a bucket that refuses":       {"shut", "", "AccessDeniedException"},
	} {
		in := script(one)
		in.OutputS3BucketName, in.OutputS3KeyPrefix = c.bucket, c.prefix
		if _, err := r.SendCommand(r.ctx, in); cloud.Code(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
	}
	in.OutputS3KeyPrefix = "p/"
	c := r.send(in)
	d, err := store.Get(t.Context(), r.Store, store.Deliveries, c.CommandId)
	if want := "logs/p/" + c.CommandId + "/" + one + "/awsrunShellScript/0.awsrunShellScript/stdout"; err != nil || d.Value.Grant != want {
		t.Errorf("asked for %q, want %q (%v)", d.Value.Grant, want, err)
	}
	if c.OutputS3BucketName != "logs" || c.OutputS3KeyPrefix != "p/" || r.get(c, one).StandardOutputUrl != "" {
		t.Errorf("got %q, %q", c.OutputS3BucketName, c.OutputS3KeyPrefix)
	}
	r.says(c, one, cloud.Invocation{Status: cloud.InvocationSuccess, Steps: []cloud.StepResult{{Name: "runShellScript", Action: "aws:runShellScript", Status: "Success"}}})
	if got, want := r.get(c, one), "http://127.0.0.1:1/"+d.Value.Grant; got.StandardOutputUrl != want || got.PluginName != "aws:runShellScript" {
		t.Errorf("got %q of %s, want %q", got.StandardOutputUrl, got.PluginName, want)
	}
}

func TestWhoIsTold(t *testing.T) {
	r := newRig(t)
	in := script(one)
	in.NotificationConfig = &shape.NotificationConfig{NotificationArn: "https://hook", NotificationEvents: []string{"Success", "Failed", "Success"}, NotificationType: "Invocation"}
	if _, err := r.SendCommand(r.ctx, in); cloud.Code(err) != "InvalidNotificationConfig" {
		t.Errorf("where nobody is told: got %v", err)
	}
	r.Notify = func(address string) error {
		if address != "https://hook" {
			return errors.New("no")
		}
		return nil
	}
	c := r.send(in)
	if got := fmt.Sprint(*c.NotificationConfig); got != "{https://hook [Success Failed] Invocation}" {
		t.Errorf("got %s", got)
	}
	if _, err := store.Get(t.Context(), r.Store, store.Notices, c.CommandId); err != nil {
		t.Error(err)
	}
	for name, n := range map[string]shape.NotificationConfig{
		"a topic":          {NotificationArn: "arn:aws:sns:eu-1:000000000000:topic"},
		"an unknown event": {NotificationArn: "https://hook", NotificationEvents: []string{"Pending"}},
		"an unknown type":  {NotificationArn: "https://hook", NotificationType: "Instance"},
		"no address":       {NotificationType: "Command"},
	} {
		in := script(one)
		in.NotificationConfig = &n
		if _, err := r.SendCommand(r.ctx, in); cloud.Code(err) != "InvalidNotificationConfig" {
			t.Errorf("%s: got %v", name, err)
		}
	}
	in = script(one)
	in.ServiceRoleArn = "arn:aws:iam::000000000000:role/sns"
	if _, err := r.SendCommand(r.ctx, in); cloud.Code(err) != "InvalidRole" {
		t.Errorf("a role for it: got %v", err)
	}
}

func TestFiltersOfCommands(t *testing.T) {
	r := newRig(t)
	c := r.send(script(one, two))
	r.says(c, one, cloud.Invocation{Status: cloud.InvocationSuccess, Details: "Success"})
	r.says(c, two, cloud.Invocation{Status: cloud.InvocationTimedOut, Details: "DeliveryTimedOut"})
	r.now = start.Add(time.Minute)
	r.send(script(one))
	for _, tt := range []struct {
		key, value            string
		commands, invocations string
	}{
		{"Status", "Success", "1", "1"}, {"Status", "Incomplete", "1", "0"}, {"Status", "DeliveryTimedOut", "0", "1"}, {"Status", "Pending", "1", "1"},
		{"ExecutionStage", "Complete", "1", "InvalidFilterKey"}, {"ExecutionStage", "Executing", "1", "InvalidFilterKey"},
		{"ExecutionStage", "Done", "InvalidFilterKey", "InvalidFilterKey"},
		{"InvokedAfter", "2026-11-23T18:00:30Z", "1", "1"}, {"InvokedBefore", "2026-11-23T18:00:30Z", "1", "2"}, {"InvokedAfter", "yesterday", "InvalidFilterKey", "InvalidFilterKey"},
		{"DocumentName", "AWS-RunShellScript", "2", "3"}, {"DocumentName", "arn:aws:ssm:r::document/AWS-RunShellScript", "2", "3"},
		{"DocumentName", "other", "0", "0"}, {"Colour", "red", "InvalidFilterKey", "InvalidFilterKey"},
	} {
		filters := []shape.CommandFilter{{Key: tt.key, Value: tt.value}}
		count := func(n int, err error) string {
			if err != nil {
				return cloud.Code(err)
			}
			return fmt.Sprint(n)
		}
		a, err := r.ListCommands(r.ctx, &shape.ListCommandsInput{Filters: filters})
		if a == nil {
			a = &shape.ListCommandsOutput{}
		}
		if got := count(len(a.Commands), err); got != tt.commands {
			t.Errorf("commands by %s %s: got %s, want %s", tt.key, tt.value, got, tt.commands)
		}
		b, err := r.ListCommandInvocations(r.ctx, &shape.ListCommandInvocationsInput{Filters: filters})
		if b == nil {
			b = &shape.ListCommandInvocationsOutput{}
		}
		if got := count(len(b.CommandInvocations), err); got != tt.invocations {
			t.Errorf("invocations by %s %s: got %s, want %s", tt.key, tt.value, got, tt.invocations)
		}
	}
	if _, err := r.ListCommands(r.ctx, &shape.ListCommandsInput{Filters: make([]shape.CommandFilter, 6)}); cloud.Code(err) != "ValidationException" {
		t.Errorf("six filters: got %v", err)
	}
	if out, err := r.ListCommands(r.ctx, &shape.ListCommandsInput{CommandId: c.CommandId, InstanceId: mute}); err != nil || len(out.Commands) != 0 {
		t.Errorf("by command and an instance that it was not sent to: got %v, %v", out, err)
	}
}

func TestOneStepOfSeveral(t *testing.T) {
	r := newRig(t)
	content := `{"schemaVersion":"2.2","mainSteps":[{"action":"aws:runShellScript","name":"first","inputs":{"runCommand":["a"]}},{"action":"aws:runShellScript","name":"second","inputs":{"runCommand":["b"]}}]}`
	if _, err := r.CreateDocument(r.ctx, &shape.CreateDocumentInput{Name: "two", Content: content, DocumentType: "Command"}); err != nil {
		t.Fatal(err)
	}
	c := r.send(&shape.SendCommandInput{DocumentName: "two", InstanceIds: []string{one}})
	r.door.text = "onetwo"
	r.says(c, one, cloud.Invocation{Status: cloud.InvocationFailed, Details: "Failed", ResponseCode: 3, StdoutBytes: 6, Steps: []cloud.StepResult{
		{Name: "first", Action: "aws:runShellScript", Status: "Success", Details: "Success", StdoutEnd: 3},
		{Name: "second", Action: "aws:runShellScript", Status: "Failed", Details: "Failed", ResponseCode: 3, StdoutEnd: 6},
	}})
	for _, tt := range []struct{ plugin, want string }{
		{"first", "first Success 0 one"}, {"second", "second Failed 3 two"}, {"", " Failed 3 onetwo"}, {"aws:runShellScript", "InvalidPluginName"}, {"third", "InvalidPluginName"},
	} {
		v, err := r.GetCommandInvocation(r.ctx, &shape.GetCommandInvocationInput{CommandId: c.CommandId, InstanceId: one, PluginName: tt.plugin})
		got := cloud.Code(err)
		if err == nil {
			got = fmt.Sprintf("%s %s %d %s", v.PluginName, v.StatusDetails, *v.ResponseCode, v.StandardOutputContent)
		}
		if got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.plugin, got, tt.want)
		}
	}
	list, err := r.ListCommandInvocations(r.ctx, &shape.ListCommandInvocationsInput{CommandId: c.CommandId, Details: ptr(true)})
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, p := range list.CommandInvocations[0].CommandPlugins {
		got += p.Name + " " + p.Output + ", "
	}
	if want := "first one, second two, "; got != want {
		t.Errorf("plugins: got %q, want %q", got, want)
	}
}

// An output that cannot be shown is never shown as an empty one.
func TestAnOutputThatIsNotToBeHad(t *testing.T) {
	r := newRig(t)
	c := r.send(script(one, two))
	get := func() (*shape.GetCommandInvocationOutput, error) {
		return r.GetCommandInvocation(r.ctx, &shape.GetCommandInvocationInput{CommandId: c.CommandId, InstanceId: one})
	}
	list := func() string {
		t.Helper()
		out, err := r.ListCommandInvocations(r.ctx, &shape.ListCommandInvocationsInput{CommandId: c.CommandId, Details: ptr(true)})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, v := range out.CommandInvocations {
			got += v.Status + " " + v.CommandPlugins[0].Output
		}
		return got
	}
	for _, id := range []cloud.InstanceID{one, two} {
		r.says(c, id, cloud.Invocation{Status: cloud.InvocationSuccess, StdoutBytes: 5, StderrBytes: 5, Steps: []cloud.StepResult{
			{Name: "a", Action: "aws:runShellScript", Status: "Success", StdoutEnd: 5, StderrEnd: 5},
		}})
	}

	r.door.shut = errors.New("connection refused")
	if got, err := get(); cloud.Code(err) != "InternalServerError" {
		t.Errorf("its host is away: got %+v, %v", got, err)
	}
	r.door.asked = 0
	if got := list(); strings.Count(got, "Success "+hostAway) != 2 || r.door.asked != 1 {
		t.Errorf("its host is away: the list says %q, having asked it %d times", got, r.door.asked)
	}

	r.door.shut, r.door.text = nil, ""
	if got, err := get(); err != nil || got.StandardOutputContent != lostOnHost || got.StandardErrorContent != lostOnHost {
		t.Errorf("its instance is gone: got %+v, %v", got, err)
	}

	r.write(func(t *store.Txn) { store.Remove(t, store.Hosts, "h-1") })
	if got, err := get(); err != nil || got.Status != "Success" || got.StandardOutputContent != lostWithHost {
		t.Errorf("its host is gone: got %+v, %v", got, err)
	}
	if got := list(); strings.Count(got, "Success "+lostWithHost) != 2 {
		t.Errorf("its host is gone: the list says %q", got)
	}
}

func TestACommandsLife(t *testing.T) {
	r := newRig(t)
	c := r.send(script(one, two))
	if got := r.get(c, one); got.Status != "Pending" || *got.ResponseCode != -1 {
		t.Errorf("got %s, %d", got.Status, *got.ResponseCode)
	}
	r.says(c, one, cloud.Invocation{Status: cloud.InvocationInProgress, ResponseCode: -1, Started: start})
	r.door.text = "hello"
	r.says(c, two, cloud.Invocation{Status: cloud.InvocationSuccess, Started: start, Ended: start.Add(1500 * time.Millisecond), StdoutBytes: 5})
	if got := r.get(c, two); got.Status != "Success" || got.StandardOutputContent != "hello" || got.StandardErrorContent != "" || got.ExecutionElapsedTime != "PT1.500S" {
		t.Errorf("got %+v", got)
	}
	list := func(key, value string) int {
		out, err := r.ListCommands(r.ctx, &shape.ListCommandsInput{Filters: []shape.CommandFilter{{Key: key, Value: value}}})
		if err != nil {
			t.Fatal(err)
		}
		return len(out.Commands)
	}
	if list("Status", "InProgress") != 1 || list("Status", "Success") != 0 || list("ExecutionStage", "Executing") != 1 || list("InvokedBefore", "2026-11-23T18:00:01Z") != 1 {
		t.Error("filters do not find the command where it is")
	}
	for range 2 { // asking twice asks once
		if _, err := r.CancelCommand(r.ctx, &shape.CancelCommandInput{CommandId: c.CommandId, InstanceIds: []string{one, two}}); err != nil {
			t.Fatal(err)
		}
	}
	o, _ := store.Get(t.Context(), r.Store, store.Commands, c.CommandId)
	if len(o.Value.Cancelled) != 2 {
		t.Errorf("cancellation is kept as %v", o.Value.Cancelled)
	}
	for id, want := range map[cloud.InstanceID]bool{one: true, two: false} { // two has ended
		w, err := store.Get(t.Context(), r.Store, store.CommandWishes("h-1"), store.InvocationID(cloud.CommandID(c.CommandId), id))
		if err != nil || w.Value.Cancel != want {
			t.Errorf("%s: its host is asked to cancel: %v, %v, want %v", id, w.Value.Cancel, err, want)
		}
	}
	if a, b := r.get(c, one).Status, r.get(c, two).Status; a != "Cancelling" || b != "Success" {
		t.Errorf("got %s and %s", a, b)
	}
	r.now = start.Add(100 * time.Hour)
	if got := r.get(c, one); got.Status != "TimedOut" || got.StatusDetails != "DeliveryTimedOut" {
		t.Errorf("its host fell silent: got %s (%s)", got.Status, got.StatusDetails)
	}
}

func TestAnInstanceThatIsGoneIsToldSo(t *testing.T) {
	r := newRig(t)
	c := r.send(script(one))
	o, _ := store.Get(t.Context(), r.Store, store.Instances, one)
	r.write(func(t *store.Txn) { store.Delete(t, store.Instances, o) })
	if got := r.get(c, one); got.Status != "Failed" || got.StatusDetails != "Undeliverable" {
		t.Errorf("got %s (%s)", got.Status, got.StatusDetails)
	}
}

func TestOtherAccountsSeeNothing(t *testing.T) {
	r := newRig(t)
	c := r.send(script(one))
	they := api.WithCaller(t.Context(), api.Identity{Account: "111111111111"})
	if _, err := r.GetCommandInvocation(they, &shape.GetCommandInvocationInput{CommandId: c.CommandId, InstanceId: one}); cloud.Code(err) != "InvalidCommandId" {
		t.Errorf("get: %v", err)
	}
	if _, err := r.CancelCommand(r.ctx, &shape.CancelCommandInput{CommandId: c.CommandId, InstanceIds: []string{one, one}}); cloud.Code(err) != "DuplicateInstanceId" {
		t.Errorf("an instance named twice: got %v", err)
	}
	if _, err := r.CancelCommand(they, &shape.CancelCommandInput{CommandId: c.CommandId}); cloud.Code(err) != "InvalidCommandId" {
		t.Errorf("cancel: %v", err)
	}
	if out, err := r.ListCommandInvocations(they, &shape.ListCommandInvocationsInput{}); err != nil || len(out.CommandInvocations) != 0 {
		t.Errorf("list: %v, %v", out, err)
	}
	out, err := r.DescribeInstanceInformation(they, &shape.DescribeInstanceInformationInput{})
	if err != nil || len(out.InstanceInformationList) != 1 || out.InstanceInformationList[0].InstanceId != other {
		t.Errorf("instances: %v, %v", out, err)
	}
	if _, err := r.GetCommandInvocation(r.ctx, &shape.GetCommandInvocationInput{CommandId: c.CommandId, InstanceId: two}); cloud.Code(err) != "InvocationDoesNotExist" {
		t.Errorf("an instance it was not sent to: %v", err)
	}
	if _, err := r.GetCommandInvocation(r.ctx, &shape.GetCommandInvocationInput{InstanceId: one}); cloud.Code(err) != "InvalidCommandId" {
		t.Errorf("no command: %v", err)
	}
}

func TestOutputIsCutBetweenCharacters(t *testing.T) {
	r := newRig(t)
	c := r.send(script(one))
	for name, c2 := range map[string]struct {
		text string
		cut  bool
	}{
		"it fits exactly":           {strings.Repeat("x", 24000), false},
		"one too many":              {strings.Repeat("x", 24001), true},
		"of four bytes, it fits":    {strings.Repeat("🐟", 24000), false},
		"of four bytes, it doesn't": {strings.Repeat("🐟", 24001), true},
		"cut within a character":    {"x" + strings.Repeat("🐟", 24001), true},
		"not text":                  {strings.Repeat("\xff", 10), false},
	} {
		r.door.text = c2.text
		r.says(c, one, cloud.Invocation{Status: cloud.InvocationSuccess, StdoutBytes: int64(len(c2.text)), StderrBytes: int64(len(c2.text))})
		for stream, got := range map[int]string{24000: r.get(c, one).StandardOutputContent, 8000: r.get(c, one).StandardErrorContent} {
			cut := c2.cut || utf8.RuneCountInString(c2.text) > stream
			n := utf8.RuneCountInString(got)
			if !utf8.ValidString(got) || n > stream || strings.HasSuffix(got, truncated) != cut || cut && n != stream || strings.Contains(got, "\uFFFD") != (name == "not text") {
				t.Errorf("%s: got %d of %d characters, ending in %.30q", name, n, stream, got[max(0, len(got)-30):])
			}
		}
	}
}

// A step is known by its name, and shown as its command is, before its agent has told how it ended.
func TestStepsThatAreUnderWay(t *testing.T) {
	r := newRig(t)
	c := r.send(script(one))
	plugins := func() string {
		t.Helper()
		out, err := r.ListCommandInvocations(r.ctx, &shape.ListCommandInvocationsInput{CommandId: c.CommandId, Details: ptr(true)})
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, p := range out.CommandInvocations[0].CommandPlugins {
			all = append(all, fmt.Sprint(p.Name, " ", p.Status, " ", *p.ResponseCode, " ", p.ResponseStartDateTime != nil, " ", p.Output))
		}
		return strings.Join(all, ", ")
	}
	if got := plugins(); got != "aws:runShellScript Pending -1 false " {
		t.Errorf("before it is delivered: got %q", got)
	}
	r.says(c, one, cloud.Invocation{Status: cloud.InvocationInProgress, ResponseCode: -1, Started: start})
	if got := plugins(); got != "aws:runShellScript InProgress -1 true " {
		t.Errorf("while it runs: got %q", got)
	}
	if got := r.get(c, one); got.PluginName != "aws:runShellScript" || got.Status != "InProgress" || got.ExecutionStartDateTime == "" || *got.ResponseCode != -1 {
		t.Errorf("while it runs: got %+v", got)
	}
	_, err := r.GetCommandInvocation(r.ctx, &shape.GetCommandInvocationInput{CommandId: c.CommandId, InstanceId: one, PluginName: "nothing"})
	if cloud.Code(err) != "InvalidPluginName" {
		t.Errorf("a step that there is not: got %v", err)
	}
}

// What a step has printed as errors stands behind its output, under Systems Manager's line.
func TestErrorsStandBehindTheOutputOfAPlugin(t *testing.T) {
	r := newRig(t)
	r.door.text = "word\n"
	for want, sizes := range map[string][2]int64{
		"word\n": {5, 0}, "\n----------ERROR-------\nword\n": {0, 5}, "word\n\n----------ERROR-------\nword\n": {5, 5},
	} {
		c := r.send(script(one))
		r.says(c, one, cloud.Invocation{Status: cloud.InvocationFailed, StdoutBytes: sizes[0], StderrBytes: sizes[1],
			Steps: []cloud.StepResult{{Name: "runShellScript", Action: "aws:runShellScript", Status: "Failed", StdoutEnd: sizes[0], StderrEnd: sizes[1]}}})
		out, err := r.ListCommandInvocations(r.ctx, &shape.ListCommandInvocationsInput{CommandId: c.CommandId, Details: ptr(true)})
		if err != nil {
			t.Fatal(err)
		}
		if got := out.CommandInvocations[0].CommandPlugins[0].Output; got != want {
			t.Errorf("%v: got %q, want %q", sizes, got, want)
		}
	}
}
