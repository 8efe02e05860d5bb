package cloud

import "slices"

// How the list of a group's rules changes. All of these return the changed group and leave the one they are called on
// as it was; either all that is asked for happens, or the error says what cannot.

// Rules returns the rules of one direction.
func (g SecurityGroup) Rules(egress bool) []GroupRule {
	if egress {
		return g.Egress
	}
	return g.Ingress
}

func (g SecurityGroup) with(egress bool, rules []GroupRule) SecurityGroup {
	if egress {
		g.Egress = rules
	} else {
		g.Ingress = rules
	}
	return g
}

// RefersTo reports whether a rule of the group is for the members of another, or of itself.
func (g SecurityGroup) RefersTo(id GroupID) bool {
	is := func(r GroupRule) bool { return r.Group == id }
	return slices.ContainsFunc(g.Ingress, is) || slices.ContainsFunc(g.Egress, is)
}

// Authorize adds rules to one direction.
func (g SecurityGroup) Authorize(egress bool, rules []GroupRule) (SecurityGroup, error) {
	had := map[Permission]bool{}
	for _, r := range g.Rules(egress) {
		had[r.Permission()] = true
	}
	seen := map[Permission]bool{}
	for _, r := range rules {
		p := r.Permission()
		if seen[p] {
			return g, Errorf("InvalidParameterValue", "The same permission must not appear twice in one request: %s", r)
		}
		if had[p] {
			return g, Errorf("InvalidPermission.Duplicate", "The specified rule %q already exists", r)
		}
		seen[p] = true
	}
	next := slices.Concat(g.Rules(egress), rules)
	return g.with(egress, next), checkCount(next)
}

// checkCount refuses more rules than a group may have of each family. A rule for a group counts for both.
func checkCount(rules []GroupRule) error {
	var v4, v6 int
	for _, r := range rules {
		if r.CIDR == "" || !r.IPv6() {
			v4++
		}
		if r.CIDR == "" || r.IPv6() {
			v6++
		}
	}
	if n := max(v4, v6); n > RulesPerGroup {
		return Errorf("RulesPerSecurityGroupLimitExceeded", "A security group may have %d rules of each family in each direction, and this makes %d: revoke some, or use a further group", RulesPerGroup, n)
	}
	return nil
}

// Revoke takes away the rules that allow what the wanted ones do, and returns those that are not there.
func (g SecurityGroup) Revoke(egress bool, wanted []GroupRule) (next SecurityGroup, unknown []GroupRule) {
	gone := map[Permission]bool{}
	for _, r := range wanted {
		has := slices.ContainsFunc(g.Rules(egress), func(o GroupRule) bool { return o.Permission() == r.Permission() })
		if !has {
			unknown = append(unknown, r)
		}
		gone[r.Permission()] = true
	}
	return g.with(egress, slices.DeleteFunc(slices.Clone(g.Rules(egress)), func(r GroupRule) bool { return gone[r.Permission()] })), unknown
}

// RevokeIDs takes away rules by their identifiers.
func (g SecurityGroup) RevokeIDs(egress bool, ids []RuleID) (SecurityGroup, error) {
	for _, id := range ids {
		if _, err := g.at(egress, id); err != nil {
			return g, err
		}
	}
	return g.with(egress, slices.DeleteFunc(slices.Clone(g.Rules(egress)), func(r GroupRule) bool { return slices.Contains(ids, r.ID) })), nil
}

// at returns the place of a rule in its direction.
func (g SecurityGroup) at(egress bool, id RuleID) (int, error) {
	if !WellFormed(id, "sgr") {
		return 0, Malformed("InvalidSecurityGroupRuleId.Malformed", id)
	}
	k := slices.IndexFunc(g.Rules(egress), func(r GroupRule) bool { return r.ID == id })
	if k < 0 {
		return 0, Errorf("InvalidSecurityGroupRuleId.NotFound", "The security group rule ID '%s' does not exist in %s", id, g.ID)
	}
	return k, nil
}

// Modify gives rules that exist, of either direction, other permissions and descriptions. They keep their tags.
func (g SecurityGroup) Modify(rules []GroupRule) (SecurityGroup, error) {
	next := g.with(true, slices.Clone(g.Egress)).with(false, slices.Clone(g.Ingress))
	seen := map[RuleID]bool{}
	for _, r := range rules {
		if seen[r.ID] {
			return g, Errorf("InvalidParameterValue", "The rule %s is named twice: say once what it shall be", r.ID)
		}
		seen[r.ID] = true
		egress := slices.ContainsFunc(g.Egress, func(o GroupRule) bool { return o.ID == r.ID })
		k, err := next.at(egress, r.ID)
		if err != nil {
			return g, err
		}
		r.Tags = next.Rules(egress)[k].Tags
		next.Rules(egress)[k] = r
	}
	for _, egress := range []bool{false, true} {
		had := map[Permission]bool{}
		for _, r := range next.Rules(egress) {
			if had[r.Permission()] {
				return g, Errorf("InvalidPermission.Duplicate", "The specified rule %q already exists", r)
			}
			had[r.Permission()] = true
		}
		if err := checkCount(next.Rules(egress)); err != nil {
			return g, err
		}
	}
	return next, nil
}

// Describe changes what is said of the rules that allow what the given ones do.
func (g SecurityGroup) Describe(egress bool, rules []GroupRule) (SecurityGroup, error) {
	next := slices.Clone(g.Rules(egress))
	for _, r := range rules {
		k := slices.IndexFunc(next, func(o GroupRule) bool { return o.Permission() == r.Permission() })
		if k < 0 {
			return g, Errorf("InvalidPermission.NotFound", "The specified rule %q does not exist in this security group", r)
		}
		next[k].Description = r.Description
	}
	return g.with(egress, next), nil
}

// DescribeIDs does so by identifiers.
func (g SecurityGroup) DescribeIDs(egress bool, texts map[RuleID]string) (SecurityGroup, error) {
	next := slices.Clone(g.Rules(egress))
	for id, text := range texts {
		k, err := g.at(egress, id)
		if err != nil {
			return g, err
		}
		if next[k], err = next[k].WithDescription(text); err != nil {
			return g, err
		}
	}
	return g.with(egress, next), nil
}
