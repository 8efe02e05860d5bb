package ec2

import (
	"context"
	"slices"
	"time"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// An instance carries one instance profile, and the association says since when. Whoever changes it takes the credentials
// of the role before from the host in the same transaction: from then on nothing hands them out, and the planner makes
// new ones. What the guest has read already stays good until it expires, as on EC2: a role's sessions are ended by a
// policy that denies what aws:TokenIssueTime is older than.

func (s *Service) profileActions() []api.Action {
	return []api.Action{
		api.Do("AssociateIamInstanceProfile", s.AssociateIamInstanceProfile, on(func(in *shape.AssociateIamInstanceProfileInput) []string { return []string{in.InstanceId} })),
		api.Do("ReplaceIamInstanceProfileAssociation", s.ReplaceIamInstanceProfileAssociation, api.Resource(func(in *shape.ReplaceIamInstanceProfileAssociationInput) []string {
			return s.carrier(in.AssociationId)
		})),
		api.Do("DisassociateIamInstanceProfile", s.DisassociateIamInstanceProfile, api.Resource(func(in *shape.DisassociateIamInstanceProfileInput) []string {
			return s.carrier(in.AssociationId)
		})),
		api.Do("DescribeIamInstanceProfileAssociations", s.DescribeIamInstanceProfileAssociations, api.ReadOnly()),
	}
}

// carrier returns the instance of an association as policies name it.
func (s *Service) carrier(association string) []string {
	all, err := store.Mirrored(s.Mirror.Snapshot(), store.Instances)
	if k := slices.IndexFunc(all, func(o store.Object[cloud.Instance]) bool { return string(o.Value.ProfileAssociation()) == association }); err == nil && k >= 0 {
		return []string{"instance/" + all[k].ID}
	}
	return []string{"instance/*"}
}

// specifiedProfile returns the profile that a request names, if the caller may pass its role.
func (s *Service) specifiedProfile(ctx context.Context, p *shape.IamInstanceProfileSpecification) (cloud.ProfileRef, error) {
	switch {
	case p == nil || p.Arn+p.Name == "":
		return cloud.ProfileRef{}, cloud.Errorf("MissingParameter", "The request must contain the parameter IamInstanceProfile: its Arn or its Name")
	case p.Arn != "" && p.Name != "":
		return cloud.ProfileRef{}, cloud.Errorf("InvalidParameterCombination", "The parameter 'iamInstanceProfile.name' may not be used in combination with 'iamInstanceProfile.arn'")
	}
	ref, err := s.Profiles.ResolveProfile(ctx, p.Arn+p.Name)
	if err != nil {
		return ref, err
	}
	return ref, s.Profiles.MayPassRole(ctx, ref)
}

// AssociateIamInstanceProfile gives a profile to an instance that has none.
func (s *Service) AssociateIamInstanceProfile(ctx context.Context, in *shape.AssociateIamInstanceProfileInput) (*shape.AssociateIamInstanceProfileOutput, error) {
	ref, err := s.specifiedProfile(ctx, in.IamInstanceProfile)
	if err != nil {
		return nil, err
	}
	out := &shape.AssociateIamInstanceProfileOutput{}
	err = s.commit(ctx, nil, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.Instances, cloud.InstanceID(in.InstanceId), caller(ctx), anInstance)
		if err != nil {
			return err
		}
		if o.Value.Profile != nil {
			return cloud.Errorf("IncorrectState", "There is an existing association for instance %s", o.ID)
		}
		out.IamInstanceProfileAssociation, err = s.associate(snap, t, o, ref)
		return err
	})
	return out, err
}

// ReplaceIamInstanceProfileAssociation gives an instance another profile in place of the one it has, with no moment
// between the two. The association is a new one: so is its ID.
func (s *Service) ReplaceIamInstanceProfileAssociation(ctx context.Context, in *shape.ReplaceIamInstanceProfileAssociationInput) (*shape.ReplaceIamInstanceProfileAssociationOutput, error) {
	ref, err := s.specifiedProfile(ctx, in.IamInstanceProfile)
	if err != nil {
		return nil, err
	}
	out := &shape.ReplaceIamInstanceProfileAssociationOutput{}
	err = s.commit(ctx, nil, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := associated(snap, caller(ctx), in.AssociationId)
		if err != nil {
			return err
		}
		out.IamInstanceProfileAssociation, err = s.associate(snap, t, o, ref)
		return err
	})
	return out, err
}

// associate writes the wish that the instance carries the profile.
func (s *Service) associate(snap *store.Snapshot, t *store.Txn, o store.Object[cloud.Instance], ref cloud.ProfileRef) (*shape.IamInstanceProfileAssociation, error) {
	st := status(snap, o.Value)
	if now := o.Value.State(st); now != cloud.StateRunning && now != cloud.StateStopped {
		return nil, cloud.Errorf("IncorrectInstanceState", "The instance '%s' is not in the 'running' or 'stopped' states.", o.ID)
	}
	i := o.Value.Associate(ref, newID[cloud.AssociationID](s, "iip-assoc"), s.Now().UTC().Truncate(time.Second))
	unseat(t, o.Value)
	store.Update(t, store.Instances, o, i)
	shown := association(i, st)
	shown.State = "associating"
	return &shown, nil
}

// DisassociateIamInstanceProfile takes the profile from an instance.
func (s *Service) DisassociateIamInstanceProfile(ctx context.Context, in *shape.DisassociateIamInstanceProfileInput) (*shape.DisassociateIamInstanceProfileOutput, error) {
	out := &shape.DisassociateIamInstanceProfileOutput{}
	err := s.commit(ctx, nil, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := associated(snap, caller(ctx), in.AssociationId)
		if err != nil {
			return err
		}
		shown := association(o.Value, nil)
		shown.State = "disassociating"
		out.IamInstanceProfileAssociation = &shown
		i := o.Value
		i.Profile = nil
		i.Generation++
		unseat(t, o.Value)
		store.Update(t, store.Instances, o, i)
		return nil
	})
	return out, err
}

// unseat takes the role's credentials from the host of an instance.
func unseat(t *store.Txn, i cloud.Instance) {
	if i.Host != "" {
		store.Remove(t, store.Credentials(i.Host), i.ID)
	}
}

// associated returns the instance that an association is of. One that is terminated has none any more.
func associated(snap *store.Snapshot, who cloud.AccountID, id string) (store.Object[cloud.Instance], error) {
	var none store.Object[cloud.Instance]
	if !cloud.WellFormed(cloud.AssociationID(id), "iip-assoc") {
		return none, cloud.Errorf("InvalidParameterValue", "Invalid value for associationId.")
	}
	all, err := store.Mirrored(snap, store.Instances)
	if err != nil {
		return none, err
	}
	for _, o := range all {
		if i := o.Value; i.Account == who && i.Power != cloud.PowerTerminated && string(i.ProfileAssociation()) == id {
			return o, nil
		}
	}
	return none, cloud.Errorf("InvalidAssociationID.NotFound", "An invalid association-id of '%s' was given", id)
}

// DescribeIamInstanceProfileAssociations shows which instances carry which profiles.
func (s *Service) DescribeIamInstanceProfileAssociations(ctx context.Context, in *shape.DescribeIamInstanceProfileAssociationsInput) (*shape.DescribeIamInstanceProfileAssociationsOutput, error) {
	type shown = shape.IamInstanceProfileAssociation
	if in.MaxResults != nil && len(in.AssociationIds) > 0 {
		return nil, cloud.Errorf("InvalidParameterCombination", "The parameter associationIds cannot be used with the parameter maxResults: leave one out")
	}
	q := query[shown]{in: in, filters: in.Filters, id: func(a shown) string { return a.AssociationId }, fields: fields[shown]{
		"instance-id": func(a shown) []string { return one(a.InstanceId) },
		"state":       func(a shown) []string { return one(a.State) },
	}}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]shown, error) {
		var out []shown
		for _, id := range in.AssociationIds {
			o, err := associated(snap, caller(ctx), id)
			if err != nil {
				return nil, err
			}
			out = append(out, association(o.Value, status(snap, o.Value)))
		}
		if len(in.AssociationIds) > 0 {
			return out, nil
		}
		all, err := s.instances(snap, caller(ctx), nil)
		for _, i := range all {
			if i.Profile != nil && i.Power != cloud.PowerTerminated {
				out = append(out, association(i, status(snap, i)))
			}
		}
		return out, err
	})
	return &shape.DescribeIamInstanceProfileAssociationsOutput{IamInstanceProfileAssociations: page, NextToken: next}, err
}

// association is an instance's profile in EC2's shape. It is associating while the instance runs and its host has not
// said that the guest is told.
func association(i cloud.Instance, st *cloud.InstanceStatus) shape.IamInstanceProfileAssociation {
	p := i.Profile
	state := "associated"
	if i.Power == cloud.PowerRunning && (st == nil || st.Generation < p.Generation) {
		state = "associating"
	}
	since := p.Since
	if since.IsZero() {
		since = i.Launched
	}
	return shape.IamInstanceProfileAssociation{
		AssociationId: string(i.ProfileAssociation()), InstanceId: string(i.ID), State: state, Timestamp: &since,
		IamInstanceProfile: &shape.IamInstanceProfile{Arn: p.ARN, Id: p.ID},
	}
}
