package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/netip"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// What EC2 gives a new account: https://docs.aws.amazon.com/vpc/latest/userguide/default-vpc-components.html
var (
	defaultVPC    = netip.MustParsePrefix("172.31.0.0/16")
	defaultSubnet = netip.MustParsePrefix("172.31.0.0/20")
)

// account marks that an account has been given its defaults; they are given once, so that an owner may
// delete them.
type account struct{ VPC cloud.VPCID }

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

// Bootstrap gives the account what EC2 gives a new one: a default VPC with a subnet, a security group and
// an internet gateway. It does so once, whoever calls it and however often.
func Bootstrap(ctx context.Context, c *store.Client, id cloud.AccountID, zone string) error {
	_, err := store.Get(ctx, c, accounts, id)
	if err == nil {
		return complete(ctx, c)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	ids := ids{r: rand.Reader}
	v := cloud.VPC{
		ID: newID[cloud.VPCID](&ids, "vpc"), Account: id, CIDR: defaultVPC, Default: true,
		DHCPOptions: newID[cloud.DHCPOptionsID](&ids, "dopt"), MainTable: newID[cloud.RouteTableID](&ids, "rtb"),
		NetworkACL: newID[cloud.NetworkACLID](&ids, "acl"), Gateway: newID[cloud.GatewayID](&ids, "igw"),
		EnableDNS: true, EnableDNSName: true,
	}
	s := cloud.Subnet{
		ID: newID[cloud.SubnetID](&ids, "subnet"), Account: id, VPC: v.ID, CIDR: defaultSubnet, Zone: zone, Default: true,
		ACLAssociation: newID[cloud.AssociationID](&ids, "aclassoc"),
	}
	g := cloud.SecurityGroup{ID: newID[cloud.GroupID](&ids, "sg"), Account: id, VPC: v.ID, Name: "default", Description: "default VPC security group"}
	g.Ingress, g.Egress = cloud.DefaultGroupRules(g.ID, newID[cloud.RuleID](&ids, "sgr"), newID[cloud.RuleID](&ids, "sgr"))
	if ids.err != nil {
		return ids.err
	}
	t := store.NewTxn()
	store.Create(t, accounts, id, account{VPC: v.ID})
	store.Create(t, store.VPCs, v.ID, v)
	store.Create(t, store.Subnets, s.ID, s)
	store.Create(t, store.Groups, g.ID, g)
	store.Create(t, store.Gateways, v.Gateway, cloud.InternetGateway{ID: v.Gateway, Account: id, VPC: v.ID})
	surround(t, v)
	_, err = c.Commit(ctx, t)
	if errors.Is(err, store.ErrConflict) {
		return nil // another process was first
	}
	return err
}

// surround adds what the VPC names: its main route table, its ACL and its DHCP options.
func surround(t *store.Txn, v cloud.VPC) {
	table := cloud.RouteTable{ID: v.MainTable, Account: v.Account, VPC: v.ID}
	if v.Gateway != "" {
		table.Routes = []cloud.Route{{Destination: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Gateway: v.Gateway}}
	}
	store.Create(t, store.RouteTables, table.ID, table)
	store.Create(t, store.NetworkACLs, v.NetworkACL, cloud.NetworkACL{ID: v.NetworkACL, Account: v.Account, VPC: v.ID, Entries: cloud.OpenACL()})
	if v.DHCPOptions != "" {
		store.Create(t, store.Options, v.DHCPOptions, cloud.DHCPOptions{ID: v.DHCPOptions, Account: v.Account, DomainNameServers: []string{cloud.ProvidedDNS}})
	}
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
