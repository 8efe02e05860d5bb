package store

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// ConfineHost makes the etcd user of a host, named by the host's id, and the role that
// confines it: it may read wish/<host>/, read and write status/<host>/ and its own host
// record, and nothing else. The user has no password: it is let in by the name in its
// client certificate. Done twice, nothing changes. It takes effect when the cluster's
// access control is enabled.
func ConfineHost(ctx context.Context, c *Client, host cloud.HostID) error {
	name := string(host)
	if _, err := c.etcd.RoleAdd(ctx, name); err != nil && !errors.Is(err, rpctypes.ErrRoleAlreadyExist) {
		return fmt.Errorf("confine %s: %w", host, known(err))
	}
	own := namespace + string(HostPrefix()) + name
	for _, r := range []struct {
		from, end string
		may       clientv3.PermissionType
	}{
		{namespace + string(WishPrefix(host)), "", clientv3.PermissionType(clientv3.PermRead)},
		{namespace + string(StatusPrefix(host)), "", clientv3.PermissionType(clientv3.PermReadWrite)},
		{own, own + "\x00", clientv3.PermissionType(clientv3.PermReadWrite)},
	} {
		if r.end == "" {
			r.end = clientv3.GetPrefixRangeEnd(r.from)
		}
		if _, err := c.etcd.RoleGrantPermission(ctx, name, r.from, r.end, r.may); err != nil {
			return fmt.Errorf("confine %s: %w", host, known(err))
		}
	}
	_, err := c.etcd.UserAddWithOptions(ctx, name, "", &clientv3.UserAddOptions{NoPassword: true})
	if err != nil && !errors.Is(err, rpctypes.ErrUserAlreadyExist) {
		return fmt.Errorf("confine %s: %w", host, known(err))
	}
	if _, err := c.etcd.UserGrantRole(ctx, name, name); err != nil {
		return fmt.Errorf("confine %s: %w", host, known(err))
	}
	return nil
}
