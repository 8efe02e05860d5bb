package iam

import (
	"context"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/iam"
	engine "github.com/ichiro-metal/ichiro/control/iam"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func (s *service) createUser(ctx context.Context, _ *engine.Principal, in *shape.CreateUserInput) (*shape.CreateUserOutput, error) {
	if err := noBoundary(in.PermissionsBoundary); err != nil {
		return nil, err
	}
	u, err := s.engine.CreateUser(ctx, engine.User{Name: in.UserName, Path: in.Path, Tags: toTags(in.Tags)})
	return &shape.CreateUserOutput{User: wholeUser(u)}, err
}

func (s *service) getUser(_ context.Context, who *engine.Principal, in *shape.GetUserInput) (*shape.GetUserOutput, error) {
	if in.UserName == "" && who.Root() {
		return &shape.GetUserOutput{User: &shape.User{Arn: who.ARN, UserId: who.UserID, Path: "/", CreateDate: at(s.engine.Since())}}, nil
	}
	name, err := self(who, in.UserName)
	if err != nil {
		return nil, err
	}
	u, err := s.engine.User(name)
	return &shape.GetUserOutput{User: wholeUser(u)}, err
}

// self is the user whom a request means: the one it names, or else the caller.
func self(who *engine.Principal, named string) (string, error) {
	if named != "" {
		return named, nil
	}
	if who.UserName() == "" {
		return "", cloud.Errorf("ValidationError", "Must specify userName when calling with non-User credentials")
	}
	return who.UserName(), nil
}

func (s *service) listUsers(_ context.Context, _ *engine.Principal, in *shape.ListUsersInput) (*shape.ListUsersOutput, error) {
	list, more, next, err := page(s.engine.Users(in.PathPrefix), func(u engine.User) string { return u.Name }, in.Marker, in.MaxItems)
	return &shape.ListUsersOutput{Users: each(list, ofUser), IsTruncated: more, Marker: next}, err
}

func (s *service) updateUser(ctx context.Context, _ *engine.Principal, in *shape.UpdateUserInput) (*shape.UpdateUserOutput, error) {
	return &shape.UpdateUserOutput{}, s.engine.UpdateUser(ctx, in.UserName, in.NewPath, in.NewUserName)
}

func (s *service) deleteUser(ctx context.Context, _ *engine.Principal, in *shape.DeleteUserInput) (*shape.DeleteUserOutput, error) {
	return &shape.DeleteUserOutput{}, s.engine.DeleteUser(ctx, in.UserName)
}

func (s *service) createAccessKey(ctx context.Context, who *engine.Principal, in *shape.CreateAccessKeyInput) (*shape.CreateAccessKeyOutput, error) {
	name, err := self(who, in.UserName)
	if err != nil {
		return nil, err
	}
	k, secret, err := s.engine.CreateAccessKey(ctx, name)
	return &shape.CreateAccessKeyOutput{AccessKey: &shape.AccessKey{
		UserName: name, AccessKeyId: k.ID, SecretAccessKey: secret, Status: status(k.Active), CreateDate: at(k.Created),
	}}, err
}

func (s *service) updateAccessKey(ctx context.Context, who *engine.Principal, in *shape.UpdateAccessKeyInput) (*shape.UpdateAccessKeyOutput, error) {
	if in.Status != "Active" && in.Status != "Inactive" {
		return nil, cloud.Errorf("ValidationError", "1 validation error detected: Value '%.40s' at 'status' failed to satisfy constraint: Member must satisfy enum value set: [Active, Inactive]", in.Status)
	}
	name, err := self(who, in.UserName)
	if err != nil {
		return nil, err
	}
	return &shape.UpdateAccessKeyOutput{}, s.engine.SetAccessKey(ctx, name, in.AccessKeyId, in.Status == "Active")
}

func (s *service) deleteAccessKey(ctx context.Context, who *engine.Principal, in *shape.DeleteAccessKeyInput) (*shape.DeleteAccessKeyOutput, error) {
	name, err := self(who, in.UserName)
	if err != nil {
		return nil, err
	}
	return &shape.DeleteAccessKeyOutput{}, s.engine.DeleteAccessKey(ctx, name, in.AccessKeyId)
}

func (s *service) listAccessKeys(_ context.Context, who *engine.Principal, in *shape.ListAccessKeysInput) (*shape.ListAccessKeysOutput, error) {
	name, err := self(who, in.UserName)
	if err != nil {
		return nil, err
	}
	all, err := s.engine.AccessKeys(name)
	if err != nil {
		return nil, err
	}
	return &shape.ListAccessKeysOutput{IsTruncated: new(bool), AccessKeyMetadata: each(all, func(k engine.AccessKey) shape.AccessKeyMetadata {
		return shape.AccessKeyMetadata{UserName: k.User, AccessKeyId: k.ID, Status: status(k.Active), CreateDate: at(k.Created)}
	})}, nil
}

// getAccessKeyLastUsed tells whose the key is. Uses are not recorded: it would be
// a write for every request.
func (s *service) getAccessKeyLastUsed(_ context.Context, _ *engine.Principal, in *shape.GetAccessKeyLastUsedInput) (*shape.GetAccessKeyLastUsedOutput, error) {
	k, err := s.engine.AccessKey(in.AccessKeyId)
	return &shape.GetAccessKeyLastUsedOutput{UserName: k.User, AccessKeyLastUsed: &shape.AccessKeyLastUsed{Region: "N/A", ServiceName: "N/A"}}, err
}

func (s *service) putUserPolicy(ctx context.Context, _ *engine.Principal, in *shape.PutUserPolicyInput) (*shape.PutUserPolicyOutput, error) {
	return &shape.PutUserPolicyOutput{}, s.engine.PutUserPolicy(ctx, in.UserName, engine.Inline{Name: in.PolicyName, Document: in.PolicyDocument})
}

func (s *service) getUserPolicy(_ context.Context, _ *engine.Principal, in *shape.GetUserPolicyInput) (*shape.GetUserPolicyOutput, error) {
	u, err := s.engine.User(in.UserName)
	if err != nil {
		return nil, err
	}
	document, err := inline(u.Inline, "user", in.PolicyName)
	return &shape.GetUserPolicyOutput{UserName: u.Name, PolicyName: in.PolicyName, PolicyDocument: document}, err
}

func (s *service) listUserPolicies(_ context.Context, _ *engine.Principal, in *shape.ListUserPoliciesInput) (*shape.ListUserPoliciesOutput, error) {
	u, err := s.engine.User(in.UserName)
	if err != nil {
		return nil, err
	}
	list, more, next, err := page(u.Inline, inlineName, in.Marker, in.MaxItems)
	return &shape.ListUserPoliciesOutput{PolicyNames: each(list, inlineName), IsTruncated: more, Marker: next}, err
}

func (s *service) deleteUserPolicy(ctx context.Context, _ *engine.Principal, in *shape.DeleteUserPolicyInput) (*shape.DeleteUserPolicyOutput, error) {
	return &shape.DeleteUserPolicyOutput{}, s.engine.DeleteUserPolicy(ctx, in.UserName, in.PolicyName)
}

func (s *service) attachUserPolicy(ctx context.Context, _ *engine.Principal, in *shape.AttachUserPolicyInput) (*shape.AttachUserPolicyOutput, error) {
	return &shape.AttachUserPolicyOutput{}, s.engine.AttachUserPolicy(ctx, in.UserName, in.PolicyArn)
}

func (s *service) detachUserPolicy(ctx context.Context, _ *engine.Principal, in *shape.DetachUserPolicyInput) (*shape.DetachUserPolicyOutput, error) {
	return &shape.DetachUserPolicyOutput{}, s.engine.DetachUserPolicy(ctx, in.UserName, in.PolicyArn)
}

func (s *service) listAttachedUserPolicies(_ context.Context, _ *engine.Principal, in *shape.ListAttachedUserPoliciesInput) (*shape.ListAttachedUserPoliciesOutput, error) {
	u, err := s.engine.User(in.UserName)
	if err != nil {
		return nil, err
	}
	list, more, next, err := page(s.attached(u.Attached, in.PathPrefix), attachedName, in.Marker, in.MaxItems)
	return &shape.ListAttachedUserPoliciesOutput{AttachedPolicies: list, IsTruncated: more, Marker: next}, err
}

// listGroupsForUser answers that there are none: tools ask before they delete a user.
func (s *service) listGroupsForUser(_ context.Context, _ *engine.Principal, in *shape.ListGroupsForUserInput) (*shape.ListGroupsForUserOutput, error) {
	_, err := s.engine.User(in.UserName)
	return &shape.ListGroupsForUserOutput{Groups: []shape.Group{}, IsTruncated: new(bool)}, err
}

func (s *service) tagUser(ctx context.Context, _ *engine.Principal, in *shape.TagUserInput) (*shape.TagUserOutput, error) {
	return &shape.TagUserOutput{}, s.engine.TagUser(ctx, in.UserName, toTags(in.Tags))
}

func (s *service) untagUser(ctx context.Context, _ *engine.Principal, in *shape.UntagUserInput) (*shape.UntagUserOutput, error) {
	return &shape.UntagUserOutput{}, s.engine.UntagUser(ctx, in.UserName, in.TagKeys)
}

func (s *service) listUserTags(_ context.Context, _ *engine.Principal, in *shape.ListUserTagsInput) (*shape.ListUserTagsOutput, error) {
	u, err := s.engine.User(in.UserName)
	if err != nil {
		return nil, err
	}
	list, more, next, err := page(sorted(u.Tags), tagKey, in.Marker, in.MaxItems)
	return &shape.ListUserTagsOutput{Tags: ofTags(list), IsTruncated: more, Marker: next}, err
}
