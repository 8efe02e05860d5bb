// Package ssm answers the Run Command part of the Systems Manager API.
//
// SendCommand stores the command and, in the same transaction, one wish for the host of each instance;
// what hosts report is read back from their statuses, and output bytes are streamed from the host that
// holds them. The state that a client sees is a function of the command, the report and the time, so a
// host that has gone silent cannot leave a command in progress for ever.
package ssm

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/control/api/wire"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// door reads what a host keeps of a command.
type door interface {
	// Part returns up to limit bytes of a command's stdout or stderr, from an offset on.
	Part(ctx context.Context, host cloud.Host, i cloud.InstanceID, c cloud.CommandID, stream string, offset int64, limit int) ([]byte, error)
}

// Config is what the service works with.
type Config struct {
	Region string // of ARNs
	Store  *store.Client
	Mirror *store.Mirror // of spec/, status/, wish/ and host/
	Door   door
	Pager  *api.Pager
	Now    func() time.Time
	Rand   io.Reader
	Log    *slog.Logger
	Sealer *store.Sealer // of SecureStrings; its key is nobody's but the control plane's

	// Authorize asks whether the caller may do what a document turns out to need, with a resource such as parameter/x; nil for
	// always.
	Authorize func(ctx context.Context, action, resource string) error

	Notify   func(address string) error // says why nobody is told at an address; nil if nobody is at any
	Outputs  granter                    // nil where there is no object store
	Endpoint string                     // of the API, where objects are too: http://HOST:PORT

	Sessions sessionDoor // what hosts do for sessions
	// Ended is told of each session that has ended; nil for nobody. It is told again of one that it had an error for, or of which
	// this process did not live to write down that it was told.
	Ended func(cloud.Session) error

	// Registered is told of each machine that registers, or was refused with a code, and from where; nil for nobody.
	Registered func(n cloud.ManagedNode, source, code string)
}

// Service answers the actions.
type Service struct{ Config }

// New returns the service as the front's table has it.
func New(cfg Config) api.Service {
	s := &Service{cfg}
	ro := api.ReadOnly()
	return api.Service{
		Name: "ssm", Protocol: wire.JSON, Version: shape.Version, TargetPrefix: shape.TargetPrefix, Known: shape.Operations, Ignored: shape.Ignored,
		Actions: slices.Concat(s.documentActions(), s.activationActions(), s.tagActions(), s.parameterActions(), s.sessionActions(), []api.Action{
			api.Do("SendCommand", s.SendCommand, api.ResourceFor(s.reached)),
			api.Do("CancelCommand", s.CancelCommand),
			api.Do("ListCommands", s.ListCommands, ro),
			api.Do("ListCommandInvocations", s.ListCommandInvocations, ro),
			api.Do("GetCommandInvocation", s.GetCommandInvocation, ro),
			api.Do("DescribeInstanceInformation", s.DescribeInstanceInformation, ro),
		}),
	}
}

// reached returns what SendCommand needs permission for: the document, and each instance that is named or that a
// target finds now.
func (s *Service) reached(ctx context.Context, in *shape.SendCommandInput) []string {
	out := documentARN(in.DocumentName)
	for _, id := range in.InstanceIds {
		out = append(out, targetARN(cloud.InstanceID(id)))
	}
	if len(in.Targets) == 0 || check(in) != nil { // the action says what is wrong
		return out
	}
	snap := s.Mirror.Snapshot()
	wanted, err := selectors(snap, caller(ctx), targets(in))
	if err != nil {
		return out
	}
	there, _ := store.Targets(snap) // what cannot be read now cannot be reached either
	for _, i := range there {
		if i.Account == caller(ctx) && s.managed(snap, i) && all(wanted, i) {
			out = append(out, targetARN(i.ID))
		}
	}
	return out
}

// targetARN is the resource that an instance or a managed machine is.
func targetARN(id cloud.InstanceID) string {
	if cloud.WellFormed(id, cloud.ManagedPrefix) {
		return "managed-instance/" + string(id)
	}
	return "ec2:instance/" + string(id)
}

// own reports whether a name is none of another account, which an ARN may be of: nothing that others share is here.
func (s *Service) own(ctx context.Context, name string) bool {
	f := strings.SplitN(name, ":", 6) // arn:PARTITION:ssm:REGION:ACCOUNT:RESOURCE
	return f[0] != "arn" || len(f) == 6 && f[2] == "ssm" && f[4] == string(caller(ctx))
}

func caller(ctx context.Context) cloud.AccountID {
	return cloud.AccountID(api.CallerFrom(ctx).Account)
}

// command returns the caller's command.
func (s *Service) command(ctx context.Context, snap *store.Snapshot, id string) (store.Object[cloud.Command], error) {
	o, err := store.MirroredGet(snap, store.Commands, nonEmpty(id))
	if errors.Is(err, store.ErrNotFound) || err == nil && o.Value.Account != caller(ctx) {
		return o, cloud.Errorf("InvalidCommandId", "Command %.64s does not exist: see list-commands", id)
	}
	return o, err
}

func nonEmpty[ID ~string](id ID) ID {
	if id == "" {
		return "-"
	}
	return id
}

// invocation returns what a client sees of a command on an instance.
func (s *Service) invocation(snap *store.Snapshot, c cloud.Command, id cloud.InstanceID) cloud.Invocation {
	seen := cloud.Invocation{Command: c.ID, Instance: id, Status: cloud.InvocationPending, ResponseCode: -1}
	if o, err := store.MirroredGet(snap, store.Invocations(c.Hosts[id]), store.InvocationID(c.ID, id)); err == nil {
		seen = o.Value
	}
	var i *cloud.Instance
	if target, err := store.Target(snap, id); err == nil {
		i = &target
	}
	return c.Show(seen, i, s.Now())
}

func ptr[T any](v T) *T { return &v }

func number(n int) *int64 { return ptr(int64(n)) }
