package iam

import (
	"context"
	"errors"
	"slices"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// maxKeys is IAM's quota of access keys for one user.
const maxKeys = 2

// CreateUser makes a user. Name, Path and Tags are the wish.
func (e *Engine) CreateUser(ctx context.Context, u User) (User, error) {
	if err := checkName("userName", u.Name, maxName); err != nil {
		return User{}, err
	}
	var err error
	if u.Path, err = checkPath(u.Path); err != nil {
		return User{}, err
	}
	if u.Tags, err = mergeTags(nil, u.Tags); err != nil {
		return User{}, err
	}
	u.ID, u.ARN, u.Created = newID("AIDA", 17), e.arn("user"+u.Path+u.Name), e.now()
	u.Inline, u.Attached, u.Keys = nil, nil, nil
	return u, e.change(ctx, func(t *tx) error {
		have, err := users.get(t, u.Name)
		if err != nil {
			return err
		}
		if have != nil {
			return exists("User", u.Name)
		}
		return users.put(t, u.Name, &u)
	})
}

// User returns a user as this process knows it.
func (e *Engine) User(name string) (User, error) {
	if u := users.look(e, name); u != nil && u.Name == name {
		return *u, nil
	}
	return User{}, noSuch("The user with name %s cannot be found.", name)
}

// Users lists the users below a path, by name.
func (e *Engine) Users(pathPrefix string) []User {
	return users.list(e, func(u *User) bool { return under(u.Path, pathPrefix) })
}

// DeleteUser removes a user who has no keys and no policies.
func (e *Engine) DeleteUser(ctx context.Context, name string) error {
	return e.change(ctx, func(t *tx) error {
		u, err := needUser(t, name)
		if err != nil {
			return err
		}
		switch {
		case len(u.Keys) > 0:
			return conflict("delete access keys")
		case len(u.Attached) > 0:
			return conflict("detach all policies")
		case len(u.Inline) > 0:
			return conflict("delete policies")
		}
		return users.drop(t, name)
	})
}

// PutUserPolicy sets an inline policy of a user.
func (e *Engine) PutUserPolicy(ctx context.Context, user string, p Inline) error {
	if err := checkInline(p); err != nil {
		return err
	}
	return e.editUser(ctx, user, func(_ *tx, u *User) (err error) {
		u.Inline, err = putInline(u.Inline, p, maxUserInline)
		return err
	})
}

// DeleteUserPolicy removes an inline policy of a user.
func (e *Engine) DeleteUserPolicy(ctx context.Context, user, name string) error {
	return e.editUser(ctx, user, func(_ *tx, u *User) error {
		n := len(u.Inline)
		u.Inline = slices.DeleteFunc(slices.Clone(u.Inline), func(p Inline) bool { return p.Name == name })
		if len(u.Inline) == n {
			return noSuch("The user policy with name %s cannot be found.", name)
		}
		return nil
	})
}

// TagUser lays tags over the user's.
func (e *Engine) TagUser(ctx context.Context, user string, tags []Tag) error {
	return e.editUser(ctx, user, func(_ *tx, u *User) (err error) {
		u.Tags, err = mergeTags(u.Tags, tags)
		return err
	})
}

// UntagUser removes tags by key.
func (e *Engine) UntagUser(ctx context.Context, user string, keys []string) error {
	return e.editUser(ctx, user, func(_ *tx, u *User) error { u.Tags = dropTags(u.Tags, keys); return nil })
}

// AttachUserPolicy gives a user a managed policy. Twice is once.
func (e *Engine) AttachUserPolicy(ctx context.Context, user, arn string) error {
	return e.editUser(ctx, user, func(t *tx, u *User) (err error) {
		u.Attached, err = e.attach(t, u.Attached, arn)
		return err
	})
}

// DetachUserPolicy takes a managed policy from a user.
func (e *Engine) DetachUserPolicy(ctx context.Context, user, arn string) error {
	return e.editUser(ctx, user, func(t *tx, u *User) (err error) {
		u.Attached, err = e.detach(t, u.Attached, arn)
		return err
	})
}

// CreateAccessKey makes a long-term key and returns its secret, which is never
// shown again.
func (e *Engine) CreateAccessKey(ctx context.Context, user string) (AccessKey, string, error) {
	secret := newSecret()
	k := AccessKey{ID: newID("AKIA", 16), User: user, Active: true, Created: e.now()}
	k.Sealed = e.vault.seal("access-key/"+k.ID, []byte(secret))
	err := e.editUser(ctx, user, func(t *tx, u *User) error {
		if len(u.Keys) >= maxKeys {
			return cloud.Errorf("LimitExceeded", "Cannot exceed quota for AccessKeysPerUser: %d", maxKeys)
		}
		k.UserID = u.ID
		u.Keys = append(slices.Clone(u.Keys), k.ID)
		return keys.put(t, k.ID, &k)
	})
	return k, secret, err
}

// SetAccessKey makes a key active or not.
func (e *Engine) SetAccessKey(ctx context.Context, user, id string, active bool) error {
	return e.change(ctx, func(t *tx) error {
		k, err := needKey(t, user, id)
		if err != nil {
			return err
		}
		k.Active = active
		return keys.put(t, id, k)
	})
}

// DeleteAccessKey removes a key; requests signed with it fail from then on.
func (e *Engine) DeleteAccessKey(ctx context.Context, user, id string) error {
	return e.editUser(ctx, user, func(t *tx, u *User) error {
		if _, err := needKey(t, user, id); err != nil {
			return err
		}
		u.Keys, _ = remove(u.Keys, id)
		return keys.drop(t, id)
	})
}

// AccessKeys lists a user's keys, oldest first.
func (e *Engine) AccessKeys(user string) ([]AccessKey, error) {
	u, err := e.User(user)
	if err != nil {
		return nil, err
	}
	var list []AccessKey
	for _, id := range u.Keys {
		if k := keys.look(e, id); k != nil {
			list = append(list, *k)
		}
	}
	return list, nil
}

// AccessKey returns a key by its id.
func (e *Engine) AccessKey(id string) (AccessKey, error) {
	if k := keys.look(e, id); k != nil {
		return *k, nil
	}
	return AccessKey{}, noSuch("The Access Key with id %s cannot be found.", id)
}

func (e *Engine) editUser(ctx context.Context, name string, edit func(*tx, *User) error) error {
	return e.change(ctx, func(t *tx) error {
		u, err := needUser(t, name)
		if err != nil {
			return err
		}
		if err := edit(t, u); err != nil {
			return err
		}
		return users.put(t, name, u)
	})
}

func needUser(t *tx, name string) (*User, error) {
	u, err := users.get(t, name)
	if err == nil && (u == nil || u.Name != name) {
		err = noSuch("The user with name %s cannot be found.", name)
	}
	return u, err
}

func needKey(t *tx, user, id string) (*AccessKey, error) {
	k, err := keys.get(t, id)
	if err == nil && (k == nil || k.User != user) {
		err = noSuch("The Access Key with id %s cannot be found.", id)
	}
	return k, err
}

// UpdateUser gives a user another path or name, where not empty. The id and the
// keys stay; policies that name the old ARN no longer speak of the user.
func (e *Engine) UpdateUser(ctx context.Context, name, newPath, newName string) error {
	return e.change(ctx, func(t *tx) error {
		u, err := needUser(t, name)
		if err != nil {
			return err
		}
		if newPath != "" {
			if u.Path, err = checkPath(newPath); err != nil {
				return err
			}
		}
		if newName != "" && newName != name {
			if err := moveUser(t, u, newName); err != nil {
				return err
			}
		}
		u.ARN = e.arn("user" + u.Path + u.Name)
		return users.put(t, u.Name, u)
	})
}

func moveUser(t *tx, u *User, to string) error {
	if err := checkName("newUserName", to, maxName); err != nil {
		return err
	}
	if fold(to) != fold(u.Name) {
		taken, err := users.get(t, to)
		if err != nil {
			return err
		}
		if taken != nil {
			return exists("User", to)
		}
		if err := users.drop(t, u.Name); err != nil {
			return err
		}
	}
	u.Name = to
	for _, id := range u.Keys {
		k, err := keys.get(t, id)
		if err != nil {
			return err
		}
		if k == nil {
			continue
		}
		k.User = to
		if err := keys.put(t, id, k); err != nil {
			return err
		}
	}
	return nil
}

// Issued reports whether an access key is one of ours: a user's, a session's that
// is still recorded, or the root's.
func (e *Engine) Issued(ctx context.Context, id string) (bool, error) {
	if id == e.root.AccessKeyId || keys.look(e, id) != nil {
		return true, nil
	}
	if !isTemporary(id) {
		return false, nil
	}
	_, err := store.Get(ctx, e.client, sessions.kind, fold(id))
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, unavailable(err)
}
