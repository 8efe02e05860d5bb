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
// any more. A machine that is no guest has no more in its directory than its key and its commands.
func (c *Commands) nodes(view *store.Snapshot, t *store.Txn) error {
	wished, err := store.Mirrored(view, store.NodeWishes(c.ID))
	if err != nil {
		return err
	}
	var errs []error
	keep := map[cloud.InstanceID]bool{}
	for _, o := range wished {
		id := o.Value.Instance
		if !cloud.WellFormed(id, cloud.ManagedPrefix) {
			continue
		}
		keep[id] = true
		if err := c.node(o.Value); err != nil {
			errs = append(errs, err)
		}
	}
	here, err := c.Root.ListNodes()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, id := range here {
		if !keep[id] {
			errs = append(errs, os.RemoveAll(string(c.Root.Instance(id))))
			store.Remove(t, store.Pings(c.ID), id)
			delete(c.pings, id)
		}
	}
	return errors.Join(errs...)
}

// node makes a machine's directory. Its key comes last: who sees it may be given commands.
func (c *Commands) node(w cloud.NodeWish) error {
	dir := c.Root.Instance(w.Instance)
	had, err := dir.Node()
	if err == nil && had.Key == w.Key {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(string(dir), 0o755); err != nil {
		return err
	}
	if err := dir.MakeCommands(c.GatewayGID); err != nil {
		return err
	}
	return bundle.Write(dir.Path(bundle.NodeFile), bundle.Node{Instance: w.Instance, Key: w.Key}, 0o644)
}

// agents returns all whose agents may be heard of here: instances and machines.
func (c *Commands) agents() ([]cloud.InstanceID, error) {
	instances, err := c.Root.List()
	if err != nil {
		return nil, err
	}
	nodes, err := c.Root.ListNodes()
	return append(instances, nodes...), err
}
