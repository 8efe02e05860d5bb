package main

import (
	"strings"
	"testing"
)

func TestFollow(t *testing.T) {
	for name, c := range map[string]struct {
		in     string
		want   counts
		failed bool
		shows  []string
	}{
		"nothing": {"", counts{}, false, nil},
		"leaves are counted, parents are not": {`
{"Action":"run","Package":"p","Test":"A/b"}
{"Action":"pass","Package":"p","Test":"A/b"}
{"Action":"pass","Package":"p","Test":"A/c"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Test":"B"}
{"Action":"pass","Package":"p","Elapsed":1.5}`, counts{Passed: 3}, false, []string{"ok   p 1.5s"}},
		"a failure shows all that it said": {`
{"Action":"output","Package":"p","Test":"A","Output":"got 1\n"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}`, counts{Failed: 1}, true, []string{"--- FAIL p A\ngot 1\n", "FAIL p 0.0s"}},
		"a skip says why": {`
{"Action":"output","Package":"p","Test":"A","Output":"=== RUN A\n"}
{"Action":"output","Package":"p","Test":"A","Output":"    x_test.go:1: no root\n"}
{"Action":"output","Package":"p","Test":"A","Output":"--- SKIP: A (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}`, counts{Skipped: 1}, false, []string{"--- SKIP p A: x_test.go:1: no root\n"}},
		"what the build says is shown once, and with its package": {`
{"ImportPath":"p","Action":"build-output","Output":"p.go:1: bad\n"}
{"ImportPath":"q","Action":"build-output","Output":"q.go:1: bad\n"}
{"ImportPath":"p","Action":"build-fail"}
{"ImportPath":"q","Action":"build-fail"}
{"Action":"fail","Package":"p"}`, counts{}, true, []string{"p.go:1: bad\nq.go:1: bad\n"}},
		"a test that never ended says its last words": {`
{"Action":"output","Package":"p","Test":"A","Output":"panic: timed out\n"}
{"Action":"output","Package":"p","Output":"exit status 2\n"}
{"Action":"fail","Package":"p"}`, counts{}, true, []string{"panic: timed out", "exit status 2"}},
		"words that are no events pass through": {"go: downloading x", counts{}, false, []string{"go: downloading x\n"}},
		"a line without end":                    {strings.Repeat("x", 17<<20), counts{}, true, nil},
	} {
		var out strings.Builder
		got, failed := follow(strings.NewReader(strings.TrimSpace(c.in)), &out)
		if got != c.want || failed != c.failed {
			t.Errorf("%s: got %v, failed %v, want %v, %v", name, got, failed, c.want, c.failed)
		}
		for _, s := range c.shows {
			if strings.Count(out.String(), s) != 1 {
				t.Errorf("%s: want once %q in:\n%s", name, s, out.String())
			}
		}
	}
}
