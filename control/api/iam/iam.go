// Package iam is the IAM service of the API, and the authority that the front asks
// about every request of every service.
//
// Its actions are short: what they mean is in control/iam, which this package and
// its sister control/api/sts bring into IAM's words. Answers come from memory,
// changes go to the store and are visible here when they are answered. Policy
// documents are URL-encoded in answers, lists are cut by Marker and MaxItems.
// Groups, permission boundaries and login profiles do not exist, and the only OIDC
// provider is this cloud itself.
package iam

import (
	"context"
	"errors"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/iam"
	"github.com/ichiro-metal/ichiro/control/api/wire"
	engine "github.com/ichiro-metal/ichiro/control/iam"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

type service struct {
	engine    *engine.Engine
	authority *Authority
	issuer    string
}

// Service returns the IAM service. issuer is the URL that tokens of instances are from.
func Service(e *engine.Engine, a *Authority, issuer string) api.Service {
	s := &service{engine: e, authority: a, issuer: issuer}
	var actions []api.Action
	for _, part := range [][]api.Action{s.roleActions(), s.userActions(), s.policyActions(), s.profileActions(), s.providerActions()} {
		actions = append(actions, part...)
	}
	return api.Service{
		Name: "iam", Protocol: wire.Query, Version: shape.Version, Namespace: shape.Namespace,
		Known: shape.Operations, Actions: actions,
	}
}

// do puts an action that wants to know its caller into the table. on names the
// resource of a request; nil is every resource.
func do[I, O any](s *service, name string, f func(context.Context, *engine.Principal, *I) (*O, error), on func(*service, *I) string, opts ...api.Option) api.Action {
	if on != nil {
		opts = append(opts, api.Resource(func(in *I) []string { return []string{on(s, in)} }))
	}
	return api.Do(name, func(ctx context.Context, in *I) (*O, error) {
		who, err := s.authority.Principal(api.CallerFrom(ctx))
		if err != nil {
			return nil, err
		}
		return f(ctx, who, in)
	}, opts...)
}

// read is do for actions that change nothing.
func read[I, O any](s *service, name string, f func(context.Context, *engine.Principal, *I) (*O, error), on func(*service, *I) string) api.Action {
	return do(s, name, f, on, api.ReadOnly())
}

// role, user and profile name what a request speaks of. An existing one has a
// path which the request does not tell.
func (s *service) role(name string) string {
	if r, err := s.engine.Role(name); err == nil {
		return r.ARN
	}
	return s.new("role", "", name)
}

func (s *service) user(name string) string {
	if u, err := s.engine.User(name); err == nil {
		return u.ARN
	}
	return s.new("user", "", name)
}

// callersUser stands for the ARN of the user who calls, until Authorize knows it.
const callersUser = "arn:aws:iam:::user/(caller)"

func (s *service) userOrCaller(name string) string {
	if name == "" {
		return callersUser
	}
	return s.user(name)
}

func (s *service) profile(name string) string {
	if p, err := s.engine.Profile(name); err == nil {
		return p.ARN
	}
	return s.new("instance-profile", "", name)
}

func (s *service) new(kind, path, name string) string {
	if path == "" {
		path = "/"
	}
	return "arn:aws:iam::" + s.engine.Account() + ":" + kind + path + name
}

func (s *service) mayPass(who *engine.Principal, role string) error {
	err := s.engine.MayPassRole(who, s.role(role), engine.EC2)
	var known cloud.Error
	if errors.As(err, &known) {
		return cloud.Error{Code: "AccessDenied", Message: known.Message}
	}
	return err
}

func (s *service) roleActions() []api.Action {
	return []api.Action{
		do(s, "CreateRole", s.createRole, func(s *service, in *shape.CreateRoleInput) string { return s.new("role", in.Path, in.RoleName) }),
		read(s, "GetRole", s.getRole, func(s *service, in *shape.GetRoleInput) string { return s.role(in.RoleName) }),
		read(s, "ListRoles", s.listRoles, nil),
		do(s, "UpdateRole", s.updateRole, func(s *service, in *shape.UpdateRoleInput) string { return s.role(in.RoleName) }),
		do(s, "UpdateRoleDescription", s.updateRoleDescription, func(s *service, in *shape.UpdateRoleDescriptionInput) string { return s.role(in.RoleName) }),
		do(s, "UpdateAssumeRolePolicy", s.updateAssumeRolePolicy, func(s *service, in *shape.UpdateAssumeRolePolicyInput) string { return s.role(in.RoleName) }),
		do(s, "DeleteRole", s.deleteRole, func(s *service, in *shape.DeleteRoleInput) string { return s.role(in.RoleName) }),
		do(s, "PutRolePolicy", s.putRolePolicy, func(s *service, in *shape.PutRolePolicyInput) string { return s.role(in.RoleName) }),
		read(s, "GetRolePolicy", s.getRolePolicy, func(s *service, in *shape.GetRolePolicyInput) string { return s.role(in.RoleName) }),
		read(s, "ListRolePolicies", s.listRolePolicies, func(s *service, in *shape.ListRolePoliciesInput) string { return s.role(in.RoleName) }),
		do(s, "DeleteRolePolicy", s.deleteRolePolicy, func(s *service, in *shape.DeleteRolePolicyInput) string { return s.role(in.RoleName) }),
		do(s, "AttachRolePolicy", s.attachRolePolicy, func(s *service, in *shape.AttachRolePolicyInput) string { return s.role(in.RoleName) }),
		do(s, "DetachRolePolicy", s.detachRolePolicy, func(s *service, in *shape.DetachRolePolicyInput) string { return s.role(in.RoleName) }),
		read(s, "ListAttachedRolePolicies", s.listAttachedRolePolicies, func(s *service, in *shape.ListAttachedRolePoliciesInput) string { return s.role(in.RoleName) }),
		do(s, "TagRole", s.tagRole, func(s *service, in *shape.TagRoleInput) string { return s.role(in.RoleName) }),
		do(s, "UntagRole", s.untagRole, func(s *service, in *shape.UntagRoleInput) string { return s.role(in.RoleName) }),
		read(s, "ListRoleTags", s.listRoleTags, func(s *service, in *shape.ListRoleTagsInput) string { return s.role(in.RoleName) }),
	}
}

func (s *service) userActions() []api.Action {
	return []api.Action{
		do(s, "CreateUser", s.createUser, func(s *service, in *shape.CreateUserInput) string { return s.new("user", in.Path, in.UserName) }),
		// Without a name the next five speak of the caller.
		read(s, "GetUser", s.getUser, func(s *service, in *shape.GetUserInput) string { return s.userOrCaller(in.UserName) }),
		do(s, "CreateAccessKey", s.createAccessKey, func(s *service, in *shape.CreateAccessKeyInput) string { return s.userOrCaller(in.UserName) }),
		do(s, "UpdateAccessKey", s.updateAccessKey, func(s *service, in *shape.UpdateAccessKeyInput) string { return s.userOrCaller(in.UserName) }),
		do(s, "DeleteAccessKey", s.deleteAccessKey, func(s *service, in *shape.DeleteAccessKeyInput) string { return s.userOrCaller(in.UserName) }),
		read(s, "ListAccessKeys", s.listAccessKeys, func(s *service, in *shape.ListAccessKeysInput) string { return s.userOrCaller(in.UserName) }),
		read(s, "GetAccessKeyLastUsed", s.getAccessKeyLastUsed, nil),
		read(s, "ListUsers", s.listUsers, nil),
		do(s, "UpdateUser", s.updateUser, func(s *service, in *shape.UpdateUserInput) string { return s.user(in.UserName) }),
		do(s, "DeleteUser", s.deleteUser, func(s *service, in *shape.DeleteUserInput) string { return s.user(in.UserName) }),
		do(s, "PutUserPolicy", s.putUserPolicy, func(s *service, in *shape.PutUserPolicyInput) string { return s.user(in.UserName) }),
		read(s, "GetUserPolicy", s.getUserPolicy, func(s *service, in *shape.GetUserPolicyInput) string { return s.user(in.UserName) }),
		read(s, "ListUserPolicies", s.listUserPolicies, func(s *service, in *shape.ListUserPoliciesInput) string { return s.user(in.UserName) }),
		do(s, "DeleteUserPolicy", s.deleteUserPolicy, func(s *service, in *shape.DeleteUserPolicyInput) string { return s.user(in.UserName) }),
		do(s, "AttachUserPolicy", s.attachUserPolicy, func(s *service, in *shape.AttachUserPolicyInput) string { return s.user(in.UserName) }),
		do(s, "DetachUserPolicy", s.detachUserPolicy, func(s *service, in *shape.DetachUserPolicyInput) string { return s.user(in.UserName) }),
		read(s, "ListAttachedUserPolicies", s.listAttachedUserPolicies, func(s *service, in *shape.ListAttachedUserPoliciesInput) string { return s.user(in.UserName) }),
		read(s, "ListGroupsForUser", s.listGroupsForUser, func(s *service, in *shape.ListGroupsForUserInput) string { return s.user(in.UserName) }),
		do(s, "TagUser", s.tagUser, func(s *service, in *shape.TagUserInput) string { return s.user(in.UserName) }),
		do(s, "UntagUser", s.untagUser, func(s *service, in *shape.UntagUserInput) string { return s.user(in.UserName) }),
		read(s, "ListUserTags", s.listUserTags, func(s *service, in *shape.ListUserTagsInput) string { return s.user(in.UserName) }),
	}
}

func (s *service) policyActions() []api.Action {
	return []api.Action{
		do(s, "CreatePolicy", s.createPolicy, func(s *service, in *shape.CreatePolicyInput) string { return s.new("policy", in.Path, in.PolicyName) }),
		read(s, "GetPolicy", s.getPolicy, func(_ *service, in *shape.GetPolicyInput) string { return in.PolicyArn }),
		read(s, "ListPolicies", s.listPolicies, nil),
		do(s, "DeletePolicy", s.deletePolicy, func(_ *service, in *shape.DeletePolicyInput) string { return in.PolicyArn }),
		do(s, "CreatePolicyVersion", s.createPolicyVersion, func(_ *service, in *shape.CreatePolicyVersionInput) string { return in.PolicyArn }),
		read(s, "GetPolicyVersion", s.getPolicyVersion, func(_ *service, in *shape.GetPolicyVersionInput) string { return in.PolicyArn }),
		read(s, "ListPolicyVersions", s.listPolicyVersions, func(_ *service, in *shape.ListPolicyVersionsInput) string { return in.PolicyArn }),
		do(s, "SetDefaultPolicyVersion", s.setDefaultPolicyVersion, func(_ *service, in *shape.SetDefaultPolicyVersionInput) string { return in.PolicyArn }),
		do(s, "DeletePolicyVersion", s.deletePolicyVersion, func(_ *service, in *shape.DeletePolicyVersionInput) string { return in.PolicyArn }),
		read(s, "ListEntitiesForPolicy", s.listEntitiesForPolicy, func(_ *service, in *shape.ListEntitiesForPolicyInput) string { return in.PolicyArn }),
		do(s, "TagPolicy", s.tagPolicy, func(_ *service, in *shape.TagPolicyInput) string { return in.PolicyArn }),
		do(s, "UntagPolicy", s.untagPolicy, func(_ *service, in *shape.UntagPolicyInput) string { return in.PolicyArn }),
		read(s, "ListPolicyTags", s.listPolicyTags, func(_ *service, in *shape.ListPolicyTagsInput) string { return in.PolicyArn }),
	}
}

func (s *service) profileActions() []api.Action {
	return []api.Action{
		do(s, "CreateInstanceProfile", s.createInstanceProfile, func(s *service, in *shape.CreateInstanceProfileInput) string {
			return s.new("instance-profile", in.Path, in.InstanceProfileName)
		}),
		read(s, "GetInstanceProfile", s.getInstanceProfile, func(s *service, in *shape.GetInstanceProfileInput) string { return s.profile(in.InstanceProfileName) }),
		read(s, "ListInstanceProfiles", s.listInstanceProfiles, nil),
		read(s, "ListInstanceProfilesForRole", s.listInstanceProfilesForRole, func(s *service, in *shape.ListInstanceProfilesForRoleInput) string { return s.role(in.RoleName) }),
		do(s, "DeleteInstanceProfile", s.deleteInstanceProfile, func(s *service, in *shape.DeleteInstanceProfileInput) string {
			return s.profile(in.InstanceProfileName)
		}),
		do(s, "AddRoleToInstanceProfile", s.addRoleToInstanceProfile, func(s *service, in *shape.AddRoleToInstanceProfileInput) string {
			return s.profile(in.InstanceProfileName)
		}),
		do(s, "RemoveRoleFromInstanceProfile", s.removeRoleFromInstanceProfile, func(s *service, in *shape.RemoveRoleFromInstanceProfileInput) string {
			return s.profile(in.InstanceProfileName)
		}),
		do(s, "TagInstanceProfile", s.tagInstanceProfile, func(s *service, in *shape.TagInstanceProfileInput) string { return s.profile(in.InstanceProfileName) }),
		do(s, "UntagInstanceProfile", s.untagInstanceProfile, func(s *service, in *shape.UntagInstanceProfileInput) string { return s.profile(in.InstanceProfileName) }),
		read(s, "ListInstanceProfileTags", s.listInstanceProfileTags, func(s *service, in *shape.ListInstanceProfileTagsInput) string {
			return s.profile(in.InstanceProfileName)
		}),
		read(s, "ListAccountAliases", s.listAccountAliases, nil),
		read(s, "GetAccountSummary", s.getAccountSummary, nil),
	}
}
