package iam

import "strings"

// RoleARN is the ARN of the role whose session this is, or "".
func (p *Principal) RoleARN() string { return p.roleARN }

// Narrowed reports whether the session has a policy of its own.
func (p *Principal) Narrowed() bool { return p.narrow != "" }

// SessionName reports whether a session can have this name.
func SessionName(name string) bool { return sessionPattern.MatchString(name) }

// Judge is Decide for one who knows another policy that may allow, a bucket's: what
// the caller's own policies say and what the session's, which narrows both, are told
// apart. A session without one allows. The facts are of the request; none of them
// can stand for one that follows from the caller.
func (e *Engine) Judge(who *Principal, action, resource string, facts map[string][]string) (own, session Decision) {
	q := question{action: action, resource: resource, facts: e.facts(who)}
	for k, v := range facts {
		if !ofCaller(k) {
			q.facts[k] = v
		}
	}
	own, session = Allowed, Allowed
	if !who.root {
		own = evaluate(e.documents(who), q)
	}
	if who.narrow != "" {
		session = evaluate([]string{who.narrow}, q)
	}
	return own, session
}

// ofCaller reports whether a condition key says who calls.
func ofCaller(key string) bool {
	key = strings.ToLower(key)
	return strings.HasPrefix(key, "aws:principal") || key == "aws:userid" || key == "aws:username" || key == strings.ToLower(issueTime)
}
