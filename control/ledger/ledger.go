// Package ledger keeps who has which address: the keys under ipam/, and the addresses that rest.
//
// Each function adds to a transaction of its caller, which relies on the interface that takes or gives:
// so an address and its owner change together or not at all.
//
//	free --Take--> ipam/<subnet>/<ip> = owner --Give--> resting: free, and chosen last --10 min--> free
//
// A private address has one key, a delegated /28 one for each of its 16 addresses: no two of them can
// overlap. An IPv6 /80 is too large for that. It has one key of its own in which its addresses' keys would
// begin too; who delegates it relies on there being none that begins so, and who takes a single address
// relies on there being no key of its /80. The store decides between two that do so at the same time.
package ledger

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/control/ipam"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// Rest is how long an address that was given back is chosen only when there is no other. In it peers forget the
// owner before: EC2's tracked UDP streams idle out after 180 s, and resolvers keep names for 60 s. Twice both and some.
const Rest = 10 * time.Minute

// Keys are the private addresses in use of a subnet, each with its interface.
func Keys(subnet cloud.SubnetID) store.Kind[cloud.InterfaceID] {
	return store.NewKind[cloud.InterfaceID](store.IPAMPrefix(subnet))
}

// PublicKeys are the public addresses in use, each with its allocation.
var PublicKeys = store.NewKind[cloud.AllocationID](store.IPAMPrefix(store.PublicPool))

// resting is an address or prefix that was given back.
type resting struct {
	Prefix netip.Prefix
	Since  time.Time
}

func restingKeys(subnet cloud.SubnetID) store.Kind[resting] {
	return store.NewKind[resting](store.RestingPrefix(subnet))
}

// key is the ID of an address's key. IPv6 is written in full, so that all addresses of a /80 begin alike.
func key(a netip.Addr) string { return a.StringExpanded() }

// blockKey is the ID of the key of a /80: of the same beginning as its addresses.
func blockKey(p netip.Prefix) string { return within(p) + ":/80" }

// within is how the keys of all addresses of a /80 begin: its five groups of 16 bits.
func within(p netip.Prefix) string {
	return strings.Join(strings.SplitAfter(p.Addr().StringExpanded(), ":")[:5], "")
}

// Take adds to t that the interface has what it was granted, which nobody has.
func Take(t *store.Txn, subnet cloud.SubnetID, id cloud.InterfaceID, g ipam.Grant) {
	k := Keys(subnet)
	for _, a := range g.Addresses {
		store.Create(t, k, key(a), id)
	}
	for _, a := range g.IPv6 {
		store.Require(t, k, blockKey(ipam.Block(a)), 0)
		store.Create(t, k, key(a), id)
	}
	for _, p := range g.Prefixes {
		if p.Addr().Is6() {
			store.RequireNone(t, k, within(p))
			store.Create(t, k, blockKey(p), id)
			continue
		}
		for a := range each(p) {
			store.Create(t, k, key(a), id)
		}
	}
}

// Give adds to t that the interface, on which t relies, gives back what it has.
func Give(t *store.Txn, subnet cloud.SubnetID, g ipam.Grant, now time.Time) {
	k := Keys(subnet)
	for _, a := range g.Addresses {
		store.Remove(t, k, key(a))
		rest(t, subnet, netip.PrefixFrom(a, a.BitLen()), now)
	}
	for _, a := range g.IPv6 { // of 2^64 the same one is not chosen again
		store.Remove(t, k, key(a))
	}
	for _, p := range g.Prefixes {
		rest(t, subnet, p, now)
		if p.Addr().Is6() {
			store.Remove(t, k, blockKey(p))
			continue
		}
		for a := range each(p) {
			store.Remove(t, k, key(a))
		}
	}
}

// Move adds to t that an address of one interface is now another's; t relies on both.
func Move(t *store.Txn, subnet cloud.SubnetID, a netip.Addr, to cloud.InterfaceID) {
	store.Put(t, Keys(subnet), key(a), to)
}

// TakePublic adds to t a public address that nobody has.
func TakePublic(t *store.Txn, a cloud.Address) {
	store.Create(t, PublicKeys, a.Public.String(), a.ID)
	store.Create(t, store.Addresses, a.ID, a)
}

// GivePublic adds to t that a public address is given back.
func GivePublic(t *store.Txn, o store.Object[cloud.Address], now time.Time) {
	store.Delete(t, store.Addresses, o)
	store.Remove(t, PublicKeys, o.Value.Public.String())
	rest(t, store.PublicPool, netip.PrefixFrom(o.Value.Public, 32), now)
}

func rest(t *store.Txn, subnet cloud.SubnetID, p netip.Prefix, now time.Time) {
	store.Put(t, restingKeys(subnet), p.String(), resting{p, now})
}

// All returns all that an interface has.
func All(n cloud.NetworkInterface) ipam.Grant {
	return ipam.Grant{Addresses: n.Addresses, IPv6: n.IPv6, Prefixes: n.Prefixes}
}

// Cost returns how many changes of a transaction it is to take or give what an interface has.
func Cost(n cloud.NetworkInterface) int {
	cost := 2*len(n.Addresses) + len(n.IPv6)
	for _, p := range n.Prefixes {
		if cost += 2; p.Addr().Is4() {
			cost += 15
		}
	}
	return cost
}

// Space returns what is known of a subnet's addresses.
func Space(snap *store.Snapshot, s cloud.Subnet, seed uint64, now time.Time) (*ipam.Space, error) {
	space := ipam.NewSpace(s, seed)
	interfaces, err := store.Mirrored(snap, store.Interfaces)
	if err != nil {
		return nil, err
	}
	for _, n := range interfaces {
		if n.Value.Subnet == s.ID {
			space.Hold(n.Value)
		}
	}
	return space, eachResting(snap, s.ID, now, space.Rest)
}

// Pool returns what is known of the public addresses.
func Pool(snap *store.Snapshot, prefixes []netip.Prefix, seed uint64, now time.Time) (*ipam.Pool, error) {
	pool := ipam.NewPool(prefixes, seed)
	all, err := store.Mirrored(snap, store.Addresses)
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		pool.Hold(a.Value.Public)
	}
	return pool, eachResting(snap, store.PublicPool, now, func(p netip.Prefix) { pool.Rest(p.Addr()) })
}

func eachResting(snap *store.Snapshot, subnet cloud.SubnetID, now time.Time, f func(netip.Prefix)) error {
	all, err := store.Mirrored(snap, restingKeys(subnet))
	for _, o := range all {
		if now.Sub(o.Value.Since) < Rest {
			f(o.Value.Prefix)
		}
	}
	return err
}

// forgetAtOnce bounds how many keys Forget removes in one transaction.
const forgetAtOnce = 500

// Forget adds to t that addresses which have rested are like any other. What one transaction does not hold is left to
// the next.
func Forget(t *store.Txn, snap *store.Snapshot, now time.Time) error {
	k := store.NewKind[resting](store.SpecPrefix("resting"))
	all, err := store.Mirrored(snap, k)
	for _, o := range all {
		if now.Sub(o.Value.Since) >= Rest && t.Len() < forgetAtOnce {
			store.Delete(t, k, o)
		}
	}
	return err
}

// each yields the addresses of a small prefix.
func each(p netip.Prefix) func(yield func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		for a := p.Addr(); p.Contains(a); a = a.Next() {
			if !yield(a) {
				return
			}
		}
	}
}

// Part adds to t that the public addresses of an interface, on which t relies, stand for it no more: all, or those of
// some private ones. Elastic ones stay their owners'; those of a launch are given back.
func Part(t *store.Txn, snap *store.Snapshot, id cloud.InterfaceID, now time.Time, private []netip.Addr) error {
	all, err := store.Mirrored(snap, store.Addresses)
	for _, o := range all {
		switch {
		case o.Value.Interface != id, private != nil && !slices.Contains(private, o.Value.Private):
		case o.Value.Launch:
			GivePublic(t, o, now)
		default:
			store.Update(t, store.Addresses, o, o.Value.Disassociate())
		}
	}
	return err
}
