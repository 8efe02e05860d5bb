package api

import (
	"strings"

	"github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// maxFilterValues is EC2's documented limit for one request.
const maxFilterValues = 200

// Fields maps a filter's name to the values that an item has for it: "instance-id" to one, "group-id" to
// as many as the item has groups. An item without a value matches no filter of that name.
type Fields[T any] map[string]func(T) []string

// Match compiles EC2 filters to a predicate: all filters must match, each by any of its values, in which
// * stands for any text, ? for any one character, and \ takes the meaning away. tags may be nil for items
// without tags; otherwise tag:Key and tag-key work too. An unknown name is an error, as at EC2.
func Match[T any](filters []ec2.Filter, fields Fields[T], tags func(T) map[string]string) (func(T) bool, error) {
	total := 0
	var tests []func(T) bool
	for _, f := range filters {
		if total += len(f.Values); total > maxFilterValues {
			return nil, cloud.Errorf("FilterLimitExceeded", "The request has more than %d filter values", maxFilterValues)
		}
		if len(f.Values) == 0 {
			return nil, cloud.Errorf("InvalidParameterValue", "The filter '%.80s' has no values", f.Name)
		}
		values, err := lookup(f.Name, fields, tags)
		if err != nil {
			return nil, err
		}
		wanted := compile(f.Values)
		tests = append(tests, func(item T) bool {
			for _, v := range values(item) {
				if wanted.match(v) {
					return true
				}
			}
			return false
		})
	}
	return func(item T) bool {
		for _, t := range tests {
			if !t(item) {
				return false
			}
		}
		return true
	}, nil
}

func lookup[T any](name string, fields Fields[T], tags func(T) map[string]string) (func(T) []string, error) {
	if get := fields[name]; get != nil {
		return get, nil
	}
	if tags != nil && name == "tag-key" {
		return func(item T) []string {
			var keys []string
			for k := range tags(item) {
				keys = append(keys, k)
			}
			return keys
		}, nil
	}
	if key, ok := strings.CutPrefix(name, "tag:"); ok && tags != nil {
		return func(item T) []string {
			if v, ok := tags(item)[key]; ok {
				return []string{v}
			}
			return nil
		}, nil
	}
	return nil, cloud.Errorf("InvalidParameterValue", "The filter '%.80s' is invalid", name)
}

// patterns are a filter's values: plain ones by lookup, the others one after the other.
type patterns struct {
	plain map[string]bool
	wild  []string
}

func compile(values []string) patterns {
	p := patterns{plain: map[string]bool{}}
	for _, v := range values {
		if strings.ContainsAny(v, `*?\`) {
			p.wild = append(p.wild, v)
		} else {
			p.plain[v] = true
		}
	}
	return p
}

func (p patterns) match(s string) bool {
	if p.plain[s] {
		return true
	}
	for _, w := range p.wild {
		if wildcard([]rune(w), []rune(s)) {
			return true
		}
	}
	return false
}

// wildcard matches in time len(pattern) x len(s) at most: after a mismatch only the last star moves on.
func wildcard(pattern, s []rune) bool {
	p, i := 0, 0
	star, resume := -1, 0
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			star, resume = p, i
			p++
			continue
		}
		if n := one(pattern, p, s[i]); n > 0 {
			p += n
			i++
			continue
		}
		if star < 0 {
			return false
		}
		resume++
		p, i = star+1, resume
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// one returns how much of the pattern at p stands for the character c, 0 if it does not.
func one(pattern []rune, p int, c rune) int {
	switch {
	case p >= len(pattern):
		return 0
	case pattern[p] == '?':
		return 1
	case pattern[p] == '\\' && p+1 < len(pattern):
		if pattern[p+1] == c {
			return 2
		}
		return 0
	case pattern[p] == c:
		return 1
	}
	return 0
}
