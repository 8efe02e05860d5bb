package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"io"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// account marks that an account has been given its defaults; they are given once, so that an owner may
// delete them.
type account struct {
	VPC     cloud.VPCID
	Options cloud.DHCPOptionsID // that a new VPC uses
}

var accounts = store.NewKind[account](store.SpecPrefix("account"))

// clouds says what this installation is called among all: under "id", and under the name itself, so that a
// transaction which relies on that key holds in no other store.
var clouds = store.NewKind[cloud.CloudID](store.ClusterPrefix("cloud"))

// Cloud is the name of the store that this process speaks for: the key that is called by it.
type Cloud = store.Object[cloud.CloudID]

// Name returns the name of a store, which is given once.
func Name(ctx context.Context, c *store.Client) (Cloud, error) {
	o, err := store.Get(ctx, c, clouds, "id")
	if err == nil {
		return store.Get(ctx, c, clouds, o.Value)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return Cloud{}, err
	}
	id, err := cloud.NewID[cloud.CloudID](rand.Reader, "c")
	if err != nil {
		return Cloud{}, err
	}
	t := store.NewTxn()
	store.Create(t, clouds, "id", id)
	store.Create(t, clouds, id, id)
	if _, err := c.Commit(ctx, t); err != nil && !errors.Is(err, store.ErrConflict) {
		return Cloud{}, err
	}
	return Name(ctx, c)
}

// Default says what default VPC an account gets.
type Default struct {
	Account cloud.AccountID
	Options cloud.DHCPOptionsID
	Zones   []string // with a subnet in each
	// Public is that instances in these subnets get public addresses, as at EC2. It needs a pool of them: without one,
	// guests reach the world under the host's address, and with a public one only as far as the network leads it back.
	Public bool
}

// Bootstrap gives an account what EC2 gives a new one: a default VPC with its subnets, a security group and an internet
// gateway; its DHCP options are made along with it. It does so once, whoever calls it and however often.
func Bootstrap(ctx context.Context, c *store.Client, d Default) error {
	id := d.Account
	_, err := store.Get(ctx, c, accounts, id)
	if err == nil {
		return complete(ctx, c)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	ids := ids{r: rand.Reader}
	t := store.NewTxn()
	options := cloud.DHCPOptions{ID: newID[cloud.DHCPOptionsID](&ids, "dopt"), Account: id, DomainNameServers: []string{cloud.ProvidedDNS}}
	store.Create(t, store.Options, options.ID, options)
	d.Options = options.ID
	v, err := FoundDefault(t, d, func(prefix string) string { return newID[string](&ids, prefix) })
	if err == nil {
		err = ids.err
	}
	if err != nil {
		return err
	}
	store.Create(t, accounts, id, account{VPC: v.ID, Options: options.ID})
	_, err = c.Commit(ctx, t)
	if errors.Is(err, store.ErrConflict) {
		return nil // another process was first
	}
	return err
}

// FoundDefault adds a default VPC with a subnet in each zone, and an internet gateway. newID makes identifiers.
func FoundDefault(t *store.Txn, d Default, newID func(prefix string) string) (cloud.VPC, error) {
	v := cloud.NewDefaultVPC(d.Account, newID)
	v.DHCPOptions = d.Options
	Found(t, v, newID)
	store.Create(t, store.Gateways, v.Gateway, cloud.InternetGateway{ID: v.Gateway, Account: d.Account, VPC: v.ID})
	var subnets []cloud.Subnet
	for _, zone := range d.Zones {
		s, err := v.NewDefaultSubnet(zone, subnets, newID)
		if err != nil {
			return v, err
		}
		s.MapPublicAddress = d.Public
		store.Create(t, store.Subnets, s.ID, s)
		subnets = append(subnets, s)
	}
	return v, nil
}

// Found adds a VPC with what EC2 makes along with it: its main route table, its ACL and its default group.
func Found(t *store.Txn, v cloud.VPC, newID func(prefix string) string) {
	store.Create(t, store.VPCs, v.ID, v)
	g := v.FirstGroup(newID)
	store.Create(t, store.Groups, g.ID, g)
	surround(t, v)
}

// surround adds what the VPC names: its main route table and its ACL.
func surround(t *store.Txn, v cloud.VPC) {
	store.Create(t, store.RouteTables, v.MainTable, v.FirstTable())
	store.Create(t, store.NetworkACLs, v.NetworkACL, v.FirstACL())
}

// DefaultOptions returns the DHCP options that an account's new VPC uses, "" if it has none, or none any more.
func DefaultOptions(v store.View, id cloud.AccountID) cloud.DHCPOptionsID {
	a, err := store.MirroredGet(v, accounts, id)
	if err != nil {
		return ""
	}
	options := a.Value.Options
	if options == "" { // an account of before there were VPCs beside the default one
		if d, err := store.MirroredGet(v, store.VPCs, a.Value.VPC); err == nil {
			options = d.Value.DHCPOptions
		}
	}
	return options
}

// complete adds what VPCs name and an earlier version did not make.
func complete(ctx context.Context, c *store.Client) error {
	l, err := store.List(ctx, c, store.VPCs, store.Range{})
	if err != nil {
		return err
	}
	for _, o := range l.Objects {
		_, err := store.Get(ctx, c, store.RouteTables, o.Value.MainTable)
		if !errors.Is(err, store.ErrNotFound) {
			if err != nil {
				return err
			}
			continue
		}
		t := store.NewTxn()
		surround(t, o.Value)
		if id := o.Value.DHCPOptions; id != "" {
			store.Create(t, store.Options, id, cloud.DHCPOptions{ID: id, Account: o.Value.Account, DomainNameServers: []string{cloud.ProvidedDNS}})
		}
		if _, err := c.Commit(ctx, t); err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return nil
}

// ids makes identifiers and keeps the first error.
type ids struct {
	r   io.Reader
	err error
}

func newID[ID ~string](i *ids, prefix string) ID {
	id, err := cloud.NewID[ID](i.r, prefix)
	if err != nil && i.err == nil {
		i.err = err
	}
	return id
}
