package service

import (
	"errors"
	"testing"
	"time"
)

func TestNews(t *testing.T) {
	absent, broken := errors.New("it is not there"), errors.New("it cannot be read")
	start := time.Unix(1_800_000_000, 0)
	type report struct {
		after   time.Duration // the start
		subject string
		trouble error
		want    bool
	}
	for _, c := range []struct {
		name    string
		reports []report
	}{
		{"that all is well is no news", []report{{0, "a", nil, false}, {time.Hour, "a", nil, false}}},
		{"trouble is told once, however often and long it is met", []report{
			{0, "a", absent, true}, {1, "a", absent, false}, {time.Minute, "a", absent, false}, {24 * time.Hour, "a", absent, false}}},
		{"its end is told once", []report{{0, "a", absent, true}, {time.Minute, "a", nil, true}, {time.Minute + 1, "a", nil, false}, {time.Hour, "a", nil, false}}},
		{"another trouble is told", []report{{0, "a", absent, true}, {time.Minute, "a", broken, true}, {2 * time.Minute, "a", broken, false}}},
		{"what flaps is told when it is quiet enough, as it is then", []report{
			{0, "a", absent, true}, {1, "a", nil, false}, {2, "a", absent, false}, {9 * time.Second, "a", nil, false}, {10 * time.Second, "a", nil, true},
			{10*time.Second + 1, "a", absent, false}, {19 * time.Second, "a", nil, false}, {21 * time.Second, "a", absent, true}}},
		{"each subject has its own", []report{{0, "a", absent, true}, {0, "b", absent, true}, {1, "b", absent, false}, {time.Minute, "b", nil, true}, {time.Minute, "a", absent, false}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var n News
			for k, r := range c.reports {
				if got := n.Is(r.subject, r.trouble, start.Add(r.after)); got != r.want {
					t.Errorf("report %d, %s after %v with %v: got %t, want %t", k, r.subject, r.after, r.trouble, got, r.want)
				}
			}
		})
	}
	var n News
	n.Is("a", absent, start)
	n.Forget("a")
	if !n.Is("a", absent, start) {
		t.Error("a subject that came anew is not told of")
	}
	if n.Is("a", nil, start.Add(time.Minute)); n.Is("a", nil, start.Add(time.Hour)) || len(n.told) != 0 {
		t.Errorf("a subject without trouble is kept: %v", n.told)
	}
}
