// Package pattern has regular expressions that cost nothing until they are asked.
//
// A program compiles its regular expressions before main, whether it will use them or not. Those that the agent in a guest knows
// of took a third of its own memory, twice, as it is two processes.
package pattern

import (
	"regexp"
	"sync"
)

// Pattern is a regular expression in the syntax of package regexp. It is compiled when it is first used, and panics then if it is
// none: patterns are constants with tests.
type Pattern struct {
	text string
	once sync.Once
	re   *regexp.Regexp
}

// New returns a pattern. It is compiled by whoever uses it first.
func New(text string) *Pattern { return &Pattern{text: text} }

func (p *Pattern) compiled() *regexp.Regexp {
	p.once.Do(func() { p.re = regexp.MustCompile(p.text) })
	return p.re
}

// MatchString is that of package regexp.
func (p *Pattern) MatchString(s string) bool { return p.compiled().MatchString(s) }

// FindStringSubmatch is that of package regexp.
func (p *Pattern) FindStringSubmatch(s string) []string { return p.compiled().FindStringSubmatch(s) }

// FindAllStringSubmatch is that of package regexp.
func (p *Pattern) FindAllStringSubmatch(s string, n int) [][]string {
	return p.compiled().FindAllStringSubmatch(s, n)
}

// ReplaceAllStringFunc is that of package regexp.
func (p *Pattern) ReplaceAllStringFunc(s string, by func(string) string) string {
	return p.compiled().ReplaceAllStringFunc(s, by)
}
