package ec2

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// aclActions are the actions on network ACLs.
func (s *Service) aclActions() []api.Action {
	ro := api.ReadOnly()
	acl := func(id string) []string { return []string{"network-acl/" + id} }
	return []api.Action{
		api.Do("CreateNetworkAcl", s.CreateNetworkAcl, api.Resource(func(in *shape.CreateNetworkAclInput) []string {
			return []string{"network-acl/*", "vpc/" + in.VpcId}
		})),
		api.Do("DeleteNetworkAcl", s.DeleteNetworkAcl, api.Resource(func(in *shape.DeleteNetworkAclInput) []string { return acl(in.NetworkAclId) })),
		api.Do("DescribeNetworkAcls", s.DescribeNetworkAcls, ro),
		api.Do("CreateNetworkAclEntry", s.CreateNetworkAclEntry, api.Resource(func(in *shape.CreateNetworkAclEntryInput) []string { return acl(in.NetworkAclId) })),
		api.Do("ReplaceNetworkAclEntry", s.ReplaceNetworkAclEntry, api.Resource(func(in *shape.ReplaceNetworkAclEntryInput) []string { return acl(in.NetworkAclId) })),
		api.Do("DeleteNetworkAclEntry", s.DeleteNetworkAclEntry, api.Resource(func(in *shape.DeleteNetworkAclEntryInput) []string { return acl(in.NetworkAclId) })),
		api.Do("ReplaceNetworkAclAssociation", s.ReplaceNetworkAclAssociation, api.Resource(s.replacedAssociation)),
	}
}

// replacedAssociation returns the ACLs and the subnet that a change of an association is about.
func (s *Service) replacedAssociation(in *shape.ReplaceNetworkAclAssociationInput) []string {
	out := []string{"network-acl/" + in.NetworkAclId}
	all, _ := store.Mirrored(s.Mirror.Snapshot(), store.Subnets)
	for _, o := range all {
		if string(o.Value.ACLAssociation) == in.AssociationId {
			out = append(out, "subnet/"+o.ID)
		}
	}
	return out
}

// aclToken is what a ClientToken of CreateNetworkAcl stands for.
type aclToken struct {
	Digest string
	ACL    cloud.NetworkACLID
}

// CreateNetworkAcl makes an ACL that lets nothing pass.
func (s *Service) CreateNetworkAcl(ctx context.Context, in *shape.CreateNetworkAclInput) (*shape.CreateNetworkAclOutput, error) {
	specified, err := specifiedTags(in.TagSpecifications, "network-acl")
	if err != nil {
		return nil, err
	}
	if len(in.ClientToken) > 64 {
		return nil, cloud.Errorf("InvalidParameterValue", "ClientToken may have 64 characters")
	}
	who := caller(ctx)
	a := cloud.NetworkACL{ID: newID[cloud.NetworkACLID](s, "acl"), Account: who, Tags: specified["network-acl"]}
	id := a.ID
	err = s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		if id, err = s.aclFor(ctx, t, in, a.ID); err != nil || id != a.ID {
			return err
		}
		v, err := find(snap, store.VPCs, cloud.VPCID(in.VpcId), who, aVPC)
		if err != nil {
			return err
		}
		all, err := store.Mirrored(snap, store.NetworkACLs)
		if err != nil {
			return err
		}
		n := 0
		for _, o := range all {
			if o.Value.VPC == v.Value.ID {
				n++
			}
		}
		if n >= cloud.ACLsPerVPC {
			return cloud.Errorf("NetworkAclLimitExceeded", "%s has %d network ACLs, which is the most: delete one that is not used", v.ID, n)
		}
		a.VPC = v.Value.ID
		store.Require(t, store.VPCs, v.ID, v.Rev)
		store.Create(t, store.NetworkACLs, a.ID, a)
		return nil
	})
	if err != nil || yes(in.DryRun) {
		return nil, err
	}
	snap := s.Mirror.Snapshot()
	made, err := find(snap, store.NetworkACLs, id, who, aNetworkACL)
	if err != nil {
		return nil, err
	}
	w, err := aclLook(snap)
	return &shape.CreateNetworkAclOutput{ClientToken: in.ClientToken, NetworkAcl: ptr(w.acl(made.Value))}, err
}

// aclFor returns the ACL that the request's ClientToken has made before, or fresh.
func (s *Service) aclFor(ctx context.Context, t *store.Txn, in *shape.CreateNetworkAclInput, fresh cloud.NetworkACLID) (cloud.NetworkACLID, error) {
	if in.ClientToken == "" {
		return fresh, nil
	}
	plain := *in
	plain.ClientToken, plain.DryRun = "", nil
	data, err := json.Marshal(plain)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	digest := hex.EncodeToString(sum[:])
	tokens := store.NewKind[aclToken](store.TokenPrefix(caller(ctx), "CreateNetworkAcl"))
	had, err := store.Get(ctx, s.Store, tokens, in.ClientToken)
	switch {
	case errors.Is(err, store.ErrNotFound):
		store.CreateWithTTL(t, tokens, in.ClientToken, aclToken{digest, fresh}, tokenLife)
		return fresh, nil
	case err != nil:
		return "", err
	case had.Value.Digest != digest:
		return "", cloud.Errorf("IdempotentParameterMismatch", "The client token %s was used for a request with other parameters: use another token", in.ClientToken)
	}
	return had.Value.ACL, s.Mirror.WaitRev(ctx, had.Rev) // another control process may have answered the first time
}

// DeleteNetworkAcl removes an ACL that no subnet uses.
func (s *Service) DeleteNetworkAcl(ctx context.Context, in *shape.DeleteNetworkAclInput) (*shape.DeleteNetworkAclOutput, error) {
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.NetworkACLs, cloud.NetworkACLID(in.NetworkAclId), caller(ctx), aNetworkACL)
		if err != nil {
			return err
		}
		w, err := aclLook(snap)
		if err != nil {
			return err
		}
		if w.vpcs[o.Value.VPC].NetworkACL == o.Value.ID {
			return cloud.Errorf("InvalidParameterValue", "%s is the default network ACL of %s, which goes with its VPC", o.ID, o.Value.VPC)
		}
		if used := w.associations[o.Value.ID]; len(used) > 0 {
			return cloud.Errorf("DependencyViolation", "%s is used by %s: give the subnet another one first", o.ID, used[0].SubnetId)
		}
		store.Delete(t, store.NetworkACLs, o)
		store.RequireNothingNew(t, store.Subnets, snap.Rev()) // whoever associates a subnet at the same time Requires the ACL
		return nil
	})
	return &shape.DeleteNetworkAclOutput{}, err
}

// changeACL decides on an ACL's entries.
func (s *Service) changeACL(ctx context.Context, id string, dryRun *bool, decide func(cloud.NetworkACL) (cloud.NetworkACL, error)) error {
	return s.commit(ctx, dryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.NetworkACLs, cloud.NetworkACLID(id), caller(ctx), aNetworkACL)
		if err != nil {
			return err
		}
		next, err := decide(o.Value)
		if err != nil {
			return err
		}
		store.Update(t, store.NetworkACLs, o, next)
		return nil
	})
}

// CreateNetworkAclEntry adds a numbered entry.
func (s *Service) CreateNetworkAclEntry(ctx context.Context, in *shape.CreateNetworkAclEntryInput) (*shape.CreateNetworkAclEntryOutput, error) {
	e, err := aclEntry(shape.ReplaceNetworkAclEntryInput(*in))
	if err != nil {
		return nil, err
	}
	return &shape.CreateNetworkAclEntryOutput{}, s.changeACL(ctx, in.NetworkAclId, in.DryRun, func(a cloud.NetworkACL) (cloud.NetworkACL, error) { return a.Add(e) })
}

// ReplaceNetworkAclEntry puts another entry in the place of one.
func (s *Service) ReplaceNetworkAclEntry(ctx context.Context, in *shape.ReplaceNetworkAclEntryInput) (*shape.ReplaceNetworkAclEntryOutput, error) {
	e, err := aclEntry(*in)
	if err != nil {
		return nil, err
	}
	return &shape.ReplaceNetworkAclEntryOutput{}, s.changeACL(ctx, in.NetworkAclId, in.DryRun, func(a cloud.NetworkACL) (cloud.NetworkACL, error) { return a.Replace(e) })
}

// DeleteNetworkAclEntry removes an entry.
func (s *Service) DeleteNetworkAclEntry(ctx context.Context, in *shape.DeleteNetworkAclEntryInput) (*shape.DeleteNetworkAclEntryOutput, error) {
	if in.RuleNumber == nil || in.Egress == nil {
		return nil, cloud.Errorf("MissingParameter", "The request must contain the parameters RuleNumber and Egress")
	}
	return &shape.DeleteNetworkAclEntryOutput{}, s.changeACL(ctx, in.NetworkAclId, in.DryRun, func(a cloud.NetworkACL) (cloud.NetworkACL, error) {
		return a.Remove(*in.Egress, *in.RuleNumber)
	})
}

// aclEntry reads an entry of a request: those of the two actions are the same.
func aclEntry(in shape.ReplaceNetworkAclEntryInput) (cloud.ACLEntry, error) {
	if in.RuleNumber == nil || in.Egress == nil {
		return cloud.ACLEntry{}, cloud.Errorf("MissingParameter", "The request must contain the parameters RuleNumber and Egress")
	}
	r := cloud.EntryRequest{Number: *in.RuleNumber, Egress: *in.Egress, Protocol: in.Protocol, Action: in.RuleAction, CIDR: in.CidrBlock, CIDRv6: in.Ipv6CidrBlock}
	if p := in.PortRange; p != nil {
		r.From, r.To = p.From, p.To
	}
	if c := in.IcmpTypeCode; c != nil {
		r.Type, r.Code = c.Type, c.Code
	}
	return cloud.NewACLEntry(r)
}

// ReplaceNetworkAclAssociation has a subnet use another ACL. The association is a new one: so is its ID.
func (s *Service) ReplaceNetworkAclAssociation(ctx context.Context, in *shape.ReplaceNetworkAclAssociationInput) (*shape.ReplaceNetworkAclAssociationOutput, error) {
	who := caller(ctx)
	next := newID[cloud.AssociationID](s, "aclassoc")
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		a, err := find(snap, store.NetworkACLs, cloud.NetworkACLID(in.NetworkAclId), who, aNetworkACL)
		if err != nil {
			return err
		}
		o, err := subnetOfACLAssociation(snap, who, cloud.AssociationID(in.AssociationId))
		if err != nil {
			return err
		}
		subnet := o.Value
		if a.Value.VPC != subnet.VPC {
			return cloud.Errorf("InvalidParameterValue", "%s is of %s and %s is of %s: a subnet uses a network ACL of its own VPC", a.ID, a.Value.VPC, o.ID, subnet.VPC)
		}
		subnet.NetworkACL, subnet.ACLAssociation = a.Value.ID, next
		store.Require(t, store.NetworkACLs, a.ID, a.Rev)
		store.Update(t, store.Subnets, o, subnet)
		return nil
	})
	return &shape.ReplaceNetworkAclAssociationOutput{NewAssociationId: string(next)}, err
}

func subnetOfACLAssociation(snap *store.Snapshot, who cloud.AccountID, id cloud.AssociationID) (store.Object[cloud.Subnet], error) {
	var none store.Object[cloud.Subnet]
	if !cloud.WellFormed(id, "aclassoc") {
		return none, cloud.Malformed("InvalidAssociationID.Malformed", id)
	}
	all, err := store.Mirrored(snap, store.Subnets)
	if err != nil {
		return none, err
	}
	for _, o := range all {
		if o.Value.ACLAssociation == id && o.Value.Account == who {
			return o, nil
		}
	}
	return none, cloud.NotFound("InvalidAssociationID.NotFound", "association ID", id)
}

// acls is one snapshot with what network ACLs are shown with.
type acls struct {
	vpcs         map[cloud.VPCID]cloud.VPC
	associations map[cloud.NetworkACLID][]shape.NetworkAclAssociation
}

func aclLook(snap *store.Snapshot) (acls, error) {
	w := acls{map[cloud.VPCID]cloud.VPC{}, map[cloud.NetworkACLID][]shape.NetworkAclAssociation{}}
	vpcs, err := store.Mirrored(snap, store.VPCs)
	for _, o := range vpcs {
		w.vpcs[o.Value.ID] = o.Value
	}
	subnets, subnetsErr := store.Mirrored(snap, store.Subnets)
	for _, o := range subnets {
		used := o.Value.NetworkACL
		if used == "" {
			used = w.vpcs[o.Value.VPC].NetworkACL
		}
		w.associations[used] = append(w.associations[used], shape.NetworkAclAssociation{
			NetworkAclAssociationId: string(o.Value.ACLAssociation), NetworkAclId: string(used), SubnetId: o.ID,
		})
	}
	return w, errors.Join(err, subnetsErr)
}

// acl is a network ACL in EC2's shape, with the entries that end its lists.
func (w acls) acl(a cloud.NetworkACL) shape.NetworkAcl {
	v := w.vpcs[a.VPC]
	out := shape.NetworkAcl{
		NetworkAclId: string(a.ID), VpcId: string(a.VPC), OwnerId: string(a.Account), IsDefault: ptr(v.NetworkACL == a.ID),
		Associations: w.associations[a.ID], Tags: tags(a.Tags),
	}
	if out.Associations == nil {
		out.Associations = []shape.NetworkAclAssociation{} // EC2 answers with an empty list
	}
	for _, e := range a.Shown(v) {
		out.Entries = append(out.Entries, entryShape(e))
	}
	return out
}

func entryShape(e cloud.ACLEntry) shape.NetworkAclEntry {
	out := shape.NetworkAclEntry{RuleNumber: number(e.Number), Egress: ptr(e.Egress), Protocol: strconv.Itoa(e.Protocol), RuleAction: "deny"}
	if e.Allow {
		out.RuleAction = "allow"
	}
	if e.CIDR.Addr().Is4() {
		out.CidrBlock = e.CIDR.String()
	} else {
		out.Ipv6CidrBlock = e.CIDR.String()
	}
	switch {
	case e.Protocol == cloud.ProtocolTCP, e.Protocol == cloud.ProtocolUDP:
		out.PortRange = &shape.PortRange{From: number(e.FromPort), To: number(e.ToPort)}
	case e.Protocol == cloud.ProtocolICMP, e.Protocol == cloud.ProtocolICMPv6 && e.CIDR.Addr().Is6():
		out.IcmpTypeCode = &shape.IcmpTypeCode{Type: number(e.FromPort), Code: number(e.ToPort)}
	}
	return out
}
