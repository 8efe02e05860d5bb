package ssm

import (
	"context"
	"regexp"
	"strings"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// A cloud has one account, so that nobody else is here to use what is shared; who shares is kept and shown, and stands in the way
// of a deletion, as at AWS.

// maxShared is how many accounts one request may name.
const maxShared = 20

var accountNumber = regexp.MustCompile(`^[0-9]{12}$`)

// ModifyDocumentPermission shares a document with accounts, or with all, or ends that.
func (s *Service) ModifyDocumentPermission(ctx context.Context, in *shape.ModifyDocumentPermissionInput) (*shape.ModifyDocumentPermissionOutput, error) {
	if err := shared(in.PermissionType); err != nil {
		return nil, err
	}
	add, err := accounts("AccountIdsToAdd", in.AccountIdsToAdd)
	if err != nil {
		return nil, err
	}
	remove, err := accounts("AccountIdsToRemove", in.AccountIdsToRemove)
	if err != nil {
		return nil, err
	}
	note{Added: add, Removed: remove}.on(ctx)
	return &shape.ModifyDocumentPermissionOutput{}, s.commit(ctx, func(snap *store.Snapshot) (*store.Txn, error) {
		o, err := s.document(ctx, snap, in.Name)
		if err != nil {
			return nil, err
		}
		version := in.SharedDocumentVersion
		switch version {
		case "":
			version = "$DEFAULT"
		case "$DEFAULT", "$LATEST", "$ALL":
		default:
			if _, err := o.Value.Version(version, ""); err != nil {
				return nil, err
			}
		}
		next, err := o.Value.Share(add, remove, version)
		if err != nil {
			return nil, err
		}
		t := store.NewTxn()
		store.Update(t, store.Documents, o, next)
		return t, nil
	})
}

// DescribeDocumentPermission shows with whom a document is shared.
func (s *Service) DescribeDocumentPermission(ctx context.Context, in *shape.DescribeDocumentPermissionInput) (*shape.DescribeDocumentPermissionOutput, error) {
	if err := shared(in.PermissionType); err != nil {
		return nil, err
	}
	page, err := s.Pager.Page(ctx, in, api.Bounds{Default: 200, Min: 1, Max: 200})
	if err != nil {
		return nil, err
	}
	snap := s.Mirror.Snapshot()
	o, err := s.document(ctx, snap, in.Name)
	if err != nil {
		return nil, err
	}
	cut, next := api.Cut(page, snap.Rev(), o.Value.Shared, func(v cloud.DocumentShare) string { return v.Account })
	out := &shape.DescribeDocumentPermissionOutput{AccountIds: []string{}, AccountSharingInfoList: []shape.AccountSharingInfo{}, NextToken: next}
	for _, v := range cut {
		out.AccountIds = append(out.AccountIds, v.Account)
		out.AccountSharingInfoList = append(out.AccountSharingInfoList, shape.AccountSharingInfo{AccountId: v.Account, SharedDocumentVersion: v.Version})
	}
	return out, nil
}

func shared(permission string) error {
	if permission != "Share" {
		return cloud.Errorf("InvalidPermissionType", "PermissionType is %.20q: Share is the one that there is", permission)
	}
	return nil
}

// accounts are those that a request names, each by its number, or all of them.
func accounts(field string, given []string) (out []string, err error) {
	if len(given) > maxShared {
		return nil, cloud.Errorf("ValidationException", "%s may name %d accounts", field, maxShared)
	}
	for _, a := range given {
		if strings.EqualFold(a, cloud.Everybody) {
			a = cloud.Everybody
		} else if !accountNumber.MatchString(a) {
			return nil, cloud.Errorf("ValidationException", "%s has %.40q: give the twelve digits of an account, or all", field, a)
		}
		out = append(out, a)
	}
	return out, nil
}
