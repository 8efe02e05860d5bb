package managed

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"
)

// An address that is taken is no reason to end: the guests' Run Command is in the same process.
func TestAnAddressThatIsTakenIsWaitedFor(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	tried := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() {
		log := slog.New(slog.NewTextHandler(writer(func() {
			select {
			case tried <- struct{}{}:
			default:
			}
		}), nil))
		ended <- Run(ctx, Config{Listen: l.Addr().String(), Dir: t.TempDir(), Log: log}, nil)
	}()
	select {
	case <-tried:
	case err := <-ended:
		t.Fatalf("it ends with %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("it ends with %v", err)
	}
}

// writer calls a function at each write.
type writer func()

func (w writer) Write(p []byte) (int, error) { w(); return len(p), nil }

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
