// Package api is the front door: it turns signed AWS requests into calls of Go functions and their
// results, or errors, into what AWS clients expect.
//
// One handler serves all services. A request goes through the same gates in the same order: size, the
// signature's scope (which names the service), the signature itself (Authority knows the keys), the
// action, its parameters (control/api/wire into a struct of control/api/shape), permission for each
// resource named, the action's function, the answer. What a gate refuses reaches nothing behind it.
//
// An action is an ordinary function, func(ctx, *ec2.RunInstancesInput) (*ec2.RunInstancesOutput, error),
// put into its service's table by Do. It checks its input, asks, and returns; who calls is CallerFrom(ctx)
// and the request's id RequestID(ctx). An error is a cloud.Error whose code the client sees; any other
// error is a defect of ours: it is logged once and answered 500 InternalError. EC2's DryRun is finished
// here: an action that changes things checks everything, and before it commits returns nil, nil if
// in.DryRun is true. Pager seals NextTokens, Match compiles EC2 filters.
package api

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	"github.com/ichiro-metal/ichiro/control/api/wire"
)

// A Service is one AWS service: how it speaks and what it can do.
type Service struct {
	Name         string // in a signature's scope, in policies: ec2
	Protocol     wire.Protocol
	Version      string              // of the API; what a client may ask for
	Namespace    string              // of XML answers
	TargetPrefix string              // of X-Amz-Target, JSON only
	Routes       map[string]string   // action by method and path, REST only: "PUT /resources/{Arn}/tags"
	Known        []string            // every operation of the model, whether built or not
	Ignored      map[string][]string // per operation: parameters accepted without effect
	Actions      []Action
}

// An Action is one entry of a service's table. Do makes it.
type Action struct {
	Name      string
	readOnly  bool
	unsigned  bool
	resources func(ctx context.Context, in any) []string
	newIn     func() any
	call      func(ctx context.Context, in any) (any, error)
}

// An Option says more of an action.
type Option func(*Action)

// ReadOnly marks an action that changes nothing: it leaves no audit line.
func ReadOnly() Option { return func(a *Action) { a.readOnly = true } }

// Unsigned marks an action that may be called without a signature, such as AssumeRoleWithWebIdentity:
// its function is then called with the zero Identity and nobody is asked for permission.
func Unsigned() Option { return func(a *Action) { a.unsigned = true } }

// Resource gives the resources that permission is asked for, each on its own; all must be allowed.
// A resource is an ARN, or its last part, such as "instance/i-123", which the front completes with
// region and account; "ec2:instance/i-123" is one of another service. Without this option, or if f returns nothing, the resource is "*".
func Resource[I any](f func(in *I) []string) Option {
	return func(a *Action) {
		a.resources = func(_ context.Context, in any) []string { return f(in.(*I)) }
	}
}

// ResourceFor is Resource where who calls matters: CallerFrom(ctx) tells.
func ResourceFor[I any](f func(ctx context.Context, in *I) []string) Option {
	return func(a *Action) {
		a.resources = func(ctx context.Context, in any) []string { return f(ctx, in.(*I)) }
	}
}

// Do makes an action of a function. I and O are its Input and Output structs of control/api/shape.
func Do[I, O any](name string, f func(ctx context.Context, in *I) (*O, error), opts ...Option) Action {
	a := Action{
		Name:  name,
		newIn: func() any { return new(I) },
		call: func(ctx context.Context, in any) (any, error) {
			out, err := f(ctx, in.(*I))
			if err != nil {
				return nil, err
			}
			if out == nil {
				out = new(O)
			}
			return out, nil
		},
	}
	for _, o := range opts {
		o(&a)
	}
	return a
}

// An Identity is who calls: a user, a session of a role, or the root of the account.
type Identity struct {
	Account     string // twelve digits
	ARN         string // arn:aws:iam::...:user/x or arn:aws:sts::...:assumed-role/role/session
	UserID      string // AIDA..., or AROA...:session
	AccessKeyID string
	Role        string // name of the role, of a session
	Session     string // name of the session
	Root        bool
	Principal   any // the Authority's own: it finds in Authorize what it put in at Authenticate
}

// A Credential is what a request claims to be signed with. Authority finds the key for it.
type Credential struct {
	AccessKeyID  string
	SessionToken string
	Date         string // 20060102
	Region       string
	Service      string
}

// An Authority knows who may do what. control/iam is the real one.
type Authority interface {
	// Authenticate returns who holds the access key and the key that verifies its signatures for the
	// credential's date, region and service (sigv4.Key of the secret). It returns ErrUnknownKey,
	// ErrBadToken or ErrTokenExpired, possibly wrapped, when there is none.
	Authenticate(ctx context.Context, c Credential) (id Identity, signingKey []byte, err error)
	// Authorize returns nil if id may do action ("ec2:RunInstances") with resource (an ARN or "*"),
	// ErrDenied, possibly wrapped, if not.
	Authorize(ctx context.Context, id Identity, action, resource string) error
}

type contextKey int

const (
	callerKey contextKey = iota
	requestKey
	reachedKey
	remarkKey
)

// CallerFrom returns who calls.
func CallerFrom(ctx context.Context) Identity {
	id, _ := ctx.Value(callerKey).(Identity)
	return id
}

// Remark adds to the audit line of the call what its resources do not tell, such as the ID of what it has made. A secret is none.
func Remark(ctx context.Context, detail any) {
	if kept, ok := ctx.Value(remarkKey).(*any); ok {
		*kept = detail
	}
}

// WithRemark returns a context in which Remark is kept.
func WithRemark(ctx context.Context) (context.Context, *any) {
	kept := new(any)
	return context.WithValue(ctx, remarkKey, kept), kept
}

// RequestID returns the id of the request, which the client sees too.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestKey).(string)
	return id
}

// reached is where a client has reached the API.
type reached struct {
	host   string
	secure bool
}

// Reached returns the host and port at which the client has reached the API, and whether by TLS: what it can reach
// again.
func Reached(ctx context.Context) (host string, secure bool) {
	r, _ := ctx.Value(reachedKey).(reached)
	return r.host, r.secure
}

// WithCaller returns a context as an action sees it; for tests of actions.
func WithCaller(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, callerKey, id)
}

// A table is a service ready to be served.
type table struct {
	Service
	actions map[string]*Action
	known   map[string]bool
	routes  []route
}

func newTable(s Service) (*table, error) {
	t := &table{Service: s, actions: map[string]*Action{}, known: map[string]bool{}}
	for _, name := range s.Known {
		t.known[name] = true
	}
	for i := range s.Actions {
		a := &s.Actions[i]
		switch {
		case t.actions[a.Name] != nil:
			return nil, fmt.Errorf("service %s: action %s is there twice", s.Name, a.Name)
		case len(s.Known) > 0 && !t.known[a.Name]:
			return nil, fmt.Errorf("service %s: action %s is not in the model", s.Name, a.Name)
		}
		t.actions[a.Name] = a
	}
	for at, name := range s.Routes {
		t.routes = append(t.routes, newRoute(at, name))
	}
	return t, nil
}

// dryRun reports whether the input asks only whether the request would work.
func dryRun(in any) bool {
	f := reflect.ValueOf(in).Elem().FieldByName("DryRun")
	if !f.IsValid() {
		return false
	}
	b, ok := f.Interface().(*bool)
	return ok && b != nil && *b
}

// resourcesOf returns the ARNs that permission is needed for, never none.
func (a *Action) resourcesOf(ctx context.Context, in any, complete func(string) string) []string {
	if a.resources == nil {
		return []string{"*"}
	}
	var out []string
	for _, r := range a.resources(ctx, in) {
		out = append(out, complete(r))
	}
	if len(out) == 0 {
		return []string{"*"}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
