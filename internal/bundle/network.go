package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Network is networks/VPC.json: what the services of a host may say of a VPC as a whole. It is in a file of its own because
// it is the same for all instances, and changes when none of them does.
type Network struct {
	VPC      cloud.VPCID
	Region   string
	Prefixes []netip.Prefix        // its IPv4 blocks
	Resolver bool                  // names are resolved at all
	Public   []cloud.PublicAddress `json:",omitempty"` // those that have names
}

// Networks returns the directory of what is known of VPCs.
func (r Root) Networks() string { return filepath.Join(string(r), "networks") }

// Network returns the path of a VPC's file.
func (r Root) Network(id cloud.VPCID) string { return filepath.Join(r.Networks(), string(id)+".json") }

// Networks reads what is known of VPCs, again whenever a file has been replaced. Each question costs a stat(2); there
// is nothing that watches, so nothing can miss a change.
type Networks struct {
	root Root

	mu   sync.Mutex
	have map[cloud.VPCID]readNetwork
}

type readNetwork struct {
	info    fs.FileInfo
	network *Network
	err     error
}

// NewNetworks returns a reader of a run directory, which need not exist yet.
func NewNetworks(root Root) *Networks {
	return &Networks{root: root, have: map[cloud.VPCID]readNetwork{}}
}

// Get returns what is known of a VPC; an error that wraps fs.ErrNotExist if that is nothing. The answer must not be
// changed: others hold it too.
func (n *Networks) Get(id cloud.VPCID) (*Network, error) {
	path := n.root.Network(id)
	info, err := os.Stat(path)
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		delete(n.have, id)
		return nil, err
	}
	if r, ok := n.have[id]; ok && os.SameFile(r.info, info) && r.info.ModTime().Equal(info.ModTime()) && r.info.Size() == info.Size() {
		return r.network, r.err
	}
	// A file that is replaced between the two calls is read again next time: its stat is not this one.
	v, err := Read[Network](path)
	if err == nil && v.VPC != id {
		err = fmt.Errorf("%s speaks of %q", path, v.VPC)
	}
	r := readNetwork{info: info, network: &v, err: err}
	if err != nil {
		r.network = nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		delete(n.have, id)
		return nil, err
	}
	n.have[id] = r
	return r.network, r.err
}
