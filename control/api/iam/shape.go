package iam

import (
	"encoding/base64"
	"net/url"
	"strings"
	"time"

	engine "github.com/ichiro-metal/ichiro/control/iam"
	"github.com/ichiro-metal/ichiro/internal/cloud"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/iam"
)

func at(t time.Time) *time.Time { return &t }

func number(n int) *int64 { v := int64(n); return &v }

// encoded is how IAM writes policy documents into answers: RFC 3986.
func encoded(document string) string {
	return strings.ReplaceAll(url.QueryEscape(document), "+", "%20")
}

func toTags(in []shape.Tag) []engine.Tag {
	out := make([]engine.Tag, len(in))
	for i, t := range in {
		out[i] = engine.Tag(t)
	}
	return out
}

func ofTags(in []engine.Tag) []shape.Tag {
	out := make([]shape.Tag, len(in))
	for i, t := range in {
		out[i] = shape.Tag(t)
	}
	return out
}

// tagsOrNone leaves the element out when there are none, as IAM does inside an entity.
func tagsOrNone(in []engine.Tag) []shape.Tag {
	if len(in) == 0 {
		return nil
	}
	return ofTags(in)
}

func ofRole(r engine.Role) shape.Role {
	return shape.Role{
		Arn: r.ARN, RoleName: r.Name, RoleId: r.ID, Path: r.Path, CreateDate: at(r.Created), Description: r.Description,
		AssumeRolePolicyDocument: encoded(r.Trust), MaxSessionDuration: number(r.MaxSession),
	}
}

// wholeRole is a role as GetRole and CreateRole show it: lists leave this much out.
func wholeRole(r engine.Role) *shape.Role {
	s := ofRole(r)
	s.Tags, s.RoleLastUsed = tagsOrNone(r.Tags), &shape.RoleLastUsed{}
	return &s
}

func ofUser(u engine.User) shape.User {
	return shape.User{Arn: u.ARN, UserName: u.Name, UserId: u.ID, Path: u.Path, CreateDate: at(u.Created)}
}

func wholeUser(u engine.User) *shape.User {
	s := ofUser(u)
	s.Tags = tagsOrNone(u.Tags)
	return &s
}

func ofPolicy(p engine.Policy) shape.Policy {
	yes := true
	return shape.Policy{
		Arn: p.ARN, PolicyName: p.Name, PolicyId: p.ID, Path: p.Path, DefaultVersionId: p.Default, AttachmentCount: number(p.Attachments),
		PermissionsBoundaryUsageCount: number(0), IsAttachable: &yes, CreateDate: at(p.Created), UpdateDate: at(p.Updated),
	}
}

func wholePolicy(p engine.Policy) *shape.Policy {
	s := ofPolicy(p)
	s.Description, s.Tags = p.Description, ofTags(p.Tags)
	return &s
}

func ofVersion(p engine.Policy, v engine.PolicyVersion) shape.PolicyVersion {
	inForce := v.ID == p.Default
	return shape.PolicyVersion{VersionId: v.ID, IsDefaultVersion: &inForce, CreateDate: at(v.Created)}
}

func status(active bool) string {
	if active {
		return "Active"
	}
	return "Inactive"
}

// defaultItems and maxItems are IAM's.
const (
	defaultItems = 100
	maxItems     = 1000
)

// page cuts the window out of list that marker and items ask for. list is sorted
// by name; the marker names the last entry that has been shown, so that it still
// works when others come and go.
func page[T any](list []T, name func(T) string, marker string, items *int64) (window []T, more *bool, next string, err error) {
	n := defaultItems
	if items != nil {
		if *items < 1 || *items > maxItems {
			return nil, nil, "", cloud.Errorf("ValidationError", "1 validation error detected: Value '%d' at 'maxItems' failed to satisfy constraint: Member must have value between 1 and %d", *items, maxItems)
		}
		n = int(*items)
	}
	if marker != "" {
		last, err := base64.RawURLEncoding.DecodeString(marker)
		if err != nil {
			return nil, nil, "", cloud.Errorf("ValidationError", "Invalid Marker.")
		}
		for len(list) > 0 && strings.ToLower(name(list[0])) <= string(last) {
			list = list[1:]
		}
	}
	truncated := len(list) > n
	if truncated {
		list = list[:n]
		next = base64.RawURLEncoding.EncodeToString([]byte(strings.ToLower(name(list[n-1]))))
	}
	return append(make([]T, 0, len(list)), list...), &truncated, next, nil
}

// each turns every element of in; the result is never nil, so that it is written when empty.
func each[A, B any](in []A, f func(A) B) []B {
	out := make([]B, len(in))
	for i, a := range in {
		out[i] = f(a)
	}
	return out
}
