// Package tree is the metadata tree that EC2's clients know, as a pure function of one instance.
//
// A table gives each leaf its path, the version of the tree that introduced it, and the function of the
// instance that is its content. Everything else is derived: a directory lists those of its entries
// that would answer, so a name that is listed never answers 404 (one that did would take the whole
// metadata of a Debian 12 guest with it), and an older version hides what came later.
//
// Part of a path may be a name from the instance: {mac}, {role}, {key}. Such a name exists only while
// its instance says so. The server asks with the path as it came, split at slashes and with
// nothing else done to it.
package tree

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
)

// Instance is what answers are made of. Credentials may be nil.
type Instance struct {
	*bundle.Metadata
	Credentials *bundle.Credentials
	Now         time.Time // some notices are given shortly before what they are about
}

// role returns the credentials of the role in the instance's profile; nil while there are none. Both come from
// files, which change one after the other: keys that were made for an earlier profile are nobody's.
func (i Instance) role() *bundle.Credentials {
	if i.Profile == nil || i.Credentials == nil || i.Credentials.Profile != i.Profile.ID {
		return nil
	}
	return i.Credentials
}

// Answer is the content of a path.
type Answer struct {
	Body   string
	Binary bool // bytes that the user gave, not text
}

// Tree answers for paths.
type Tree struct {
	versions []string
	root     *node
}

// content returns what a leaf holds; false if it is not there for this instance. names are the parts of the
// path that come from the instance, from left to right.
type content func(i Instance, names []string) (string, bool)

// leaf is a row of the table.
type leaf struct {
	path   string
	since  string
	body   content
	binary bool
}

// name is an entry of a directory whose entries come from the instance.
type name struct {
	segment string
	listed  string // as the directory shows it; a slash is added to a directory's name unless bare
	bare    bool
}

type node struct {
	name     string
	children []*node // in order of their names
	leaf     *leaf
	names    func(i Instance, names []string) []name // children[0] stands for each of these
	always   string                                  // the version since which the directory answers even when it is empty
}

// latest sorts after every version.
const latest = "latest"

func newTree(versions []string, leaves []leaf, names map[string]func(Instance, []string) []name, always map[string]string) *Tree {
	t := &Tree{versions: versions, root: &node{}}
	for _, l := range leaves {
		at := t.root
		path := ""
		for segment := range strings.SplitSeq(l.path, "/") {
			path = strings.TrimPrefix(path+"/"+segment, "/")
			k, found := slices.BinarySearchFunc(at.children, segment, func(n *node, s string) int { return strings.Compare(n.name, s) })
			if !found {
				at.children = slices.Insert(at.children, k, &node{name: segment, always: always[path]})
				at.names = names[segment]
			}
			at = at.children[k]
		}
		at.leaf = &l
	}
	return t
}

// Split cuts the path of a request target, as sent, into its decoded segments. Empty ones are dropped:
// clients double slashes and end leaves with one. Dots mean nothing.
func Split(escaped string) ([]string, error) {
	var segments []string
	for s := range strings.SplitSeq(escaped, "/") {
		if s == "" {
			continue
		}
		if strings.IndexByte(s, '%') >= 0 {
			var err error
			if s, err = url.PathUnescape(s); err != nil {
				return nil, errors.New("malformed escape in the path")
			}
		}
		segments = append(segments, s)
	}
	return segments, nil
}

// Get returns what is at the path, a leaf's content or a directory's listing, and whether there is anything.
func (t *Tree) Get(i Instance, path []string) (Answer, bool) {
	if len(path) == 0 {
		return Answer{Body: strings.Join(t.versions, "\n")}, true
	}
	version := path[0]
	if !slices.Contains(t.versions, version) {
		return Answer{}, false
	}
	at := t.root
	var names []string
	for _, segment := range path[1:] {
		next := at.child(i, names, segment)
		if next == nil {
			return Answer{}, false
		}
		if at.names != nil {
			names = append(names, segment)
		}
		at = next
	}
	if at.leaf != nil {
		body, ok := at.leaf.get(i, names, version)
		return Answer{Body: body, Binary: at.leaf.binary}, ok
	}
	lines := at.list(i, names, version, at == t.root)
	ok := len(lines) > 0 || at.always != "" && introduced(at.always, version)
	return Answer{Body: strings.Join(lines, "\n")}, ok
}

// child returns the entry of the given name, whether or not there is anything in it.
func (n *node) child(i Instance, names []string, segment string) *node {
	if n.names != nil {
		for _, name := range n.names(i, names) {
			if name.segment == segment {
				return n.children[0]
			}
		}
		return nil
	}
	k, found := slices.BinarySearchFunc(n.children, segment, func(c *node, s string) int { return strings.Compare(c.name, s) })
	if !found {
		return nil
	}
	return n.children[k]
}

// list returns the lines of a directory. bare leaves out the slashes.
func (n *node) list(i Instance, names []string, version string, bare bool) []string {
	var lines []string
	if n.names != nil {
		c := n.children[0]
		for _, name := range n.names(i, names) {
			if c.visible(i, append(slices.Clip(names), name.segment), version) {
				lines = append(lines, c.line(name.listed, bare || name.bare))
			}
		}
		return lines
	}
	for _, c := range n.children {
		if c.visible(i, names, version) {
			lines = append(lines, c.line(c.name, bare))
		}
	}
	return lines
}

func (n *node) line(listed string, bare bool) string {
	if n.leaf == nil && !bare {
		return listed + "/"
	}
	return listed
}

// visible reports whether a directory lists n: whether n would answer with something.
func (n *node) visible(i Instance, names []string, version string) bool {
	if n.leaf != nil {
		_, ok := n.leaf.get(i, names, version)
		return ok
	}
	if n.names != nil {
		return len(n.list(i, names, version, false)) > 0
	}
	return slices.ContainsFunc(n.children, func(c *node) bool { return c.visible(i, names, version) })
}

func (l *leaf) get(i Instance, names []string, version string) (string, bool) {
	if !introduced(l.since, version) {
		return "", false
	}
	return l.body(i, names)
}

// introduced reports whether something of the version since is in the tree of a version. They are dates, and
// "1.0" and "latest" sort before and after all dates as they are.
func introduced(since, version string) bool { return since <= version }
