package managed

import (
	"testing"
	"time"
)

func TestRegistrationsAreSoManyASecond(t *testing.T) {
	g := &registrar{tokens: burst}
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	passed := func(n int) (passed int) {
		for range n {
			if g.admit(now) {
				passed++
			}
		}
		return passed
	}
	if got := passed(1000); got != burst {
		t.Errorf("of a thousand at once %d are passed on, want %d", got, burst)
	}
	if now = now.Add(3 * refill); passed(1000) != 3 {
		t.Error("after a while it is not as many as the time that has passed")
	}
	if now = now.Add(time.Hour); passed(1000) != burst {
		t.Error("after an hour it is not what it was at the beginning")
	}
}
