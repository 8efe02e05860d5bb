// Package storer shows our users, roles and sessions to versitygw's IAM engine, so
// that its object store can ask us whom a request is from and what they may do.
//
// The object store speaks versitygw's private protocol (derive-signing-key,
// evaluate-policy, resolve-identity) over a unix socket and never sees a secret or
// a policy. Here is only what those endpoints read: the engine writes nothing, all
// changes are made by control/iam. Managed policies appear as further policies of
// their holder. The engine knows one account, 000000000000; with another one, the
// ARNs it tells the object store for sessions have that number, not ours.
//
// It is a package of its own because it links an HTTP server: 4 MB that a control
// process without an object store need not carry.
package storer

import (
	"context"
	"fmt"
	"time"

	"github.com/versity/versitygw/iamapi"
	"github.com/versity/versitygw/iamapi/iamerr"
	"github.com/versity/versitygw/iamapi/private"
	"github.com/versity/versitygw/iamapi/storage"
	"github.com/versity/versitygw/iamapi/types"

	"github.com/ichiro-metal/ichiro/control/iam"
)

// Storer is versitygw's storage over an engine. Only what the private endpoints
// read is there; storage.Storer itself is nil and its other methods are not called.
type Storer struct {
	storage.Storer
	engine *iam.Engine
}

// New returns the storage over an engine.
func New(e *iam.Engine) *Storer { return &Storer{engine: e} }

// GetUser returns a user with all policies in force, without keys.
func (s *Storer) GetUser(_ context.Context, name string) (*types.User, error) {
	h, ok := s.engine.HolderOf("user", name)
	if !ok {
		return nil, iamerr.NoSuchEntityUser(name)
	}
	return &types.User{
		Path: h.User.Path, UserName: h.User.Name, UserID: h.User.ID, Arn: h.User.ARN, CreateDate: h.User.Created,
		Tags: tags(h.User.Tags), Policies: policies(h.Texts),
	}, nil
}

// GetUserByAccessKeyID returns the user whose active key this is, with that key.
func (s *Storer) GetUserByAccessKeyID(ctx context.Context, id string) (*types.User, error) {
	who, secret, err := s.engine.Lookup(id, "")
	if err != nil || who.Root() {
		return nil, iamerr.NoSuchEntityAccessKey(id)
	}
	u, err := s.GetUser(ctx, who.UserName())
	if err == nil {
		u.AccessKeys = []types.AccessKeyEntry{{AccessKeyId: id, SecretAccessKey: secret, Status: "Active"}}
	}
	return u, err
}

// GetRole returns a role with all policies in force.
func (s *Storer) GetRole(_ context.Context, name string) (*types.Role, error) {
	h, ok := s.engine.HolderOf("role", name)
	if !ok {
		return nil, iamerr.NoSuchEntityRole(name)
	}
	return &types.Role{
		Path: h.Role.Path, RoleName: h.Role.Name, RoleID: h.Role.ID, Arn: h.Role.ARN, CreateDate: h.Role.Created,
		AssumeRolePolicyDocument: h.Role.Trust, Tags: tags(h.Role.Tags), Policies: policies(h.Texts),
	}, nil
}

// GetSession returns a session that is not over.
func (s *Storer) GetSession(ctx context.Context, id string) (*types.Session, error) {
	v, secret, ok := s.engine.SessionOf(ctx, id)
	if !ok {
		return nil, storage.ErrSessionNotFound
	}
	return &types.Session{
		AccessKeyId: v.ID, SecretAccessKey: secret, SessionToken: v.Token, RoleArn: v.RoleARN, RoleName: v.RoleName, RoleID: v.RoleID,
		RoleSessionName: v.Name, CreateDate: v.Created, Expiration: v.Expires, Policy: v.Policy,
	}, nil
}

// GetOIDCProvider finds nothing: there are none.
func (s *Storer) GetOIDCProvider(_ context.Context, arn string) (*types.OIDCProvider, error) {
	return nil, iamerr.NoSuchEntityOIDCProviderGet(arn)
}

// RecordAccessKeyUsage keeps nothing: it would be a write for every request.
func (s *Storer) RecordAccessKeyUsage(context.Context, string, string, string, time.Time) error {
	return nil
}

// RecordRoleUsage keeps nothing.
func (s *Storer) RecordRoleUsage(context.Context, string, string, time.Time) error { return nil }

func tags(in []iam.Tag) []types.Tag {
	out := make([]types.Tag, len(in))
	for i, t := range in {
		out[i] = types.Tag(t)
	}
	return out
}

func policies(texts []iam.Inline) types.Policies {
	var p types.Policies
	for _, t := range texts {
		p.Inline = append(p.Inline, types.PolicyEntry{PolicyName: t.Name, PolicyDocument: t.Document})
	}
	return p
}

// Door serves the private endpoints to the object store, as a task.
type Door struct {
	path  string
	api   *private.PrivateAPI
	ready chan struct{}
}

// NewDoor returns a door on a unix socket. The object store signs with the key
// given, which is the door's alone: it is not the account's root.
func NewDoor(e *iam.Engine, path string, key iam.RootKey) (*Door, error) {
	p, err := private.New(New(e), iamapi.RootCredentials{Access: key.AccessKeyId, Secret: key.SecretAccessKey}, private.WithPrivateQuiet(), private.WithPrivateSocketPerm(0o600))
	if err != nil {
		return nil, fmt.Errorf("object store's door: %v", err)
	}
	return &Door{path: path, api: p, ready: make(chan struct{})}, nil
}

// Run serves until ctx ends.
func (d *Door) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = d.api.Shutdown() })
	defer stop()
	close(d.ready)
	if err := listen(d.api.ServeMultiPort, []string{d.path}); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve the object store's door at %s: %v", d.path, err)
	}
	return ctx.Err()
}

// listen calls f without TLS. The options' type is internal to versitygw, so it is
// inferred and not named.
func listen[T any](f func([]string, T) error, paths []string) error {
	var none T
	return f(paths, none)
}

// Ready is closed when the door is about to listen.
func (d *Door) Ready() <-chan struct{} { return d.ready }

// String names the door as a task.
func (d *Door) String() string { return "object store's door" }
