package iam

import "time"

// Tag is a label on a user, role, policy or instance profile.
type Tag struct {
	Key   string
	Value string
}

// Inline is a policy that lives in the user or role which it speaks for.
type Inline struct {
	Name     string
	Document string
}

// User is a person or program with long-term access keys.
type User struct {
	Name     string
	Path     string
	ID       string
	ARN      string
	Created  time.Time
	Inline   []Inline `json:",omitempty"`
	Attached []string `json:",omitempty"` // ARNs of managed policies
	Keys     []string `json:",omitempty"` // ids of access keys
	Tags     []Tag    `json:",omitempty"`
}

// AccessKey is a user's long-term key. The secret is sealed.
type AccessKey struct {
	ID      string
	User    string
	UserID  string
	Active  bool
	Created time.Time
	Sealed  []byte
}

// Role is what services, users and instances may become for a while.
type Role struct {
	Name        string
	Path        string
	ID          string
	ARN         string
	Created     time.Time
	Trust       string // the assume role policy document
	Description string
	MaxSession  int      // seconds
	Inline      []Inline `json:",omitempty"`
	Attached    []string `json:",omitempty"`
	Profiles    []string `json:",omitempty"` // names of the instance profiles that hold it
	Tags        []Tag    `json:",omitempty"`
}

// PolicyVersion is one text of a managed policy.
type PolicyVersion struct {
	ID       string // v1, v2 ...
	Document string
	Created  time.Time
}

// Policy is a managed policy. Attachments counts the users and roles that have
// it, and is kept in the same transaction as the attachment.
type Policy struct {
	Name        string
	Path        string
	ID          string
	ARN         string
	Created     time.Time
	Updated     time.Time
	Description string
	Default     string // id of the version in force
	Last        int    // number of the newest version ever made
	Versions    []PolicyVersion
	Attachments int
	Tags        []Tag `json:",omitempty"`
}

// Document returns the text of the version in force.
func (p *Policy) Document() string {
	for _, v := range p.Versions {
		if v.ID == p.Default {
			return v.Document
		}
	}
	return ""
}

// Profile is an instance profile: the envelope in which an instance gets a role.
type Profile struct {
	Name    string
	Path    string
	ID      string
	ARN     string
	Created time.Time
	Role    string `json:",omitempty"` // name; at most one
	Tags    []Tag  `json:",omitempty"`
}

// Session is a temporary credential. There is no secret in it: that follows
// from the id and the seal key, and Token is sealed.
type Session struct {
	ID       string // ASIA...
	RoleName string `json:",omitempty"`
	RoleID   string `json:",omitempty"`
	RoleARN  string `json:",omitempty"`
	UserName string `json:",omitempty"`
	UserID   string `json:",omitempty"`
	Name     string // of the session
	Token    string
	Policy   string `json:",omitempty"`
	Created  time.Time
	Expires  time.Time
}
