package ec2

import (
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// flat is the form in which requests named one rule before there were IpPermissions.
type flat struct {
	protocol              string
	from, to              *int64
	cidr                  string
	sourceName, sourceOwn string
}

// with returns the permissions that are asked for in either form. A source group in the flat form means all of TCP, UDP
// and ICMP from its members, as EC2 documents.
func (f flat) with(wanted []shape.IpPermission) ([]shape.IpPermission, error) {
	source := f.sourceName != "" || f.sourceOwn != ""
	switch {
	case f == flat{} && len(wanted) == 0:
		return nil, cloud.Errorf("MissingParameter", "The request must contain the parameter IpPermissions, or IpProtocol and CidrIp")
	case f == flat{}:
		return wanted, nil
	case len(wanted) > 0:
		return nil, cloud.Errorf("InvalidParameterCombination", "Put everything into IpPermissions, or nothing: the older parameters name one rule alone")
	case source && (f.protocol != "" || f.from != nil || f.to != nil || f.cidr != ""):
		return nil, cloud.Errorf("InvalidParameterCombination", "SourceSecurityGroupName allows all protocols and takes no IpProtocol, port or CidrIp: use IpPermissions for less")
	case source && f.sourceName == "":
		return nil, cloud.Errorf("MissingParameter", "SourceSecurityGroupOwnerId is given without SourceSecurityGroupName")
	case source:
		pair := []shape.UserIdGroupPair{{GroupName: f.sourceName, UserId: f.sourceOwn}}
		return []shape.IpPermission{
			{IpProtocol: "icmp", FromPort: number(-1), ToPort: number(-1), UserIdGroupPairs: pair},
			{IpProtocol: "udp", FromPort: number(0), ToPort: number(65535), UserIdGroupPairs: pair},
			{IpProtocol: "tcp", FromPort: number(0), ToPort: number(65535), UserIdGroupPairs: pair},
		}, nil
	case f.cidr == "":
		return nil, cloud.Errorf("MissingParameter", "The request must contain the parameter CidrIp")
	}
	return []shape.IpPermission{{IpProtocol: f.protocol, FromPort: f.from, ToPort: f.to, IpRanges: []shape.IpRange{{CidrIp: f.cidr}}}}, nil
}

// rulesOf takes permissions apart into rules, one for each peer, that have no IDs yet. The transaction relies on the
// groups that they are for.
func rulesOf(snap *store.Snapshot, t *store.Txn, g cloud.SecurityGroup, wanted []shape.IpPermission) ([]cloud.GroupRule, error) {
	var out []cloud.GroupRule
	for _, p := range wanted {
		base, err := cloud.NewGroupRule(p.IpProtocol, p.FromPort, p.ToPort)
		if err != nil {
			return nil, err
		}
		add := func(r cloud.GroupRule, err error, description string) error {
			if err == nil {
				r, err = r.WithDescription(description)
			}
			out = append(out, r)
			return err
		}
		if len(p.PrefixListIds) > 0 {
			return nil, cloud.Errorf("UnsupportedOperation", "PrefixListIds: prefix lists are not there yet: name the prefixes themselves in IpRanges or Ipv6Ranges")
		}
		if len(p.IpRanges)+len(p.Ipv6Ranges)+len(p.UserIdGroupPairs) == 0 {
			return nil, cloud.Errorf("InvalidPermission.Malformed", "A permission for protocol %s names no peer: give it IpRanges, Ipv6Ranges or Groups", base.Protocol)
		}
		for _, r := range p.IpRanges {
			with, err := base.WithCIDR(r.CidrIp, false)
			if err := add(with, err, r.Description); err != nil {
				return nil, err
			}
		}
		for _, r := range p.Ipv6Ranges {
			with, err := base.WithCIDR(r.CidrIpv6, true)
			if err := add(with, err, r.Description); err != nil {
				return nil, err
			}
		}
		for _, pair := range p.UserIdGroupPairs {
			o, err := referenced(snap, g, pair)
			if err != nil {
				return nil, err
			}
			store.Require(t, store.Groups, o.ID, o.Rev)
			with := base
			with.Group = o.Value.ID
			if err := add(with, nil, pair.Description); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// referenced returns the group that a rule of g is for. It must be of the same VPC: there is no peering yet.
func referenced(snap *store.Snapshot, g cloud.SecurityGroup, p shape.UserIdGroupPair) (store.Object[cloud.SecurityGroup], error) {
	var none store.Object[cloud.SecurityGroup]
	switch {
	case p.VpcPeeringConnectionId != "":
		return none, cloud.Errorf("UnsupportedOperation", "VpcPeeringConnectionId: VPC peering is not there yet: a rule can be for groups of its own VPC")
	case p.UserId != "" && p.UserId != string(g.Account):
		return none, cloud.Errorf("InvalidGroup.NotFound", "The security group '%.255s' of account %.20s cannot be the peer of a rule: it must be of the same VPC", p.GroupId+p.GroupName, p.UserId)
	}
	o, err := group(snap, g.Account, p.GroupId, p.GroupName)
	if err == nil && o.Value.VPC != g.VPC {
		err = cloud.Errorf("InvalidGroup.NotFound", "The security group '%s' is of %s and '%s' is of %s: a rule can be for groups of its own VPC", o.ID, o.Value.VPC, g.ID, g.VPC)
	}
	return o, err
}
