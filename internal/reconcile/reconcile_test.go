package reconcile

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// start runs a loop of f for the duration of the bubble.
func start(t *testing.T, every time.Duration, f func(context.Context) error) *Loop {
	l := New(t.Name(), every, f)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: got %v, want canceled", err)
		}
	})
	return l
}

func TestRunsAtOnceThenByTheClockAndWhenWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var at []time.Duration
		l := start(t, 30*time.Second, func(context.Context) error { at = append(at, time.Since(begin)); return nil })
		<-l.Ready()
		time.Sleep(40 * time.Second)
		l.Wake()
		l.Wake()
		l.Wake()
		time.Sleep(31 * time.Second)
		synctest.Wait()
		want := []time.Duration{0, 30 * time.Second, 40 * time.Second, 70 * time.Second}
		if !slices.Equal(at, want) {
			t.Errorf("runs at: got %v, want %v", at, want)
		}
	})
}

func TestLazyWakesBecomeOneRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var at []time.Duration
		l := start(t, time.Hour, func(context.Context) error { at = append(at, time.Since(begin)); return nil })
		<-l.Ready()
		for range 8 { // the last after the first has had its run
			l.WakeWithin(time.Second)
			time.Sleep(150 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		want := []time.Duration{0, time.Second, 2050 * time.Millisecond}
		if !slices.Equal(at, want) {
			t.Errorf("runs at: got %v, want %v", at, want)
		}
	})
}

func TestWakesDuringARunBecomeOneFurtherRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		running, total := 0, 0
		l := start(t, time.Hour, func(context.Context) error {
			if running++; running > 1 {
				t.Error("two runs at once")
			}
			total++
			time.Sleep(time.Second)
			running--
			return nil
		})
		time.Sleep(500 * time.Millisecond)
		for range 5 {
			l.Wake()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if total != 2 {
			t.Errorf("runs: got %d, want 2", total)
		}
	})
}

func TestAFailedRunIsTriedAgainSoonAndThenLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		sick := errors.New("no disk")
		var at []time.Duration
		var result error = sick
		l := start(t, time.Second, func(context.Context) error { at = append(at, time.Since(begin)); return result })
		time.Sleep(2500 * time.Millisecond)
		synctest.Wait()
		ms := time.Millisecond
		want := []time.Duration{0, 200 * ms, 600 * ms, 1400 * ms, 2400 * ms} // 0.2, 0.4, 0.8, then every second
		if !slices.Equal(at, want) {
			t.Errorf("runs at: got %v, want %v", at, want)
		}
		if l.Err() != sick {
			t.Errorf("Err: got %v, want %v", l.Err(), sick)
		}
		select {
		case <-l.Ready():
			t.Error("ready without a run that succeeded")
		default:
		}
		result = nil
		l.Wake()
		<-l.Ready()
		if l.Err() != nil {
			t.Errorf("Err after success: got %v, want nil", l.Err())
		}
	})
}

func TestBeingToldToStopIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New("x", time.Hour, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- l.Run(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: got %v, want canceled", err)
		}
		if l.Err() != nil {
			t.Errorf("Err: got %v, want nil", l.Err())
		}
	})
}
