package door

import (
	"context"
	"strings"

	"github.com/ichiro-metal/ichiro/control/iam"
	"github.com/ichiro-metal/ichiro/control/sigv4"
)

type about struct {
	Protocol      int    `json:"protocol"`
	MinClient     int    `json:"minClient"`
	ServerVersion string `json:"serverVersion"`
	AccountID     string `json:"accountId"`
}

type deriving struct {
	AccessKeyID  string `json:"accessKeyId"`
	SessionToken string `json:"sessionToken"`
	Date         string `json:"date"`
	Region       string `json:"region"`
	Service      string `json:"service"`
}

type derived struct {
	DerivedKey   []byte `json:"derivedKey"`
	PrincipalArn string `json:"principalArn"`
	RoleArn      string `json:"roleArn,omitempty"`
}

func (d *Door) derive(_ context.Context, q deriving) (derived, error) {
	who, secret, err := d.engine.Lookup(q.AccessKeyID, q.SessionToken)
	if err != nil {
		return derived{}, err
	}
	return derived{DerivedKey: sigv4.Key(secret, q.Date, q.Region, q.Service), PrincipalArn: who.ARN, RoleArn: who.RoleARN()}, nil
}

type evaluation struct {
	AccessKeyID  string              `json:"accessKeyId"`
	SessionToken string              `json:"sessionToken"`
	Actions      []string            `json:"actions"`
	Resources    []string            `json:"resources"`
	Condition    map[string][]string `json:"condition"`
}

type verdicts struct {
	Decisions        [][]string `json:"decisions"`
	SessionDecisions [][]string `json:"sessionDecisions,omitempty"`
	HasSessionPolicy bool       `json:"hasSessionPolicy,omitempty"`
	PrincipalArn     string     `json:"principalArn"`
}

var words = map[iam.Decision]string{iam.Allowed: "allow", iam.Denied: "deny", iam.Silent: "no_match"}

// evaluate keeps what the session's own policy says apart: it narrows what a bucket's policy gives, too, which
// only the object store knows.
func (d *Door) evaluate(_ context.Context, q evaluation) (verdicts, error) {
	who, _, err := d.engine.Lookup(q.AccessKeyID, q.SessionToken)
	if err != nil {
		return verdicts{}, err
	}
	v := verdicts{PrincipalArn: who.ARN, HasSessionPolicy: who.Narrowed()}
	for _, resource := range q.Resources {
		own, session := make([]string, len(q.Actions)), make([]string, len(q.Actions))
		for i, action := range q.Actions {
			a, b := d.engine.Judge(who, action, resource, q.Condition)
			own[i], session[i] = words[a], words[b]
		}
		v.Decisions = append(v.Decisions, own)
		if v.HasSessionPolicy {
			v.SessionDecisions = append(v.SessionDecisions, session)
		}
	}
	return v, nil
}

type keys struct {
	AccessKeyIDs []string `json:"accessKeyIds"`
}

type identity struct {
	Found        bool   `json:"found"`
	Kind         string `json:"kind,omitempty"`
	PrincipalArn string `json:"principalArn,omitempty"`
}

type identities struct {
	Identities []identity `json:"identities"`
}

// identities says whose long-term keys these are. A temporary one is nobody's to whom something could be
// granted, so it is not found.
func (d *Door) identities(_ context.Context, q keys) (identities, error) {
	out := identities{Identities: make([]identity, len(q.AccessKeyIDs))}
	for i, id := range q.AccessKeyIDs {
		if who, _, err := d.engine.Lookup(id, ""); err == nil {
			out.Identities[i] = identity{Found: true, Kind: "user", PrincipalArn: who.ARN}
		}
	}
	return out, nil
}

type principals struct {
	Principals []string `json:"principals"`
}

type strangers struct {
	Invalid []string `json:"invalid"`
}

// principals says which of those that a bucket's policy names do not exist.
func (d *Door) principals(_ context.Context, q principals) (strangers, error) {
	out := strangers{Invalid: []string{}}
	for _, p := range q.Principals {
		if !d.exists(p) {
			out.Invalid = append(out.Invalid, p)
		}
	}
	return out, nil
}

func (d *Door) exists(principal string) bool {
	account := d.engine.Account()
	if principal == account {
		return true
	}
	if resource, ok := strings.CutPrefix(principal, "arn:aws:iam::"+account+":"); ok {
		kind, path, _ := strings.Cut(resource, "/")
		name := path[strings.LastIndexByte(path, '/')+1:]
		switch kind {
		case "root":
			return resource == "root"
		case "user":
			u, err := d.engine.User(name)
			return err == nil && u.ARN == principal
		case "role":
			r, err := d.engine.Role(name)
			return err == nil && r.ARN == principal
		}
		return false
	}
	session, ok := strings.CutPrefix(principal, "arn:aws:sts::"+account+":assumed-role/")
	role, name, _ := strings.Cut(session, "/")
	r, err := d.engine.Role(role)
	return ok && err == nil && r.Name == role && iam.SessionName(name)
}
