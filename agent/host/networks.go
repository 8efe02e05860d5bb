package host

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ichiro-metal/ichiro/agent/eni"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// describe writes what the resolver may say of each VPC that has an interface here, and forgets the others. It comes
// before the sockets: a guest that can ask gets an answer.
func (h *Host) describe(c eni.Config) error {
	if err := os.MkdirAll(h.Root.Networks(), 0o755); err != nil {
		return err
	}
	var errs []error
	keep := map[string]bool{}
	for _, v := range c.VPCs {
		if id := string(v.VPC.ID); id == "" || strings.ContainsAny(id, "/.") {
			continue // package eni refuses it too, and says so
		}
		path := h.Root.Network(v.VPC.ID)
		keep[path] = true
		errs = append(errs, put(path, network(v, h.Region), h.IMDSGroup))
	}
	entries, err := os.ReadDir(h.Root.Networks())
	errs = append(errs, err)
	for _, e := range entries {
		path := filepath.Join(h.Root.Networks(), e.Name())
		if !keep[path] && strings.HasSuffix(path, ".json") {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// network is what a VPC's guests may learn of it.
func network(v cloud.HostNetwork, region string) bundle.Network {
	return bundle.Network{
		VPC: v.VPC.ID, Region: region, Resolver: v.VPC.EnableDNS, Public: v.Public,
		Prefixes: slices.DeleteFunc(v.VPC.Prefixes(), func(p netip.Prefix) bool { return !p.Addr().Is4() }),
	}
}

// given are the interfaces that package eni was given last: what has not changed it is given again, which spares it the look.
type given map[cloud.InterfaceID]*eni.Interface

// same returns the interface that was given, if nothing of it is different.
func (g given) same(i eni.Interface) *eni.Interface {
	had := g[i.ID]
	if had == nil || !had.Equal(&i) {
		had = new(eni.Interface)
		*had = i
		g[i.ID] = had
	}
	return had
}

// forget keeps these only.
func (g given) forget(but []*eni.Interface) {
	if len(g) == len(but) {
		return
	}
	clear(g)
	for _, i := range but {
		g[i.ID] = i
	}
}
