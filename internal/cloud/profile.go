package cloud

import "time"

// ProfileRef names the instance profile that an instance carries, and says since when it does.
//
// A profile is known by its ID: one that was made anew under the same name is another, and credentials that were made
// for the first never stand for the second.
type ProfileRef struct {
	ARN      string
	ID       string // AIPA...
	Name     string
	RoleName string // when it was associated; the profile may hold another one since

	Association AssociationID `json:",omitempty"` // iip-assoc-
	Since       time.Time     `json:",omitzero"`
	Generation  int64         `json:",omitempty"` // of the instance, from which on it carries the profile
}

// ProfileAssociation returns the name under which the instance carries its profile; "" without one. Of an instance that
// was written before associations had names it is made of its own.
func (i Instance) ProfileAssociation() AssociationID {
	switch {
	case i.Profile == nil:
		return ""
	case i.Profile.Association == "":
		return AssociationID("iip-assoc-" + Digits(i.ID))
	}
	return i.Profile.Association
}

// Associate gives the instance a profile, in place of the one that it has.
func (i Instance) Associate(p ProfileRef, id AssociationID, now time.Time) Instance {
	i.Generation++
	p.Association, p.Since, p.Generation = id, now, i.Generation
	i.Profile = &p
	return i
}
