package cloud

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// Parameter is a named value of an account, with its versions from old to new.
type Parameter struct {
	Account  AccountID
	Name     string
	Tags     Tags `json:",omitempty"`
	Versions []ParameterVersion
}

// ParameterVersion is one value that a parameter has had. That of a SecureString is sealed.
type ParameterVersion struct {
	Number      int
	Type        string // String, StringList or SecureString
	Value       string `json:",omitempty"`
	Box         []byte `json:",omitempty"` // the sealed value, of a SecureString
	Description string `json:",omitempty"`
	Pattern     string `json:",omitempty"` // AllowedPattern
	Modified    time.Time
	By          string   `json:",omitempty"`
	Labels      []string `json:",omitempty"` // each is one version's at a time
}

// maxParameterVersions is how many versions of a parameter are kept: Systems Manager's number.
const maxParameterVersions = 100

// Latest returns the newest version.
func (p Parameter) Latest() ParameterVersion { return p.Versions[len(p.Versions)-1] }

// Version returns the version that a selector means: a number or a label, or "" for the latest.
func (p Parameter) Version(selector string) (ParameterVersion, error) {
	if selector == "" {
		return p.Latest(), nil
	}
	n, _ := strconv.Atoi(selector) // what is no number is no version's
	for _, v := range p.Versions {
		if v.Number == n || slices.Contains(v.Labels, selector) {
			return v, nil
		}
	}
	return ParameterVersion{}, Errorf("ParameterVersionNotFound", "Parameter %s has no version %.40s: see get-parameter-history", p.Name, selector)
}

// With returns the parameter with one more version; the oldest goes when there are too many, unless it has a label.
func (p Parameter) With(v ParameterVersion) (Parameter, error) {
	if len(p.Versions) >= maxParameterVersions {
		if oldest := p.Versions[0]; len(oldest.Labels) > 0 {
			return p, Errorf("ParameterMaxVersionLimitExceeded", "Parameter %s has %d versions, and the oldest, %d, has the label %s: move the label to a newer one first",
				p.Name, len(p.Versions), oldest.Number, oldest.Labels[0])
		}
		p.Versions = p.Versions[len(p.Versions)-maxParameterVersions+1:]
	}
	p.Versions = append(slices.Clone(p.Versions), v)
	return p, nil
}

// Below reports whether the parameter is in the hierarchy of a path such as /a/b: next below it, or anywhere below. A name
// without levels is below the root.
func (p Parameter) Below(path string, recursive bool) bool {
	rest, ok := strings.CutPrefix("/"+strings.TrimPrefix(p.Name, "/"), strings.TrimSuffix(path, "/")+"/")
	return ok && rest != "" && (recursive || !strings.Contains(rest, "/"))
}
