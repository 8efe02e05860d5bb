package iam

import (
	"crypto/sha256"
	"encoding/base32"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

var (
	namePattern    = regexp.MustCompile(`^[\w+=,.@-]+$`)
	pathPattern    = regexp.MustCompile(`^/([\x21-\x7e]+/)?$`)
	sessionPattern = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
)

const (
	maxName = 64  // users and roles
	maxLong = 128 // policies and instance profiles
	maxPath = 512
	maxTags = 50
)

// builtinDate stands for the day on which a built-in policy was made.
var builtinDate = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// builtinID gives a built-in policy an id which is the same in every account.
func builtinID(name string) string {
	sum := sha256.Sum256([]byte(name))
	return "ANPA" + base32.StdEncoding.EncodeToString(sum[:])[:17]
}

func invalid(field, value, constraint string) error {
	return cloud.Errorf("ValidationError", "1 validation error detected: Value '%.200s' at '%s' failed to satisfy constraint: %s", value, field, constraint)
}

func checkName(field, name string, limit int) error {
	switch {
	case name == "":
		return cloud.Errorf("ValidationError", "1 validation error detected: Value at '%s' failed to satisfy constraint: Member must not be null", field)
	case len(name) > limit && limit == maxLong:
		return invalid(field, name, "Member must have length less than or equal to 128")
	case len(name) > limit:
		return invalid(field, name, "Member must have length less than or equal to 64")
	case !namePattern.MatchString(name):
		return invalid(field, name, `Member must satisfy regular expression pattern: [\w+=,.@-]+`)
	}
	return nil
}

// checkPath returns the path, or "/" for none.
func checkPath(path string) (string, error) {
	if path == "" {
		return "/", nil
	}
	if len(path) > maxPath || !pathPattern.MatchString(path) {
		return "", invalid("path", path, "Member must begin and end with / and contain only printable characters")
	}
	return path, nil
}

// mergeTags returns have with add laid over it. Keys are equal whatever their case.
func mergeTags(have, add []Tag) ([]Tag, error) {
	merged := slices.Clone(have)
	for _, t := range add {
		if t.Key == "" || len([]rune(t.Key)) > 128 || len([]rune(t.Value)) > 256 {
			return nil, cloud.Errorf("ValidationError", "tag key %.40q must have 1 to 128 characters and its value at most 256", t.Key)
		}
		i := slices.IndexFunc(merged, func(m Tag) bool { return strings.EqualFold(m.Key, t.Key) })
		if i < 0 {
			merged = append(merged, t)
		} else {
			merged[i] = t
		}
	}
	if len(merged) > maxTags {
		return nil, cloud.Errorf("LimitExceeded", "Cannot exceed quota for TagsPerResource: %d", maxTags)
	}
	return merged, nil
}

func dropTags(have []Tag, keys []string) []Tag {
	return slices.DeleteFunc(slices.Clone(have), func(t Tag) bool {
		return slices.ContainsFunc(keys, func(k string) bool { return strings.EqualFold(k, t.Key) })
	})
}

// putInline returns list with the policy in it, replaced or added, when all
// together stay within limit characters; white space does not count.
func putInline(list []Inline, p Inline, limit int) ([]Inline, error) {
	list = slices.Clone(list)
	if i := slices.IndexFunc(list, func(have Inline) bool { return have.Name == p.Name }); i >= 0 {
		list[i] = p
	} else {
		list = append(list, p)
	}
	size := 0
	for _, have := range list {
		size += len(have.Document) - strings.Count(have.Document, " ") - strings.Count(have.Document, "\n") - strings.Count(have.Document, "\t")
	}
	if size > limit {
		return nil, cloud.Errorf("LimitExceeded", "Maximum policy size of %d bytes exceeded", limit)
	}
	slices.SortFunc(list, func(a, b Inline) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// remove returns list without item, and whether it was there.
func remove(list []string, item string) ([]string, bool) {
	i := slices.Index(list, item)
	if i < 0 {
		return list, false
	}
	return slices.Delete(slices.Clone(list), i, i+1), true
}

func noSuch(format string, args ...any) error {
	return cloud.Errorf("NoSuchEntity", format, args...)
}

func exists(noun, name string) error {
	return cloud.Errorf("EntityAlreadyExists", "%s with name %s already exists.", noun, name)
}

func conflict(first string) error {
	return cloud.Errorf("DeleteConflict", "Cannot delete entity, must %s first.", first)
}
