package iam

import (
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Principal is who signed a request.
type Principal struct {
	Account     string
	ARN         string
	UserID      string // the account for root, AIDA... for a user, AROA...:session for a role
	AccessKeyID string

	root     bool
	session  bool      // temporary credentials
	issued   time.Time // of a session
	userName string    // of a user
	userID   string
	roleName string
	roleID   string
	roleARN  string
	narrow   string // the session's own policy
}

// Root reports whether the caller is the account's root.
func (p *Principal) Root() bool { return p.root }

// UserName is the user's name, or "" for root and for roles.
func (p *Principal) UserName() string { return p.userName }

// RoleName is the name of the role whose session this is, or "".
func (p *Principal) RoleName() string { return p.roleName }

// names are the ARNs by which a trust policy may name the caller.
func (p *Principal) names() []string {
	if p.roleARN != "" {
		return []string{p.ARN, p.roleARN}
	}
	return []string{p.ARN}
}

// Why credentials are refused. A front tells strangers less.
var (
	ErrUnknownKey = errors.New("access key is unknown or not active")
	ErrBadToken   = errors.New("session token does not belong to the access key, or its role or user is gone")
	ErrExpired    = errors.New("session has expired")
)

var errNotReady = cloud.Error{Code: "ServiceUnavailable", Message: "the control plane has not seen its store yet: try again"}

// EC2 is the service for which instances take roles.
const EC2 = "ec2.amazonaws.com"

// Lookup returns who owns an access key, and the secret that a request by them
// is signed with. It says nothing about the request: the front verifies that.
// It reads memory only.
func (e *Engine) Lookup(accessKeyID, token string) (*Principal, string, error) {
	switch {
	case !e.isReady():
		return nil, "", errNotReady
	case accessKeyID == e.root.AccessKeyId:
		if token != "" {
			return nil, "", ErrBadToken
		}
		return e.rootPrincipal(accessKeyID), e.root.SecretAccessKey, nil
	case isTemporary(accessKeyID):
		return e.lookupSession(accessKeyID, token)
	case token != "":
		return nil, "", ErrBadToken // a long-term key has no token
	default:
		return e.lookupKey(accessKeyID)
	}
}

func (e *Engine) rootPrincipal(accessKeyID string) *Principal {
	return &Principal{Account: e.account, ARN: e.arn("root"), UserID: e.account, AccessKeyID: accessKeyID, root: true}
}

func (e *Engine) lookupKey(id string) (*Principal, string, error) {
	k := keys.look(e, id)
	if k == nil || !k.Active {
		return nil, "", ErrUnknownKey
	}
	u := users.look(e, k.User)
	if u == nil || u.ID != k.UserID {
		return nil, "", ErrUnknownKey
	}
	secret, err := e.vault.open("access-key/"+id, k.Sealed)
	if err != nil {
		return nil, "", cloud.Errorf("InternalFailure", "access key %s was sealed with another key file: bring keys/seal back", id)
	}
	return &Principal{Account: e.account, ARN: u.ARN, UserID: u.ID, AccessKeyID: id, userName: u.Name, userID: u.ID}, string(secret), nil
}

func (e *Engine) lookupSession(id, token string) (*Principal, string, error) {
	c, ok := e.vault.readToken(id, token)
	if !ok {
		return nil, "", ErrBadToken
	}
	if !e.now().Before(time.Unix(c.Expires, 0)) {
		return nil, "", ErrExpired
	}
	secret := e.vault.sessionSecret(id)
	if c.RoleID == "" && c.UserName == "" {
		p := e.rootPrincipal(id)
		p.session, p.issued = true, time.Unix(c.Issued, 0).UTC()
		return p, secret, nil
	}
	if c.RoleID == "" {
		u := users.look(e, c.UserName)
		if u == nil || u.ID != c.UserID {
			return nil, "", ErrBadToken
		}
		return &Principal{Account: e.account, ARN: u.ARN, UserID: u.ID, AccessKeyID: id, userName: u.Name, userID: u.ID, session: true, issued: time.Unix(c.Issued, 0).UTC()}, secret, nil
	}
	// A role made anew under the same name has another id: the old one's sessions stay dead.
	r := roles.look(e, c.RoleName)
	if r == nil || r.ID != c.RoleID {
		return nil, "", ErrBadToken
	}
	return &Principal{
		Account: e.account, ARN: e.assumedARN(r.Name, c.Name), UserID: r.ID + ":" + c.Name, AccessKeyID: id,
		session: true, issued: time.Unix(c.Issued, 0).UTC(), roleName: r.Name, roleID: r.ID, roleARN: r.ARN, narrow: c.Policy,
	}, secret, nil
}

// issueTime is the condition key by which sessions are revoked: a role gets a policy that denies everything to those
// which are older than now. A long-term key has none.
const issueTime = "aws:TokenIssueTime"

// Revoked reports whether the role's policies deny everything to a session because of its age. Its requests are denied
// like any that a policy denies; this is for those who give sessions out.
func (e *Engine) Revoked(who *Principal) bool {
	if who.roleID == "" || !who.session {
		return false
	}
	facts := e.clockFacts()
	facts[issueTime] = []string{who.issued.Format(time.RFC3339)}
	// No service has this action, so only a Deny of all actions covers it.
	q := question{action: "ichiro:AnythingAtAll", resource: "*", facts: facts}
	for _, text := range e.documents(who) {
		if byAge := ageDenials(text); byAge != "" && evaluate([]string{byAge}, q) == Denied {
			return true
		}
	}
	return false
}

// Reissue reports whether a session is revoked and one that was made now would not be.
func (e *Engine) Reissue(who *Principal) bool {
	anew := *who
	anew.issued = e.now()
	return e.Revoked(who) && !e.Revoked(&anew)
}

// Decide says whether the caller's policies let it do action on resource. More
// facts of the request may be laid over those that follow from the caller.
func (e *Engine) Decide(who *Principal, action, resource string, more map[string][]string) Decision {
	q := question{action: action, resource: resource, facts: e.facts(who)}
	for k, v := range more {
		q.facts[k] = v
	}
	return e.decide(who, q)
}

func (e *Engine) decide(who *Principal, q question) Decision {
	if who.root {
		return Allowed
	}
	d := evaluate(e.documents(who), q)
	if d != Allowed || who.narrow == "" {
		return d
	}
	return evaluate([]string{who.narrow}, q) // a session's own policy can only narrow
}

// documents are the texts in force for a user or role: its own and the attached ones.
func (e *Engine) documents(who *Principal) []string {
	var inline []Inline
	var attached []string
	if who.roleID != "" {
		if r := roles.look(e, who.roleName); r != nil && r.ID == who.roleID {
			inline, attached = r.Inline, r.Attached
		}
	} else if u := users.look(e, who.userName); u != nil && u.ID == who.userID {
		inline, attached = u.Inline, u.Attached
	}
	texts := make([]string, 0, len(inline)+len(attached))
	for _, p := range inline {
		texts = append(texts, p.Document)
	}
	for _, arn := range attached {
		if p, ok := builtinPolicy(arn); ok {
			texts = append(texts, p.Document())
		} else if p := policies.look(e, policyName(arn)); p != nil && p.ARN == arn {
			texts = append(texts, p.Document())
		} else {
			texts = append(texts, "") // unreadable, so it denies: it may have held a Deny
		}
	}
	return texts
}

func (e *Engine) clockFacts() map[string][]string {
	now := e.now()
	return map[string][]string{
		"aws:CurrentTime": {now.Format(time.RFC3339)},
		"aws:EpochTime":   {strconv.FormatInt(now.Unix(), 10)},
	}
}

// facts are the condition keys that describe the caller and the moment.
func (e *Engine) facts(who *Principal) map[string][]string {
	f := e.clockFacts()
	f["aws:PrincipalAccount"] = []string{e.account}
	f["aws:userid"] = []string{who.UserID}
	f["aws:PrincipalArn"] = []string{who.ARN}
	if who.session {
		f[issueTime] = []string{who.issued.Format(time.RFC3339)}
	}
	var tags []Tag
	switch {
	case who.root:
		f["aws:PrincipalType"] = []string{"Account"}
	case who.roleID != "":
		f["aws:PrincipalType"] = []string{"AssumedRole"}
		f["aws:PrincipalArn"] = []string{who.roleARN}
		if r := roles.look(e, who.roleName); r != nil {
			tags = r.Tags
		}
	default:
		f["aws:PrincipalType"] = []string{"User"}
		f["aws:username"] = []string{who.userName}
		if u := users.look(e, who.userName); u != nil {
			tags = u.Tags
		}
	}
	for _, t := range tags {
		f["aws:PrincipalTag/"+t.Key] = []string{t.Value}
	}
	return f
}

// MayPassRole refuses a caller who may not hand the role to a service. A launch
// with an instance profile asks this for the profile's role.
func (e *Engine) MayPassRole(who *Principal, roleARN, service string) error {
	if e.Decide(who, "iam:PassRole", roleARN, map[string][]string{"iam:PassedToService": {service}}) == Allowed {
		return nil
	}
	return cloud.Errorf("UnauthorizedOperation", "You are not authorized to perform this operation. User: %s is not authorized to perform: iam:PassRole on resource: %s", who.ARN, roleARN)
}

// joinPolicies makes one document of several, all statements in it.
func joinPolicies(documents []string) (string, error) {
	if len(documents) <= 1 {
		return append(documents, "")[0], nil
	}
	joined := struct {
		Version   string
		Statement []json.RawMessage
	}{Version: "2012-10-17"}
	for _, d := range documents {
		var doc struct{ Statement json.RawMessage }
		if err := json.Unmarshal([]byte(d), &doc); err != nil {
			return "", cloud.Errorf("MalformedPolicyDocument", "This policy contains invalid Json: %v", err)
		}
		var several []json.RawMessage
		if json.Unmarshal(doc.Statement, &several) != nil {
			several = []json.RawMessage{doc.Statement}
		}
		joined.Statement = append(joined.Statement, several...)
	}
	text, err := json.Marshal(joined)
	return string(text), err
}

// under reports whether an IAM path lies below prefix.
func under(path, prefix string) bool {
	return prefix == "" || prefix == "/" || len(path) >= len(prefix) && path[:len(prefix)] == prefix
}
