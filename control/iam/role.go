package iam

import (
	"context"
	"slices"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Limits of a role's MaxSessionDuration, in seconds.
const (
	minRoleSession = 3600
	maxRoleSession = 43200
)

// CreateRole makes a role. Of the argument, Name, Path, Trust, Description,
// MaxSession and Tags are the wish; the rest is filled in.
func (e *Engine) CreateRole(ctx context.Context, r Role) (Role, error) {
	if err := checkName("roleName", r.Name, maxName); err != nil {
		return Role{}, err
	}
	var err error
	if r.Path, err = checkPath(r.Path); err != nil {
		return Role{}, err
	}
	if err := checkRoleText(r.Description, &r.MaxSession); err != nil {
		return Role{}, err
	}
	if err := checkTrust(r.Trust); err != nil {
		return Role{}, err
	}
	if r.Tags, err = mergeTags(nil, r.Tags); err != nil {
		return Role{}, err
	}
	r.ID, r.ARN, r.Created = newID("AROA", 17), e.arn("role"+r.Path+r.Name), e.now()
	r.Inline, r.Attached, r.Profiles = nil, nil, nil
	return r, e.change(ctx, func(t *tx) error {
		have, err := roles.get(t, r.Name)
		if err != nil {
			return err
		}
		if have != nil {
			return exists("Role", r.Name)
		}
		return roles.put(t, r.Name, &r)
	})
}

func checkRoleText(description string, session *int) error {
	if len(description) > 1000 {
		return invalid("description", description[:40]+"...", "Member must have length less than or equal to 1000")
	}
	if *session == 0 {
		*session = minRoleSession
	}
	if *session < minRoleSession || *session > maxRoleSession {
		return cloud.Errorf("ValidationError", "maxSessionDuration is %d: choose %d to %d seconds", *session, minRoleSession, maxRoleSession)
	}
	return nil
}

// Role returns a role as this process knows it.
func (e *Engine) Role(name string) (Role, error) {
	if r := roles.look(e, name); r != nil && r.Name == name {
		return *r, nil
	}
	return Role{}, noSuch("The role with name %s cannot be found.", name)
}

// Roles lists the roles below a path, by name.
func (e *Engine) Roles(pathPrefix string) []Role {
	return roles.list(e, func(r *Role) bool { return under(r.Path, pathPrefix) })
}

// UpdateRole changes what is not nil.
func (e *Engine) UpdateRole(ctx context.Context, name string, description *string, maxSession *int) error {
	_, err := e.editRole(ctx, name, func(_ *tx, r *Role) error {
		if description != nil {
			r.Description = *description
		}
		if maxSession != nil {
			r.MaxSession = *maxSession
		}
		return checkRoleText(r.Description, &r.MaxSession)
	})
	return err
}

// UpdateTrust replaces the role's trust policy.
func (e *Engine) UpdateTrust(ctx context.Context, name, document string) error {
	if err := checkTrust(document); err != nil {
		return err
	}
	_, err := e.editRole(ctx, name, func(_ *tx, r *Role) error { r.Trust = document; return nil })
	return err
}

// DeleteRole removes a role which has no policies and is in no instance
// profile. Its sessions are refused from then on.
func (e *Engine) DeleteRole(ctx context.Context, name string) error {
	return e.change(ctx, func(t *tx) error {
		r, err := needRole(t, name)
		if err != nil {
			return err
		}
		switch {
		case len(r.Profiles) > 0:
			return conflict("remove roles from instance profile")
		case len(r.Attached) > 0:
			return conflict("detach all policies")
		case len(r.Inline) > 0:
			return conflict("delete policies")
		}
		return roles.drop(t, name)
	})
}

// PutRolePolicy sets an inline policy of a role.
func (e *Engine) PutRolePolicy(ctx context.Context, role string, p Inline) error {
	if err := checkInline(p); err != nil {
		return err
	}
	_, err := e.editRole(ctx, role, func(_ *tx, r *Role) (err error) {
		r.Inline, err = putInline(r.Inline, p, maxRoleInline)
		return err
	})
	return err
}

// DeleteRolePolicy removes an inline policy of a role.
func (e *Engine) DeleteRolePolicy(ctx context.Context, role, name string) error {
	_, err := e.editRole(ctx, role, func(_ *tx, r *Role) error {
		n := len(r.Inline)
		r.Inline = slices.DeleteFunc(slices.Clone(r.Inline), func(p Inline) bool { return p.Name == name })
		if len(r.Inline) == n {
			return noSuch("The role policy with name %s cannot be found.", name)
		}
		return nil
	})
	return err
}

// TagRole lays tags over the role's.
func (e *Engine) TagRole(ctx context.Context, role string, tags []Tag) error {
	_, err := e.editRole(ctx, role, func(_ *tx, r *Role) (err error) {
		r.Tags, err = mergeTags(r.Tags, tags)
		return err
	})
	return err
}

// UntagRole removes tags by key.
func (e *Engine) UntagRole(ctx context.Context, role string, keys []string) error {
	_, err := e.editRole(ctx, role, func(_ *tx, r *Role) error { r.Tags = dropTags(r.Tags, keys); return nil })
	return err
}

// AttachRolePolicy gives a role a managed policy. Twice is once.
func (e *Engine) AttachRolePolicy(ctx context.Context, role, arn string) error {
	_, err := e.editRole(ctx, role, func(t *tx, r *Role) (err error) {
		r.Attached, err = e.attach(t, r.Attached, arn)
		return err
	})
	return err
}

// DetachRolePolicy takes a managed policy from a role.
func (e *Engine) DetachRolePolicy(ctx context.Context, role, arn string) error {
	_, err := e.editRole(ctx, role, func(t *tx, r *Role) (err error) {
		r.Attached, err = e.detach(t, r.Attached, arn)
		return err
	})
	return err
}

func (e *Engine) editRole(ctx context.Context, name string, edit func(*tx, *Role) error) (Role, error) {
	var out Role
	err := e.change(ctx, func(t *tx) error {
		r, err := needRole(t, name)
		if err != nil {
			return err
		}
		if err := edit(t, r); err != nil {
			return err
		}
		out = *r
		return roles.put(t, name, r)
	})
	return out, err
}

func needRole(t *tx, name string) (*Role, error) {
	r, err := roles.get(t, name)
	if err == nil && (r == nil || r.Name != name) {
		err = noSuch("The role with name %s cannot be found.", name)
	}
	return r, err
}

func checkInline(p Inline) error {
	if err := checkName("policyName", p.Name, maxLong); err != nil {
		return err
	}
	return checkPolicy(p.Document, maxRoleInline)
}
