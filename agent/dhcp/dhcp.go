// Package dhcp answers the DHCP requests of this host's guests.
//
// There is no lease database. An address belongs to a network interface because someone wished it so; the
// server only repeats the wish, for an hour at a time, and any number of restarts changes nothing. A host is
// known by the tap a request came from and the MAC in it, never by the client identifier, which guests make
// up as they like. On a tap there is exactly one guest: another MAC gets silence, a request for
// another address gets an immediate NAK.
//
// One UDP socket per namespace receives (IP_PKTINFO tells the tap), one packet socket sends whole frames with
// a full UDP checksum: what a UDP socket sends on a tap has a partial one, and clients on raw sockets refuse it.
// answer.go decides (pure), server.go moves the bytes. A read error never ends the server: taps come and go.
package dhcp

import (
	"net/netip"
	"sync/atomic"
)

// Lease is the time after which a guest asks again: EC2's hour.
const Lease = 3600

// Network is one namespace with the guests that are to be answered in it.
type Network struct {
	Name  string
	Enter func(func() error) error // runs a function on a thread in the namespace
	Hosts []Host
}

// Host is one interface of a guest and all that it is told.
type Host struct {
	Index     int     // of the tap
	MAC       [6]byte // of the guest
	Source    [6]byte // of the tap: the router's
	Address   netip.Addr
	Subnet    netip.Prefix
	Router    netip.Addr // server identifier and default gateway
	MTU       int
	Hostname  string
	Domain    string
	Resolvers []netip.Addr // none: the option is left out
}

// Counters count since the start. They are read while the server runs.
type Counters struct {
	Discovers, Offers, Requests, Acks, Naks, Informs atomic.Uint64
	Releases, Declines                               atomic.Uint64
	Unknown                                          atomic.Uint64 // a MAC that does not belong to the tap
	Malformed                                        atomic.Uint64
	Ignored                                          atomic.Uint64 // another server's, a relay's, not a request
	ReadErrors, SendErrors                           atomic.Uint64
}

// Map returns the counters by name.
func (c *Counters) Map() map[string]uint64 {
	return map[string]uint64{
		"discovers": c.Discovers.Load(), "offers": c.Offers.Load(), "requests": c.Requests.Load(), "acks": c.Acks.Load(),
		"naks": c.Naks.Load(), "informs": c.Informs.Load(), "releases": c.Releases.Load(), "declines": c.Declines.Load(),
		"unknown": c.Unknown.Load(), "malformed": c.Malformed.Load(), "ignored": c.Ignored.Load(),
		"read_errors": c.ReadErrors.Load(), "send_errors": c.SendErrors.Load(),
	}
}
