package iam

import (
	"context"
	"slices"
	"strings"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/iam"
	engine "github.com/ichiro-metal/ichiro/control/iam"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func (s *service) createPolicy(ctx context.Context, _ *engine.Principal, in *shape.CreatePolicyInput) (*shape.CreatePolicyOutput, error) {
	p, err := s.engine.CreatePolicy(ctx, engine.Policy{
		Name: in.PolicyName, Path: in.Path, Description: in.Description, Tags: toTags(in.Tags),
	}, in.PolicyDocument)
	return &shape.CreatePolicyOutput{Policy: wholePolicy(p)}, err
}

func (s *service) getPolicy(_ context.Context, _ *engine.Principal, in *shape.GetPolicyInput) (*shape.GetPolicyOutput, error) {
	p, err := s.engine.Policy(in.PolicyArn)
	return &shape.GetPolicyOutput{Policy: wholePolicy(p)}, err
}

func (s *service) listPolicies(_ context.Context, _ *engine.Principal, in *shape.ListPoliciesInput) (*shape.ListPoliciesOutput, error) {
	var all []engine.Policy
	switch in.Scope {
	case "", "All":
		all = append(s.engine.Policies(in.PathPrefix), s.builtins(in.PathPrefix)...)
	case "AWS":
		all = s.builtins(in.PathPrefix)
	case "Local":
		all = s.engine.Policies(in.PathPrefix)
	default:
		return nil, cloud.Errorf("ValidationError", "1 validation error detected: Value '%.40s' at 'scope' failed to satisfy constraint: Member must satisfy enum value set: [All, AWS, Local]", in.Scope)
	}
	if in.OnlyAttached != nil && *in.OnlyAttached {
		all = slices.DeleteFunc(all, func(p engine.Policy) bool { return p.Attachments == 0 })
	}
	// An own policy may have the name of a built-in one, so the ARN takes part.
	name := func(p engine.Policy) string { return p.Name + " " + p.ARN }
	slices.SortFunc(all, func(a, b engine.Policy) int {
		return strings.Compare(strings.ToLower(name(a)), strings.ToLower(name(b)))
	})
	list, more, next, err := page(all, name, in.Marker, in.MaxItems)
	return &shape.ListPoliciesOutput{Policies: each(list, ofPolicy), IsTruncated: more, Marker: next}, err
}

func (s *service) builtins(pathPrefix string) []engine.Policy {
	if strings.HasPrefix("/", pathPrefix) {
		return s.engine.Builtins()
	}
	return nil
}

func (s *service) deletePolicy(ctx context.Context, _ *engine.Principal, in *shape.DeletePolicyInput) (*shape.DeletePolicyOutput, error) {
	return &shape.DeletePolicyOutput{}, s.engine.DeletePolicy(ctx, in.PolicyArn)
}

func (s *service) createPolicyVersion(ctx context.Context, _ *engine.Principal, in *shape.CreatePolicyVersionInput) (*shape.CreatePolicyVersionOutput, error) {
	inForce := in.SetAsDefault != nil && *in.SetAsDefault
	v, err := s.engine.CreatePolicyVersion(ctx, in.PolicyArn, in.PolicyDocument, inForce)
	return &shape.CreatePolicyVersionOutput{PolicyVersion: &shape.PolicyVersion{
		VersionId: v.ID, IsDefaultVersion: &inForce, CreateDate: at(v.Created),
	}}, err
}

func (s *service) getPolicyVersion(_ context.Context, _ *engine.Principal, in *shape.GetPolicyVersionInput) (*shape.GetPolicyVersionOutput, error) {
	p, err := s.engine.Policy(in.PolicyArn)
	if err != nil {
		return nil, err
	}
	for _, v := range p.Versions {
		if v.ID == in.VersionId {
			out := ofVersion(p, v)
			out.Document = encoded(v.Document)
			return &shape.GetPolicyVersionOutput{PolicyVersion: &out}, nil
		}
	}
	return nil, cloud.Errorf("NoSuchEntity", "Policy %s version %s does not exist or is not attachable.", in.PolicyArn, in.VersionId)
}

// listPolicyVersions shows the newest first, all at once: there are five at most.
func (s *service) listPolicyVersions(_ context.Context, _ *engine.Principal, in *shape.ListPolicyVersionsInput) (*shape.ListPolicyVersionsOutput, error) {
	p, err := s.engine.Policy(in.PolicyArn)
	list := each(p.Versions, func(v engine.PolicyVersion) shape.PolicyVersion { return ofVersion(p, v) })
	slices.Reverse(list)
	return &shape.ListPolicyVersionsOutput{Versions: list, IsTruncated: new(bool)}, err
}

func (s *service) setDefaultPolicyVersion(ctx context.Context, _ *engine.Principal, in *shape.SetDefaultPolicyVersionInput) (*shape.SetDefaultPolicyVersionOutput, error) {
	return &shape.SetDefaultPolicyVersionOutput{}, s.engine.SetDefaultPolicyVersion(ctx, in.PolicyArn, in.VersionId)
}

func (s *service) deletePolicyVersion(ctx context.Context, _ *engine.Principal, in *shape.DeletePolicyVersionInput) (*shape.DeletePolicyVersionOutput, error) {
	return &shape.DeletePolicyVersionOutput{}, s.engine.DeletePolicyVersion(ctx, in.PolicyArn, in.VersionId)
}

// listEntitiesForPolicy shows all holders at once.
func (s *service) listEntitiesForPolicy(_ context.Context, _ *engine.Principal, in *shape.ListEntitiesForPolicyInput) (*shape.ListEntitiesForPolicyOutput, error) {
	p, err := s.engine.Policy(in.PolicyArn)
	if err != nil {
		return nil, err
	}
	users, roles := s.engine.Holders(p.ARN)
	out := &shape.ListEntitiesForPolicyOutput{
		IsTruncated: new(bool), PolicyGroups: []shape.PolicyGroup{}, PolicyRoles: []shape.PolicyRole{}, PolicyUsers: []shape.PolicyUser{},
	}
	if in.EntityFilter == "" || in.EntityFilter == "User" {
		out.PolicyUsers = each(users, func(u engine.User) shape.PolicyUser { return shape.PolicyUser{UserId: u.ID, UserName: u.Name} })
	}
	if in.EntityFilter == "" || in.EntityFilter == "Role" {
		out.PolicyRoles = each(roles, func(r engine.Role) shape.PolicyRole { return shape.PolicyRole{RoleId: r.ID, RoleName: r.Name} })
	}
	return out, nil
}

func (s *service) tagPolicy(ctx context.Context, _ *engine.Principal, in *shape.TagPolicyInput) (*shape.TagPolicyOutput, error) {
	return &shape.TagPolicyOutput{}, s.engine.TagPolicy(ctx, in.PolicyArn, toTags(in.Tags))
}

func (s *service) untagPolicy(ctx context.Context, _ *engine.Principal, in *shape.UntagPolicyInput) (*shape.UntagPolicyOutput, error) {
	return &shape.UntagPolicyOutput{}, s.engine.UntagPolicy(ctx, in.PolicyArn, in.TagKeys)
}

func (s *service) listPolicyTags(_ context.Context, _ *engine.Principal, in *shape.ListPolicyTagsInput) (*shape.ListPolicyTagsOutput, error) {
	p, err := s.engine.Policy(in.PolicyArn)
	if err != nil {
		return nil, err
	}
	list, more, next, err := page(sorted(p.Tags), tagKey, in.Marker, in.MaxItems)
	return &shape.ListPolicyTagsOutput{Tags: ofTags(list), IsTruncated: more, Marker: next}, err
}
