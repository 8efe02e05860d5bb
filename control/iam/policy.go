package iam

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

const (
	maxAttached = 10 // managed policies on one user or role
	maxVersions = 5  // of one managed policy
)

// CreatePolicy makes a managed policy. Name, Path, Description and Tags are the
// wish, document its first version.
func (e *Engine) CreatePolicy(ctx context.Context, p Policy, document string) (Policy, error) {
	if err := checkName("policyName", p.Name, maxLong); err != nil {
		return Policy{}, err
	}
	var err error
	if p.Path, err = checkPath(p.Path); err != nil {
		return Policy{}, err
	}
	if err := checkPolicy(document, maxManaged); err != nil {
		return Policy{}, err
	}
	if p.Tags, err = mergeTags(nil, p.Tags); err != nil {
		return Policy{}, err
	}
	p.ID, p.ARN, p.Created = newID("ANPA", 17), e.arn("policy"+p.Path+p.Name), e.now()
	p.Updated, p.Default, p.Last, p.Attachments = p.Created, "v1", 1, 0
	p.Versions = []PolicyVersion{{ID: "v1", Document: document, Created: p.Created}}
	return p, e.change(ctx, func(t *tx) error {
		have, err := policies.get(t, p.Name)
		if err != nil {
			return err
		}
		if have != nil {
			return cloud.Errorf("EntityAlreadyExists", "A policy called %s already exists. Duplicate names are not allowed.", p.Name)
		}
		return policies.put(t, p.Name, &p)
	})
}

// Policy returns a managed policy by its ARN, ours or a built-in one.
func (e *Engine) Policy(arn string) (Policy, error) {
	if p, ok := builtinPolicy(arn); ok {
		p.Attachments = e.countAttached(p.ARN)
		return p, nil
	}
	if p := policies.look(e, policyName(arn)); p != nil && p.ARN == arn {
		return *p, nil
	}
	return Policy{}, noPolicy(arn)
}

// Policies lists the account's own managed policies below a path, by name.
func (e *Engine) Policies(pathPrefix string) []Policy {
	return policies.list(e, func(p *Policy) bool { return under(p.Path, pathPrefix) })
}

// Builtins lists the policies that every account has, by name.
func (e *Engine) Builtins() []Policy {
	var list []Policy
	for name := range builtin {
		p, _ := builtinPolicy(builtinPrefix + name)
		p.Attachments = e.countAttached(p.ARN)
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b Policy) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// DeletePolicy removes a managed policy that nobody has and that has one version.
func (e *Engine) DeletePolicy(ctx context.Context, arn string) error {
	return e.change(ctx, func(t *tx) error {
		p, err := needPolicy(t, arn)
		if err != nil {
			return err
		}
		if p.Attachments > 0 {
			return cloud.Errorf("DeleteConflict", "Cannot delete a policy attached to entities.")
		}
		if len(p.Versions) > 1 {
			return cloud.Errorf("DeleteConflict", "This policy has more than one version. Before you delete a policy, you must delete the policy's versions. The default version is deleted with the policy.")
		}
		return policies.drop(t, p.Name)
	})
}

// CreatePolicyVersion adds a text, and makes it the one in force when asked.
func (e *Engine) CreatePolicyVersion(ctx context.Context, arn, document string, inForce bool) (PolicyVersion, error) {
	if err := checkPolicy(document, maxManaged); err != nil {
		return PolicyVersion{}, err
	}
	var v PolicyVersion
	return v, e.editPolicy(ctx, arn, func(p *Policy) error {
		if len(p.Versions) >= maxVersions {
			return cloud.Errorf("LimitExceeded", "A managed policy can have up to %d versions. Before you create a new version, you must delete an existing version.", maxVersions)
		}
		p.Last++
		v = PolicyVersion{ID: fmt.Sprintf("v%d", p.Last), Document: document, Created: e.now()}
		p.Versions = append(slices.Clone(p.Versions), v)
		if inForce {
			p.Default = v.ID
		}
		return nil
	})
}

// SetDefaultPolicyVersion chooses the version in force.
func (e *Engine) SetDefaultPolicyVersion(ctx context.Context, arn, id string) error {
	return e.editPolicy(ctx, arn, func(p *Policy) error {
		if !slices.ContainsFunc(p.Versions, func(v PolicyVersion) bool { return v.ID == id }) {
			return noVersion(arn, id)
		}
		p.Default = id
		return nil
	})
}

// DeletePolicyVersion removes a version which is not in force.
func (e *Engine) DeletePolicyVersion(ctx context.Context, arn, id string) error {
	return e.editPolicy(ctx, arn, func(p *Policy) error {
		if p.Default == id {
			return cloud.Errorf("DeleteConflict", "Cannot delete the default version of a policy.")
		}
		n := len(p.Versions)
		p.Versions = slices.DeleteFunc(slices.Clone(p.Versions), func(v PolicyVersion) bool { return v.ID == id })
		if len(p.Versions) == n {
			return noVersion(arn, id)
		}
		return nil
	})
}

// TagPolicy lays tags over the policy's.
func (e *Engine) TagPolicy(ctx context.Context, arn string, tags []Tag) error {
	return e.editPolicy(ctx, arn, func(p *Policy) (err error) { p.Tags, err = mergeTags(p.Tags, tags); return err })
}

// UntagPolicy removes tags by key.
func (e *Engine) UntagPolicy(ctx context.Context, arn string, keys []string) error {
	return e.editPolicy(ctx, arn, func(p *Policy) error { p.Tags = dropTags(p.Tags, keys); return nil })
}

// Holders names the users and roles that have a managed policy.
func (e *Engine) Holders(arn string) (inUsers []User, inRoles []Role) {
	inUsers = users.list(e, func(u *User) bool { return slices.Contains(u.Attached, arn) })
	inRoles = roles.list(e, func(r *Role) bool { return slices.Contains(r.Attached, arn) })
	return inUsers, inRoles
}

func (e *Engine) countAttached(arn string) int {
	u, r := e.Holders(arn)
	return len(u) + len(r)
}

// attach returns list with arn in it and counts that in the policy's record, so
// that the policy cannot be deleted at the same moment.
func (e *Engine) attach(t *tx, list []string, arn string) ([]string, error) {
	if p, ok := builtinPolicy(arn); ok {
		arn = p.ARN
	}
	if slices.Contains(list, arn) {
		return list, nil
	}
	if len(list) >= maxAttached {
		return nil, cloud.Errorf("LimitExceeded", "Cannot exceed quota for PoliciesPerEntity: %d", maxAttached)
	}
	if err := countAttachment(t, arn, +1); err != nil {
		return nil, err
	}
	return append(slices.Clone(list), arn), nil
}

func (e *Engine) detach(t *tx, list []string, arn string) ([]string, error) {
	if p, ok := builtinPolicy(arn); ok {
		arn = p.ARN
	}
	list, ok := remove(list, arn)
	if !ok {
		return nil, noSuch("Policy %s was not found.", arn)
	}
	return list, countAttachment(t, arn, -1)
}

func countAttachment(t *tx, arn string, by int) error {
	if strings.HasPrefix(arn, builtinPrefix) {
		if _, ok := builtinPolicy(arn); !ok {
			return noPolicy(arn)
		}
		return nil
	}
	p, err := needPolicy(t, arn)
	if err != nil {
		return err
	}
	p.Attachments += by
	return policies.put(t, p.Name, p)
}

func (e *Engine) editPolicy(ctx context.Context, arn string, edit func(*Policy) error) error {
	return e.change(ctx, func(t *tx) error {
		p, err := needPolicy(t, arn)
		if err != nil {
			return err
		}
		if err := edit(p); err != nil {
			return err
		}
		p.Updated = e.now()
		return policies.put(t, p.Name, p)
	})
}

func needPolicy(t *tx, arn string) (*Policy, error) {
	if strings.HasPrefix(arn, builtinPrefix) {
		if _, ok := builtinPolicy(arn); ok {
			return nil, cloud.Errorf("AccessDenied", "policy %s belongs to every account and cannot be changed: make one of your own", arn)
		}
		return nil, noPolicy(arn)
	}
	name := policyName(arn)
	if name == "" {
		return nil, invalid("policyArn", arn, "Member must be the ARN of a policy")
	}
	p, err := policies.get(t, name)
	if err == nil && (p == nil || p.ARN != arn) {
		err = noPolicy(arn)
	}
	return p, err
}

// policyName returns what follows the last slash: names are unique in an account whatever their path.
func policyName(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

func noPolicy(arn string) error {
	return noSuch("Policy %s does not exist or is not attachable.", arn)
}

func noVersion(arn, id string) error {
	return noSuch("Policy %s version %s does not exist or is not attachable.", arn, id)
}
