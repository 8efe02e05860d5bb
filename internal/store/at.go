package store

import (
	"context"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// SnapshotAt reads what lies below prefixes as it was at a revision, so that a list that is read in
// pages shows one moment. ErrCompacted when the store no longer knows.
func SnapshotAt(ctx context.Context, c *Client, rev int64, prefixes ...Prefix) (*Snapshot, error) {
	s := &Snapshot{rev: rev}
	for _, p := range prefixes {
		from := namespace + string(p)
		end := clientv3.GetPrefixRangeEnd(from)
		for {
			resp, err := c.page(ctx, from, end, rev, listPage)
			if err != nil {
				return nil, err
			}
			for _, kv := range resp.Kvs {
				s.entries = append(s.entries, entryOf(kv))
			}
			if !resp.More || len(resp.Kvs) == 0 {
				break
			}
			from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		}
	}
	slices.SortFunc(s.entries, func(a, b *entry) int { return strings.Compare(a.key, b.key) })
	return s, nil
}

// Head returns the newest revision of the store.
func (c *Client) Head(ctx context.Context) (int64, error) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	resp, err := c.etcd.Get(ctx, namespace+"head", clientv3.WithCountOnly())
	if err != nil {
		return 0, known(err)
	}
	return resp.Header.Revision, nil
}
