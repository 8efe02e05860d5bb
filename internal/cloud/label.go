package cloud

import (
	"regexp"
	"slices"
	"strings"
	"sync"
)

// maxLabels is how many labels a version of a parameter may have: Systems Manager's number.
const maxLabels = 10

var labelForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z_.-][a-zA-Z0-9_.-]{0,99}$`) })

// validLabel reports whether a label may be given. One that begins with a digit would be taken for a version.
func validLabel(l string) bool {
	lower := strings.ToLower(l)
	return labelForm().MatchString(l) && !strings.HasPrefix(lower, "aws") && !strings.HasPrefix(lower, "ssm")
}

// Label returns the parameter with labels at a version, taken from the versions that had them. Those that no label may be are left
// out, and told.
func (p Parameter) Label(number int, labels []string) (next Parameter, invalid []string, err error) {
	at := slices.IndexFunc(p.Versions, func(v ParameterVersion) bool { return v.Number == number })
	if at < 0 {
		return p, nil, Errorf("ParameterVersionNotFound", "Parameter %s has no version %d: see get-parameter-history", p.Name, number)
	}
	var valid []string
	for _, l := range labels {
		switch {
		case !validLabel(l):
			invalid = append(invalid, l)
		case !slices.Contains(valid, l):
			valid = append(valid, l)
		}
	}
	p = p.without(valid)
	v := &p.Versions[at]
	v.Labels = append(slices.Clone(v.Labels), valid...)
	if len(v.Labels) > maxLabels {
		return p, nil, Errorf("ParameterVersionLabelLimitExceeded", "Version %d of parameter %s would have %d labels, at most %d are allowed: take some away", number, p.Name, len(v.Labels), maxLabels)
	}
	return p, invalid, nil
}

// Unlabel returns the parameter without labels of a version, and which of them it had.
func (p Parameter) Unlabel(number int, labels []string) (next Parameter, removed []string, err error) {
	at := slices.IndexFunc(p.Versions, func(v ParameterVersion) bool { return v.Number == number })
	if at < 0 {
		return p, nil, Errorf("ParameterVersionNotFound", "Parameter %s has no version %d: see get-parameter-history", p.Name, number)
	}
	for _, l := range labels {
		if slices.Contains(p.Versions[at].Labels, l) {
			removed = append(removed, l)
		}
	}
	return p.without(removed), removed, nil
}

// without returns a copy in which no version has any of the labels.
func (p Parameter) without(labels []string) Parameter {
	p.Versions = slices.Clone(p.Versions)
	for k := range p.Versions {
		v := &p.Versions[k]
		v.Labels = slices.DeleteFunc(slices.Clone(v.Labels), func(l string) bool { return slices.Contains(labels, l) })
	}
	return p
}
