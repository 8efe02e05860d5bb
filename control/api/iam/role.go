package iam

import (
	"context"
	"slices"
	"strings"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/iam"
	engine "github.com/ichiro-metal/ichiro/control/iam"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func noBoundary(arn string) error {
	if arn == "" {
		return nil
	}
	return cloud.Errorf("InvalidInput", "PermissionsBoundary is not supported: leave it out, and write what it would forbid as Deny statements")
}

func (s *service) createRole(ctx context.Context, _ *engine.Principal, in *shape.CreateRoleInput) (*shape.CreateRoleOutput, error) {
	if err := noBoundary(in.PermissionsBoundary); err != nil {
		return nil, err
	}
	wish := engine.Role{
		Name: in.RoleName, Path: in.Path, Trust: in.AssumeRolePolicyDocument, Description: in.Description, Tags: toTags(in.Tags),
	}
	if in.MaxSessionDuration != nil {
		wish.MaxSession = int(*in.MaxSessionDuration)
	}
	r, err := s.engine.CreateRole(ctx, wish)
	return &shape.CreateRoleOutput{Role: wholeRole(r)}, err
}

func (s *service) getRole(_ context.Context, _ *engine.Principal, in *shape.GetRoleInput) (*shape.GetRoleOutput, error) {
	r, err := s.engine.Role(in.RoleName)
	return &shape.GetRoleOutput{Role: wholeRole(r)}, err
}

func (s *service) listRoles(_ context.Context, _ *engine.Principal, in *shape.ListRolesInput) (*shape.ListRolesOutput, error) {
	list, more, next, err := page(s.engine.Roles(in.PathPrefix), func(r engine.Role) string { return r.Name }, in.Marker, in.MaxItems)
	return &shape.ListRolesOutput{Roles: each(list, ofRole), IsTruncated: more, Marker: next}, err
}

func (s *service) updateRole(ctx context.Context, _ *engine.Principal, in *shape.UpdateRoleInput) (*shape.UpdateRoleOutput, error) {
	var description *string
	var session *int
	if in.Description != "" {
		description = &in.Description
	}
	if in.MaxSessionDuration != nil {
		n := int(*in.MaxSessionDuration)
		session = &n
	}
	return &shape.UpdateRoleOutput{}, s.engine.UpdateRole(ctx, in.RoleName, description, session)
}

func (s *service) updateRoleDescription(ctx context.Context, _ *engine.Principal, in *shape.UpdateRoleDescriptionInput) (*shape.UpdateRoleDescriptionOutput, error) {
	if err := s.engine.UpdateRole(ctx, in.RoleName, &in.Description, nil); err != nil {
		return nil, err
	}
	r, err := s.engine.Role(in.RoleName)
	return &shape.UpdateRoleDescriptionOutput{Role: wholeRole(r)}, err
}

func (s *service) updateAssumeRolePolicy(ctx context.Context, _ *engine.Principal, in *shape.UpdateAssumeRolePolicyInput) (*shape.UpdateAssumeRolePolicyOutput, error) {
	return &shape.UpdateAssumeRolePolicyOutput{}, s.engine.UpdateTrust(ctx, in.RoleName, in.PolicyDocument)
}

func (s *service) deleteRole(ctx context.Context, _ *engine.Principal, in *shape.DeleteRoleInput) (*shape.DeleteRoleOutput, error) {
	return &shape.DeleteRoleOutput{}, s.engine.DeleteRole(ctx, in.RoleName)
}

func (s *service) putRolePolicy(ctx context.Context, _ *engine.Principal, in *shape.PutRolePolicyInput) (*shape.PutRolePolicyOutput, error) {
	return &shape.PutRolePolicyOutput{}, s.engine.PutRolePolicy(ctx, in.RoleName, engine.Inline{Name: in.PolicyName, Document: in.PolicyDocument})
}

func (s *service) getRolePolicy(_ context.Context, _ *engine.Principal, in *shape.GetRolePolicyInput) (*shape.GetRolePolicyOutput, error) {
	r, err := s.engine.Role(in.RoleName)
	if err != nil {
		return nil, err
	}
	document, err := inline(r.Inline, "role", in.PolicyName)
	return &shape.GetRolePolicyOutput{RoleName: r.Name, PolicyName: in.PolicyName, PolicyDocument: document}, err
}

// inline returns the encoded text of the inline policy with this name.
func inline(list []engine.Inline, of, name string) (string, error) {
	for _, p := range list {
		if p.Name == name {
			return encoded(p.Document), nil
		}
	}
	return "", cloud.Errorf("NoSuchEntity", "The %s policy with name %s cannot be found.", of, name)
}

func inlineName(p engine.Inline) string { return p.Name }

func (s *service) listRolePolicies(_ context.Context, _ *engine.Principal, in *shape.ListRolePoliciesInput) (*shape.ListRolePoliciesOutput, error) {
	r, err := s.engine.Role(in.RoleName)
	if err != nil {
		return nil, err
	}
	list, more, next, err := page(r.Inline, inlineName, in.Marker, in.MaxItems)
	return &shape.ListRolePoliciesOutput{PolicyNames: each(list, inlineName), IsTruncated: more, Marker: next}, err
}

func (s *service) deleteRolePolicy(ctx context.Context, _ *engine.Principal, in *shape.DeleteRolePolicyInput) (*shape.DeleteRolePolicyOutput, error) {
	return &shape.DeleteRolePolicyOutput{}, s.engine.DeleteRolePolicy(ctx, in.RoleName, in.PolicyName)
}

func (s *service) attachRolePolicy(ctx context.Context, _ *engine.Principal, in *shape.AttachRolePolicyInput) (*shape.AttachRolePolicyOutput, error) {
	return &shape.AttachRolePolicyOutput{}, s.engine.AttachRolePolicy(ctx, in.RoleName, in.PolicyArn)
}

func (s *service) detachRolePolicy(ctx context.Context, _ *engine.Principal, in *shape.DetachRolePolicyInput) (*shape.DetachRolePolicyOutput, error) {
	return &shape.DetachRolePolicyOutput{}, s.engine.DetachRolePolicy(ctx, in.RoleName, in.PolicyArn)
}

func (s *service) listAttachedRolePolicies(_ context.Context, _ *engine.Principal, in *shape.ListAttachedRolePoliciesInput) (*shape.ListAttachedRolePoliciesOutput, error) {
	r, err := s.engine.Role(in.RoleName)
	if err != nil {
		return nil, err
	}
	list, more, next, err := page(s.attached(r.Attached, in.PathPrefix), attachedName, in.Marker, in.MaxItems)
	return &shape.ListAttachedRolePoliciesOutput{AttachedPolicies: list, IsTruncated: more, Marker: next}, err
}

func attachedName(p shape.AttachedPolicy) string { return p.PolicyName + " " + p.PolicyArn }

func (s *service) attached(arns []string, pathPrefix string) []shape.AttachedPolicy {
	var list []shape.AttachedPolicy
	for _, arn := range arns {
		if p, err := s.engine.Policy(arn); err == nil && strings.HasPrefix(p.Path, pathPrefix) {
			list = append(list, shape.AttachedPolicy{PolicyArn: p.ARN, PolicyName: p.Name})
		}
	}
	slices.SortFunc(list, func(a, b shape.AttachedPolicy) int {
		return strings.Compare(strings.ToLower(attachedName(a)), strings.ToLower(attachedName(b)))
	})
	return list
}

func (s *service) tagRole(ctx context.Context, _ *engine.Principal, in *shape.TagRoleInput) (*shape.TagRoleOutput, error) {
	return &shape.TagRoleOutput{}, s.engine.TagRole(ctx, in.RoleName, toTags(in.Tags))
}

func (s *service) untagRole(ctx context.Context, _ *engine.Principal, in *shape.UntagRoleInput) (*shape.UntagRoleOutput, error) {
	return &shape.UntagRoleOutput{}, s.engine.UntagRole(ctx, in.RoleName, in.TagKeys)
}

func (s *service) listRoleTags(_ context.Context, _ *engine.Principal, in *shape.ListRoleTagsInput) (*shape.ListRoleTagsOutput, error) {
	r, err := s.engine.Role(in.RoleName)
	if err != nil {
		return nil, err
	}
	list, more, next, err := page(sorted(r.Tags), tagKey, in.Marker, in.MaxItems)
	return &shape.ListRoleTagsOutput{Tags: ofTags(list), IsTruncated: more, Marker: next}, err
}

func tagKey(t engine.Tag) string { return t.Key }

func sorted(tags []engine.Tag) []engine.Tag {
	return slices.SortedFunc(slices.Values(tags), func(a, b engine.Tag) int {
		return strings.Compare(strings.ToLower(a.Key), strings.ToLower(b.Key))
	})
}
