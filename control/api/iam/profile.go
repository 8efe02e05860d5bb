package iam

import (
	"context"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/iam"
	engine "github.com/ichiro-metal/ichiro/control/iam"
)

// ofProfile shows an instance profile with the role in it.
func (s *service) ofProfile(p engine.Profile) shape.InstanceProfile {
	out := shape.InstanceProfile{
		Arn: p.ARN, InstanceProfileName: p.Name, InstanceProfileId: p.ID, Path: p.Path, CreateDate: at(p.Created), Roles: []shape.Role{},
	}
	if r, err := s.engine.Role(p.Role); err == nil {
		out.Roles = append(out.Roles, ofRole(r))
	}
	return out
}

func (s *service) wholeProfile(p engine.Profile) *shape.InstanceProfile {
	out := s.ofProfile(p)
	out.Tags = ofTags(p.Tags)
	return &out
}

func profileName(p engine.Profile) string { return p.Name }

func (s *service) createInstanceProfile(ctx context.Context, _ *engine.Principal, in *shape.CreateInstanceProfileInput) (*shape.CreateInstanceProfileOutput, error) {
	p, err := s.engine.CreateProfile(ctx, engine.Profile{Name: in.InstanceProfileName, Path: in.Path, Tags: toTags(in.Tags)})
	return &shape.CreateInstanceProfileOutput{InstanceProfile: s.wholeProfile(p)}, err
}

func (s *service) getInstanceProfile(_ context.Context, _ *engine.Principal, in *shape.GetInstanceProfileInput) (*shape.GetInstanceProfileOutput, error) {
	p, err := s.engine.Profile(in.InstanceProfileName)
	return &shape.GetInstanceProfileOutput{InstanceProfile: s.wholeProfile(p)}, err
}

func (s *service) listInstanceProfiles(_ context.Context, _ *engine.Principal, in *shape.ListInstanceProfilesInput) (*shape.ListInstanceProfilesOutput, error) {
	list, more, next, err := page(s.engine.Profiles(in.PathPrefix), profileName, in.Marker, in.MaxItems)
	return &shape.ListInstanceProfilesOutput{InstanceProfiles: each(list, s.ofProfile), IsTruncated: more, Marker: next}, err
}

func (s *service) listInstanceProfilesForRole(_ context.Context, _ *engine.Principal, in *shape.ListInstanceProfilesForRoleInput) (*shape.ListInstanceProfilesForRoleOutput, error) {
	r, err := s.engine.Role(in.RoleName)
	if err != nil {
		return nil, err
	}
	var with []engine.Profile
	for _, p := range s.engine.Profiles("") {
		if p.Role == r.Name {
			with = append(with, p)
		}
	}
	list, more, next, err := page(with, profileName, in.Marker, in.MaxItems)
	return &shape.ListInstanceProfilesForRoleOutput{InstanceProfiles: each(list, s.ofProfile), IsTruncated: more, Marker: next}, err
}

func (s *service) deleteInstanceProfile(ctx context.Context, _ *engine.Principal, in *shape.DeleteInstanceProfileInput) (*shape.DeleteInstanceProfileOutput, error) {
	return &shape.DeleteInstanceProfileOutput{}, s.engine.DeleteProfile(ctx, in.InstanceProfileName)
}

func (s *service) addRoleToInstanceProfile(ctx context.Context, who *engine.Principal, in *shape.AddRoleToInstanceProfileInput) (*shape.AddRoleToInstanceProfileOutput, error) {
	if err := s.mayPass(who, in.RoleName); err != nil {
		return nil, err
	}
	return &shape.AddRoleToInstanceProfileOutput{}, s.engine.AddRole(ctx, in.InstanceProfileName, in.RoleName)
}

func (s *service) removeRoleFromInstanceProfile(ctx context.Context, _ *engine.Principal, in *shape.RemoveRoleFromInstanceProfileInput) (*shape.RemoveRoleFromInstanceProfileOutput, error) {
	return &shape.RemoveRoleFromInstanceProfileOutput{}, s.engine.RemoveRole(ctx, in.InstanceProfileName, in.RoleName)
}

func (s *service) tagInstanceProfile(ctx context.Context, _ *engine.Principal, in *shape.TagInstanceProfileInput) (*shape.TagInstanceProfileOutput, error) {
	return &shape.TagInstanceProfileOutput{}, s.engine.TagProfile(ctx, in.InstanceProfileName, toTags(in.Tags))
}

func (s *service) untagInstanceProfile(ctx context.Context, _ *engine.Principal, in *shape.UntagInstanceProfileInput) (*shape.UntagInstanceProfileOutput, error) {
	return &shape.UntagInstanceProfileOutput{}, s.engine.UntagProfile(ctx, in.InstanceProfileName, in.TagKeys)
}

func (s *service) listInstanceProfileTags(_ context.Context, _ *engine.Principal, in *shape.ListInstanceProfileTagsInput) (*shape.ListInstanceProfileTagsOutput, error) {
	p, err := s.engine.Profile(in.InstanceProfileName)
	if err != nil {
		return nil, err
	}
	list, more, next, err := page(sorted(p.Tags), tagKey, in.Marker, in.MaxItems)
	return &shape.ListInstanceProfileTagsOutput{Tags: ofTags(list), IsTruncated: more, Marker: next}, err
}

// listAccountAliases answers that there are none; the account has its number.
func (s *service) listAccountAliases(context.Context, *engine.Principal, *shape.ListAccountAliasesInput) (*shape.ListAccountAliasesOutput, error) {
	return &shape.ListAccountAliasesOutput{AccountAliases: []string{}, IsTruncated: new(bool)}, nil
}

func (s *service) getAccountSummary(context.Context, *engine.Principal, *shape.GetAccountSummaryInput) (*shape.GetAccountSummaryOutput, error) {
	return &shape.GetAccountSummaryOutput{SummaryMap: map[string]int64{
		"Users": int64(len(s.engine.Users(""))), "Roles": int64(len(s.engine.Roles(""))), "Groups": 0,
		"Policies": int64(len(s.engine.Policies(""))), "InstanceProfiles": int64(len(s.engine.Profiles(""))),
		"AccessKeysPerUserQuota": 2, "AttachedPoliciesPerRoleQuota": 10, "AttachedPoliciesPerUserQuota": 10, "VersionsPerPolicyQuota": 5,
		"PolicySizeQuota": 6144, "UserPolicySizeQuota": 2048, "RolePolicySizeQuota": 10240, "AssumeRolePolicySizeQuota": 2048,
	}}, nil
}
