package iam

import (
	"context"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// CreateProfile makes an instance profile. Name, Path and Tags are the wish.
func (e *Engine) CreateProfile(ctx context.Context, p Profile) (Profile, error) {
	if err := checkName("instanceProfileName", p.Name, maxLong); err != nil {
		return Profile{}, err
	}
	var err error
	if p.Path, err = checkPath(p.Path); err != nil {
		return Profile{}, err
	}
	if p.Tags, err = mergeTags(nil, p.Tags); err != nil {
		return Profile{}, err
	}
	p.ID, p.ARN, p.Created, p.Role = newID("AIPA", 17), e.arn("instance-profile"+p.Path+p.Name), e.now(), ""
	return p, e.change(ctx, func(t *tx) error {
		have, err := profiles.get(t, p.Name)
		if err != nil {
			return err
		}
		if have != nil {
			return cloud.Errorf("EntityAlreadyExists", "Instance Profile %s already exists.", p.Name)
		}
		return profiles.put(t, p.Name, &p)
	})
}

// Profile returns an instance profile as this process knows it.
func (e *Engine) Profile(name string) (Profile, error) {
	if p := profiles.look(e, name); p != nil && p.Name == name {
		return *p, nil
	}
	return Profile{}, noProfile(name)
}

// Profiles lists the instance profiles below a path, by name.
func (e *Engine) Profiles(pathPrefix string) []Profile {
	return profiles.list(e, func(p *Profile) bool { return under(p.Path, pathPrefix) })
}

// DeleteProfile removes an instance profile that holds no role.
func (e *Engine) DeleteProfile(ctx context.Context, name string) error {
	return e.change(ctx, func(t *tx) error {
		p, err := needProfile(t, name)
		if err != nil {
			return err
		}
		if p.Role != "" {
			return conflict("remove roles from instance profile")
		}
		return profiles.drop(t, name)
	})
}

// AddRole puts a role into an instance profile, which holds one at most.
func (e *Engine) AddRole(ctx context.Context, profile, role string) error {
	return e.change(ctx, func(t *tx) error {
		p, err := needProfile(t, profile)
		if err != nil {
			return err
		}
		r, err := needRole(t, role)
		if err != nil {
			return err
		}
		if p.Role != "" {
			return cloud.Errorf("LimitExceeded", "Cannot exceed quota for InstanceSessionsPerInstanceProfile: 1")
		}
		p.Role = role
		r.Profiles = append(r.Profiles[:len(r.Profiles):len(r.Profiles)], profile)
		if err := roles.put(t, role, r); err != nil {
			return err
		}
		return profiles.put(t, profile, p)
	})
}

// RemoveRole takes the role out of an instance profile.
func (e *Engine) RemoveRole(ctx context.Context, profile, role string) error {
	return e.change(ctx, func(t *tx) error {
		p, err := needProfile(t, profile)
		if err != nil {
			return err
		}
		r, err := needRole(t, role)
		if err != nil {
			return err
		}
		if p.Role != role {
			return noSuch("Role %s in instance profile %s cannot be found.", role, profile)
		}
		p.Role = ""
		r.Profiles, _ = remove(r.Profiles, profile)
		if err := roles.put(t, role, r); err != nil {
			return err
		}
		return profiles.put(t, profile, p)
	})
}

// TagProfile lays tags over the profile's.
func (e *Engine) TagProfile(ctx context.Context, name string, tags []Tag) error {
	return e.editProfile(ctx, name, func(p *Profile) (err error) { p.Tags, err = mergeTags(p.Tags, tags); return err })
}

// UntagProfile removes tags by key.
func (e *Engine) UntagProfile(ctx context.Context, name string, keys []string) error {
	return e.editProfile(ctx, name, func(p *Profile) error { p.Tags = dropTags(p.Tags, keys); return nil })
}

func (e *Engine) editProfile(ctx context.Context, name string, edit func(*Profile) error) error {
	return e.change(ctx, func(t *tx) error {
		p, err := needProfile(t, name)
		if err != nil {
			return err
		}
		if err := edit(p); err != nil {
			return err
		}
		return profiles.put(t, name, p)
	})
}

// ResolveProfile finds an instance profile by its name or ARN. The codes are EC2's.
func (e *Engine) ResolveProfile(_ context.Context, nameOrARN string) (cloud.ProfileRef, error) {
	if !e.isReady() {
		return cloud.ProfileRef{}, errNotReady
	}
	name, field := nameOrARN, "name"
	if strings.HasPrefix(nameOrARN, "arn:") {
		name, field = policyName(nameOrARN), "arn"
	}
	p := profiles.look(e, name)
	if p == nil || p.Name != name || field == "arn" && p.ARN != nameOrARN {
		return cloud.ProfileRef{}, cloud.Errorf("InvalidParameterValue", "Value (%s) for parameter iamInstanceProfile.%s is invalid. Invalid IAM Instance Profile %s",
			nameOrARN, field, map[string]string{"name": "name", "arn": "ARN"}[field])
	}
	return cloud.ProfileRef{Name: p.Name, ARN: p.ARN, ID: p.ID, RoleName: p.Role}, nil
}

// ProfileNow returns what an instance's profile is now. One that was made anew under the same name is not it.
func (e *Engine) ProfileNow(ctx context.Context, p cloud.ProfileRef) (cloud.ProfileRef, error) {
	now, err := e.ResolveProfile(ctx, p.ARN)
	if err == nil && now.ID != p.ID {
		err = cloud.Errorf("InstanceProfileNotFound", "instance profile %s (%s) is gone, and %s of the same name is another: associate that one", p.ID, p.Name, now.ID)
	}
	return now, err
}

func needProfile(t *tx, name string) (*Profile, error) {
	p, err := profiles.get(t, name)
	if err == nil && (p == nil || p.Name != name) {
		err = noProfile(name)
	}
	return p, err
}

func noProfile(name string) error {
	return noSuch("Instance Profile %s cannot be found.", name)
}
