package ssm

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/document"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// preferences is the document of a session that names none: an account may have its own of this name.
const preferences = "SSM-SessionManagerRunShell"

// sessionDocuments are the documents that every account has, by name.
var sessionDocuments = map[string]string{
	preferences: `{"schemaVersion":"1.0","description":"A shell, and the preferences of all sessions","sessionType":"Standard_Stream",
"inputs":{"idleSessionTimeout":"20","maxSessionDuration":"","runAsEnabled":false,"runAsDefaultUser":"","shellProfile":{"linux":""}}}`,
	"AWS-StartInteractiveCommand": `{"schemaVersion":"1.0","description":"A command on a terminal","sessionType":"InteractiveCommands",
"parameters":{"command":{"type":"String"}},
"properties":{"linux":{"commands":"{{command}}","runAsElevated":false}}}`,
	"AWS-StartNonInteractiveCommand": `{"schemaVersion":"1.0","description":"A command without a terminal","sessionType":"NonInteractiveCommands",
"parameters":{"command":{"type":"String"}},
"properties":{"linux":{"commands":"{{command}}","runAsElevated":false}}}`,
	"AWS-StartPortForwardingSession": `{"schemaVersion":"1.0","description":"A port of the instance","sessionType":"Port",
"parameters":{"portNumber":{"type":"String","default":"80","allowedPattern":"^[0-9]{1,5}$"},
"localPortNumber":{"type":"String","default":"0","allowedPattern":"^[0-9]{1,5}$"}},
"properties":{"portNumber":"{{portNumber}}","localPortNumber":"{{localPortNumber}}","type":"LocalPortForwarding"}}`,
	"AWS-StartPortForwardingSessionToRemoteHost": `{"schemaVersion":"1.0","description":"A port of a host that the instance reaches","sessionType":"Port",
"parameters":{"host":{"type":"String","allowedPattern":"^[0-9A-Za-z._:-]{1,253}$"},
"portNumber":{"type":"String","default":"80","allowedPattern":"^[0-9]{1,5}$"},
"localPortNumber":{"type":"String","default":"0","allowedPattern":"^[0-9]{1,5}$"}},
"properties":{"host":"{{host}}","portNumber":"{{portNumber}}","localPortNumber":"{{localPortNumber}}","type":"LocalPortForwarding"}}`,
}

// sessionDocument is a document of type Session, schema 1.0. Fields that we have no use for are not read.
type sessionDocument struct {
	SchemaVersion string `json:"schemaVersion"`
	SessionType   string `json:"sessionType"`
	Inputs        struct {
		Idle     word `json:"idleSessionTimeout"` // minutes, 1 to 60
		Longest  word `json:"maxSessionDuration"` // minutes, 1 to 1440
		RunAs    bool `json:"runAsEnabled"`
		RunUser  word `json:"runAsDefaultUser"`
		Profiles struct {
			Linux string `json:"linux"`
		} `json:"shellProfile"`
	} `json:"inputs"`
	Parameters map[string]struct {
		Type           string   `json:"type"`
		Default        *string  `json:"default"`
		AllowedPattern string   `json:"allowedPattern"`
		AllowedValues  []string `json:"allowedValues"`
	} `json:"parameters"`
	Properties struct {
		Port      word `json:"portNumber"`
		LocalPort word `json:"localPortNumber"`
		Host      word `json:"host"`
		Type      word `json:"type"`
		Linux     struct {
			Commands word `json:"commands"`
		} `json:"linux"`
	} `json:"properties"`
}

// word is a string that documents also write as a number.
type word string

func (t *word) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		var n json.Number
		if json.Unmarshal(b, &n) != nil {
			return fmt.Errorf("%.40s is neither a string nor a number", b)
		}
		s = n.String()
	}
	*t = word(s)
	return nil
}

// plan returns what a document and its parameters come to.
func plan(content string, given map[string][]string) (p cloud.SessionPlan, localPort string, err error) {
	var d sessionDocument
	raw, err := document.ToJSON([]byte(content))
	if err != nil {
		return p, "", err
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		return p, "", cloud.Errorf("InvalidDocument", "The document is not a Session document: %.200v", err)
	}
	p.Kind = cloud.SessionKind(d.SessionType)
	values, err := d.values(given)
	if err != nil {
		return p, "", err
	}
	if p, err = d.limits(p); err != nil {
		return p, "", err
	}
	if d.Inputs.RunAs {
		p.User = string(d.Inputs.RunUser)
	}
	fill := func(t word) string {
		// In one pass: a value that looks like a parameter stays as it is.
		return reference.ReplaceAllStringFunc(string(t), func(m string) string { return values[reference.FindStringSubmatch(m)[1]] })
	}
	switch p.Kind {
	case cloud.SessionShell:
		p.Command = d.Inputs.Profiles.Linux
		if p.Command != "" {
			p.Command += cloud.ThenShell
		}
	case cloud.SessionCommand, cloud.SessionBatch:
		if p.Command = fill(d.Properties.Linux.Commands); strings.TrimSpace(p.Command) == "" {
			return p, "", cloud.Errorf("InvalidParameters", "The session's command is empty")
		}
	case cloud.SessionPort:
		if p.Host = fill(d.Properties.Host); p.Host != "" && cloud.ForwardHostDenied(p.Host) {
			return p, "", cloud.Errorf("InvalidParameters", "host: %.60s is link-local or the instance itself, where its credentials are: no session forwards there", p.Host)
		}
		if p.Port, err = strconv.Atoi(fill(d.Properties.Port)); err != nil || p.Port < 1 || p.Port > 65535 {
			return p, "", cloud.Errorf("InvalidParameters", "portNumber: want 1 to 65535")
		}
		localPort = fill(d.Properties.LocalPort)
		if n, err := strconv.Atoi(localPort); localPort != "" && (err != nil || n < 0 || n > 65535) {
			return p, "", cloud.Errorf("InvalidParameters", "localPortNumber: want 0 to 65535")
		}
		if fill(d.Properties.Type) != "LocalPortForwarding" {
			return p, "", cloud.Errorf("InvalidDocument", "A port session of type %.40q is not there yet: LocalPortForwarding is", d.Properties.Type)
		}
	default:
		return p, "", cloud.Errorf("InvalidDocument", "A session of type %.40q is not there", d.SessionType)
	}
	return p, localPort, nil
}

var reference = regexp.MustCompile(`{{\s*(\w+)\s*}}`)

// values checks what is given against what the document declares.
func (d *sessionDocument) values(given map[string][]string) (map[string]string, error) {
	out := map[string]string{}
	for name, v := range given {
		decl, ok := d.Parameters[name]
		switch {
		case !ok:
			return nil, cloud.Errorf("InvalidParameters", "The document has no parameter %.60q", name)
		case len(v) != 1 && decl.Type != "StringList":
			return nil, cloud.Errorf("InvalidParameters", "%s takes one value, got %d", name, len(v))
		}
		out[name] = strings.Join(v, "\n")
	}
	for name, decl := range d.Parameters {
		v, ok := out[name]
		switch {
		case !ok && decl.Default == nil:
			return nil, cloud.Errorf("InvalidParameters", "The parameter %s is missing", name)
		case !ok:
			out[name] = *decl.Default
			continue
		}
		if decl.AllowedPattern != "" {
			re, err := regexp.Compile(decl.AllowedPattern)
			if err != nil {
				return nil, cloud.Errorf("InvalidDocument", "The allowedPattern of %s is not a regular expression", name)
			}
			if !re.MatchString(v) {
				return nil, cloud.Errorf("InvalidParameters", "%s does not match %s", name, decl.AllowedPattern)
			}
		}
		if len(decl.AllowedValues) > 0 && !contains(decl.AllowedValues, v) {
			return nil, cloud.Errorf("InvalidParameters", "%s is none of the values that the document allows", name)
		}
	}
	return out, nil
}

func contains(all []string, one string) bool {
	for _, s := range all {
		if s == one {
			return true
		}
	}
	return false
}

// limits reads the bounds of time.
func (d *sessionDocument) limits(p cloud.SessionPlan) (cloud.SessionPlan, error) {
	minutes := func(name string, t word, most int) (time.Duration, error) {
		if t == "" {
			return 0, nil
		}
		n, err := strconv.Atoi(string(t))
		if err != nil || n < 1 || n > most {
			return 0, cloud.Errorf("InvalidDocument", "%s: want 1 to %d minutes, got %.20q", name, most, t)
		}
		return time.Duration(n) * time.Minute, nil
	}
	var err error
	if p.Idle, err = minutes("idleSessionTimeout", d.Inputs.Idle, 60); err != nil {
		return p, err
	}
	p.Longest, err = minutes("maxSessionDuration", d.Inputs.Longest, 1440)
	return p, err
}

// sessionPlan returns what a session of a document comes to, under the preferences of the account.
func (s *Service) sessionPlan(ctx context.Context, snap *store.Snapshot, name string, given map[string][]string) (cloud.SessionPlan, string, error) {
	content, err := s.sessionDocument(ctx, snap, name)
	if err != nil {
		return cloud.SessionPlan{}, "", err
	}
	p, local, err := plan(content, given)
	if err != nil || ownName(name) == preferences {
		return p, local, err
	}
	common, err := s.sessionDocument(ctx, snap, preferences)
	if err != nil {
		return p, local, err
	}
	prefs, _, err := plan(common, nil)
	if err != nil {
		return p, local, err
	}
	if p.Idle == 0 {
		p.Idle = prefs.Idle
	}
	if p.Longest == 0 {
		p.Longest = prefs.Longest
	}
	if p.User == "" {
		p.User = prefs.User
	}
	return p, local, nil
}

// sessionDocument finds a document's text: the default version of the account's own, or one that every account has.
func (s *Service) sessionDocument(ctx context.Context, snap *store.Snapshot, name string) (string, error) {
	name = ownName(name)
	t, err := s.text(ctx, snap, name, "", "")
	switch {
	case cloud.Code(err) == "InvalidDocument":
		content, ok := sessionDocuments[name]
		if !ok {
			return "", cloud.Errorf("InvalidDocument", "Document with name %.128s does not exist, or is not of type Session", name)
		}
		return content, nil
	case err != nil:
		return "", err
	case t.doc.Type != typeSession:
		return "", cloud.Errorf("InvalidDocument", "Document %s is of type %s, and StartSession needs one of type Session", t.doc.Name, t.doc.Type)
	}
	return t.content, nil
}
