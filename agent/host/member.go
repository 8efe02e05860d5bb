package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// Member knows which cloud this host belongs to, so that a store which has lost its content, or is another
// cloud's, ends no guest and removes nothing.
//
//	the wishes name no cloud     nobody has planned for this host yet, or the store is empty: nothing is done
//	they name one, the first     it is remembered for ever
//	they name another            nothing is done until the operator has decided
type Member struct {
	id   cloud.HostID
	path string

	mu    sync.Mutex
	cloud cloud.CloudID // "" before the first
}

// ErrStranger is what a host says to the wishes of a cloud that it does not belong to.
var ErrStranger = errors.New("these are not the wishes of this host's cloud")

// NewMember returns the membership of a host, remembered in the file at path.
func NewMember(id cloud.HostID, path string) (*Member, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &Member{id: id, path: path, cloud: cloud.CloudID(strings.TrimSpace(string(data)))}, nil
}

// Cloud returns the cloud that this host belongs to; "" while it belongs to none.
func (m *Member) Cloud() cloud.CloudID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cloud
}

// Wishes returns what mirror has now, if it is for this host to follow: from one moment, so that wishes are never read
// beside another store's name.
func (m *Member) Wishes(mirror *store.Mirror) (*store.Snapshot, error) {
	snap := mirror.Snapshot()
	o, err := store.MirroredGet(snap, store.Memberships(m.id), store.MembershipID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%w: no cloud has planned for this host; if it had before, the store has lost its content", ErrStranger)
	}
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch m.cloud {
	case o.Value:
		return snap, nil
	case "":
		if err := bundle.WriteBytes(m.path, []byte(o.Value+"\n"), 0o644); err != nil {
			return nil, fmt.Errorf("remember the cloud: %w", err)
		}
		m.cloud = o.Value
		return snap, nil
	}
	return nil, fmt.Errorf("%w: the store is of %s, the host of %s; restore the store or correct --etcd, or, to give up the old cloud, "+
		"run ichiro down and remove %s", ErrStranger, o.Value, m.cloud, m.path)
}
