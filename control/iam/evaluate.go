package iam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/versity/versitygw/iamapi/iamerr"
	"github.com/versity/versitygw/iamapi/policy"
	"github.com/versity/versitygw/iamapi/types"
)

// Decision is what policies say about one action on one resource.
type Decision int

// Silent (nothing matched) refuses too, but another policy may still allow.
const (
	Silent Decision = iota
	Allowed
	Denied
)

// question is one action on one resource, with the facts that conditions read.
type question struct {
	action   string
	resource string
	facts    map[string][]string
}

// evaluate asks the engine what documents together say: a matching Deny wins
// over every Allow, and a document that cannot be read denies.
func evaluate(documents []string, q question) Decision {
	entries := make([]types.PolicyEntry, len(documents))
	for i, d := range documents {
		entries[i].PolicyDocument = d
	}
	ctx := policy.RequestContext{Action: q.action, Resource: q.resource, Condition: q.facts}
	switch policy.EvaluateIdentityPolicies(entries, ctx) {
	case policy.DecisionAllow:
		return Allowed
	case policy.DecisionDeny:
		return Denied
	default:
		return Silent
	}
}

// ageDenials returns a document of those Deny statements that ask for nothing but the time and a session's age, "" when
// there are none. What asks for more, such as the sender's address, is not known here.
func ageDenials(document string) string {
	var doc policy.Document
	if err := json.Unmarshal([]byte(document), &doc); err != nil {
		return ""
	}
	var kept []any
	for _, s := range doc.Statement {
		var condition map[string]map[string]json.RawMessage
		if s.Effect != "Deny" || json.Unmarshal(s.Condition, &condition) != nil {
			continue
		}
		aged, more := false, false
		for _, operands := range condition {
			for key := range operands {
				switch strings.ToLower(key) {
				case "aws:tokenissuetime":
					aged = true
				case "aws:currenttime", "aws:epochtime":
				default:
					more = true
				}
			}
		}
		if aged && !more {
			m := asIdentity(s)
			m["Resource"] = s.Resource
			if len(s.Resource) == 0 {
				m["NotResource"] = s.NotResource
				delete(m, "Resource")
			}
			kept = append(kept, m)
		}
	}
	if kept == nil {
		return ""
	}
	text, err := json.Marshal(map[string]any{"Version": doc.Version, "Statement": kept})
	if err != nil {
		return ""
	}
	return string(text)
}

// caller is whom a trust policy may name: a service, a provider of web identities, or a principal's ARNs.
type caller struct {
	service  string
	provider string // its ARN
	account  string
	arns     []string // of a session: the session's own and its role's
}

// standing says how a trust statement came to speak of the caller.
type standing int

const (
	stranger standing = iota
	member            // through the account; the caller's own policies must allow as well
	named             // by name; that is enough
)

// trusts evaluates a role's trust policy for the caller. Each statement that
// names the caller is handed to the engine as an identity policy over all
// resources, so conditions (sts:ExternalId among them) mean the same as everywhere.
// The second result says whether an allowing statement named the caller itself.
func trusts(document string, c caller, q question) (Decision, bool) {
	var doc policy.Document
	if err := json.Unmarshal([]byte(document), &doc); err != nil {
		return Denied, false
	}
	var byName, all []string
	for _, s := range doc.Statement {
		who := principals(s.Principal)
		how := c.standing(who)
		if how == stranger && s.Effect == "Deny" && slices.Contains(who["AWS"], "*") {
			how = member // everybody: services and web identities too, who for an Allow must be named
		}
		if how == stranger {
			continue
		}
		as, err := json.Marshal(map[string]any{"Version": doc.Version, "Statement": []any{asIdentity(s)}})
		if err != nil {
			return Denied, false
		}
		all = append(all, string(as))
		if how == named {
			byName = append(byName, string(as))
		}
	}
	q.resource = "*"
	return evaluate(all, q), evaluate(byName, q) == Allowed
}

func asIdentity(s policy.Statement) map[string]any {
	m := map[string]any{"Effect": s.Effect, "Resource": "*"}
	if len(s.Action) > 0 {
		m["Action"] = s.Action
	}
	if len(s.NotAction) > 0 {
		m["NotAction"] = s.NotAction
	}
	if len(s.Condition) > 0 {
		m["Condition"] = s.Condition
	}
	return m
}

// principals reads whom a statement speaks of, by kind: nobody when it cannot be read.
func principals(text json.RawMessage) map[string]policy.StringOrSlice {
	if bytes.Equal(bytes.TrimSpace(text), []byte(`"*"`)) {
		return map[string]policy.StringOrSlice{"AWS": {"*"}}
	}
	var p map[string]policy.StringOrSlice
	if err := json.Unmarshal(text, &p); err != nil {
		return nil
	}
	return p
}

func (c caller) standing(p map[string]policy.StringOrSlice) standing {
	if c.service != "" || c.provider != "" {
		if c.service != "" && slices.Contains(p["Service"], c.service) || c.provider != "" && slices.Contains(p["Federated"], c.provider) {
			return named
		}
		return stranger
	}
	how := stranger
	for _, who := range p["AWS"] {
		switch {
		case slices.Contains(c.arns, who):
			return named
		case who == "*", who == c.account, who == "arn:aws:iam::"+c.account+":root":
			how = member
		}
	}
	return how
}

// Sizes are IAM's quotas, in characters.
const (
	maxTrust       = 2048
	maxManaged     = 6144
	maxUserInline  = 2048
	maxRoleInline  = 10240
	maxSessionText = 2048
)

var servicePrincipal = regexp.MustCompile(`^[a-z0-9-]+(\.[a-z0-9-]+)*\.amazonaws\.com$`)

// checkPolicy refuses a document that is not an identity policy of at most limit characters.
func checkPolicy(document string, limit int) error {
	if len(document) > limit {
		return cloud.Errorf("LimitExceeded", "the policy document has %d characters: at most %d are allowed", len(document), limit)
	}
	if err := policy.Validate("policyDocument", document); err != nil {
		return translate(err)
	}
	return translate(policy.Parse(document))
}

// checkTrust refuses a document that is no trust policy. The engine knows no
// services but its own, so Service principals are checked here and hidden from it.
func checkTrust(document string) error {
	if len(document) > maxTrust {
		return cloud.Errorf("LimitExceeded", "Cannot exceed quota for ACLSizePerRole: %d", maxTrust)
	}
	var doc policy.Document
	if err := json.Unmarshal([]byte(document), &doc); err != nil {
		return cloud.Errorf("MalformedPolicyDocument", "This policy contains invalid Json: %v", err)
	}
	for i := range doc.Statement {
		hidden, err := hideServices(doc.Statement[i].Principal)
		if err != nil {
			return err
		}
		doc.Statement[i].Principal = hidden
	}
	return translate(doc.ValidateTrust())
}

func hideServices(principal json.RawMessage) (json.RawMessage, error) {
	if bytes.Equal(bytes.TrimSpace(principal), []byte(`"*"`)) {
		return json.RawMessage(`{"AWS":"*"}`), nil
	}
	var p map[string]json.RawMessage
	if err := json.Unmarshal(principal, &p); err != nil || p["Service"] == nil {
		return principal, nil // the engine says what is wrong with it
	}
	var services policy.StringOrSlice
	if err := json.Unmarshal(p["Service"], &services); err != nil || len(services) == 0 {
		return nil, cloud.Errorf("MalformedPolicyDocument", "Principal Service must be the name of a service, such as ec2.amazonaws.com")
	}
	for _, s := range services {
		if !servicePrincipal.MatchString(s) {
			return nil, cloud.Errorf("MalformedPolicyDocument", `Invalid principal in policy: "SERVICE":"%s"`, s)
		}
	}
	delete(p, "Service")
	if len(p) == 0 {
		p["AWS"] = json.RawMessage(`"*"`)
	}
	return json.Marshal(p)
}

// translate turns the engine's errors into ours.
func translate(err error) error {
	var e iamerr.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return cloud.Error{Code: e.Code, Message: e.Message}
	default:
		return fmt.Errorf("check policy: %v", err)
	}
}
