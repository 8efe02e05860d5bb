package host

import (
	"errors"
	"io/fs"
	"os"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// nodes makes the directories of the machines that may connect to this host's gateway, and removes those of machines that may not
// any more. A machine that is no guest has no more in its directory than its key and its commands. Those that have no key yet are
// returned: admit gives it to them.
func (c *Commands) nodes(view *store.Snapshot, t *store.Txn, done *[]func()) (fresh []cloud.NodeWish, err error) {
	wished, err := store.Mirrored(view, store.NodeWishes(c.ID))
	if err != nil {
		return nil, err
	}
	var errs []error
	keep := map[cloud.InstanceID]bool{}
	for _, o := range wished {
		id := o.Value.Instance
		if !cloud.WellFormed(id, cloud.ManagedPrefix) {
			continue
		}
		keep[id] = true
		if known, err := c.node(o.Value); err != nil {
			errs = append(errs, err)
		} else if !known {
			fresh = append(fresh, o.Value)
		}
	}
	here, err := c.Root.ListNodes()
	if err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	c.machines = nil
	for _, id := range here {
		if keep[id] {
			c.machines = append(c.machines, id)
		} else { // its directory goes last: who is interrupted here finds it again
			store.Remove(t, store.Pings(c.ID), id)
			*done = append(*done, func() {
				delete(c.pings, id)
				if err := os.RemoveAll(string(c.Root.Instance(id))); err != nil {
					c.Log.Error("remove what is kept of a machine", "instance", id, "err", err)
				}
			})
		}
	}
	return fresh, errors.Join(errs...)
}

// node makes a machine's directory, and reports whether it has its key.
func (c *Commands) node(w cloud.NodeWish) (known bool, err error) {
	dir := c.Root.Instance(w.Instance)
	had, err := dir.Node()
	if err == nil && had.Key == w.Key {
		return true, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := os.MkdirAll(string(dir), 0o755); err != nil {
		return false, err
	}
	return false, dir.MakeCommands(c.GatewayGID)
}

// admit lets a machine connect. By then its commands are there: a machine goes on while its host is booted again, which forgets all,
// and the gateway would tell it to drop what it runs.
func (c *Commands) admit(w cloud.NodeWish) error {
	return bundle.Write(c.Root.Instance(w.Instance).Path(bundle.NodeFile), bundle.Node{Instance: w.Instance, Key: w.Key}, 0o644)
}

// agents returns all whose agents may be heard of here: instances and machines.
func (c *Commands) agents() ([]cloud.InstanceID, error) {
	instances, err := c.Root.List()
	if err != nil {
		return nil, err
	}
	return append(instances, c.machines...), nil
}
