package api

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/ichiro-metal/ichiro/control/api/wire"
)

// A route is the method and path of a REST service's action. Parts of the path in braces are parameters.
type route struct {
	method, action string
	parts          []string
}

// newRoute reads "PUT /resources/{Arn}/tags".
func newRoute(at, action string) route {
	method, path, _ := strings.Cut(at, " ")
	return route{method, action, strings.Split(path, "/")}
}

// match returns the parameters in a request's path, escaped as it was sent.
func (r route) match(method string, parts []string) (map[string]string, bool) {
	if method != r.method || len(parts) != len(r.parts) {
		return nil, false
	}
	out := map[string]string{}
	for k, want := range r.parts {
		name, isParameter := strings.CutPrefix(want, "{")
		switch {
		case isParameter:
			value, err := url.PathUnescape(parts[k])
			if err != nil || value == "" {
				return nil, false
			}
			out[strings.TrimSuffix(name, "}")] = value
		case want != parts[k]:
			return nil, false
		}
	}
	return out, true
}

// routed finds the action that a request of a REST service asks for, and its parameters outside the body. Without an action
// it is "".
func (t *table) routed(r *http.Request) (action string, apart map[string]string, err error) {
	parts := strings.Split(r.URL.EscapedPath(), "/")
	for _, at := range t.routes {
		found, ok := at.match(r.Method, parts)
		if !ok {
			continue
		}
		query, err := url.ParseQuery(unsignedQuery(r.URL.RawQuery))
		if err != nil {
			return "", nil, &wire.Error{Kind: wire.Malformed, Reason: "the query string is not readable"}
		}
		for name, values := range query {
			if _, both := found[name]; both || len(values) != 1 {
				return "", nil, &wire.Error{Kind: wire.InvalidValue, Parameter: name, Reason: "it may be given once"}
			}
			found[name] = values[0]
		}
		return at.action, found, nil
	}
	return "", nil, nil
}

// atPath reports whether a service is where a request wants it: all are at /, but for REST ones.
func (f *Front) atPath(r *http.Request) bool {
	if r.URL.Path == "/" || r.URL.Path == "" {
		return true
	}
	service, _, _ := scope(r)
	t := f.tables[service]
	return t != nil && len(t.routes) > 0
}
