// Package reconcile is the loop that makes something so.
//
// A loop is woken by an event or by the clock and then runs its function once. The function
// takes no input: it reads what is wished and what is there, and acts on the difference, so
// a lost, doubled or late wake costs nothing. Wakes that arrive during a run become one
// further run; there are never two runs at once.
//
//	Wake, Wake --+                     +-- nil ----> wait for Wake or the clock
//	             +--> run (one) -------+
//	clock -------+                     +-- error --> again soon: 0.2 s, doubled up to every
//
// A run does not retry inside: it returns its error, the loop keeps it (Err), logs it when
// it changes, and runs again. Who decides what to do is the function; this package knows nothing of it.
package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// firstRetry is how soon a failed run is tried again. Half a second is what a person waits
// without wondering; 0.2 s leaves room for a second try in it.
const firstRetry = 200 * time.Millisecond

var (
	runs = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "ichiro_reconcile_runs_total", Help: "Runs of a loop by result: ok or error."}, []string{"loop", "result"})
	seconds = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Name: "ichiro_reconcile_seconds", Help: "Duration of a loop's runs.",
		Buckets: prometheus.ExponentialBuckets(0.001, 4, 8)}, []string{"loop"})
	failing = promauto.NewGaugeVec(prometheus.GaugeOpts{
		Name: "ichiro_reconcile_failing", Help: "1 while a loop's last run failed."}, []string{"loop"})
)

// Loop runs a function again and again. It is a service.Task.
type Loop struct {
	name  string
	every time.Duration
	f     func(context.Context) error
	wake  chan struct{} // of one: a wake that has not been answered yet
	first chan struct{} // closed after the first run that succeeded
	later atomic.Bool   // WakeWithin has a timer

	mu  sync.Mutex
	err error // of the last run
}

// New returns a loop that runs f at once, whenever it is woken, and every so often.
func New(name string, every time.Duration, f func(context.Context) error) *Loop {
	return &Loop{name: name, every: every, f: f, wake: make(chan struct{}, 1), first: make(chan struct{})}
}

// Wake asks for a run that begins after now. It never blocks.
func (l *Loop) Wake() {
	select {
	case l.wake <- struct{}{}:
	default: // one is asked for already
	}
}

// WakeWithin asks for a run within d, one however often it is asked meanwhile: for what looks at much and need not know at
// once. It never blocks.
func (l *Loop) WakeWithin(d time.Duration) {
	if l.later.CompareAndSwap(false, true) {
		time.AfterFunc(d, func() {
			l.later.Store(false)
			l.Wake()
		})
	}
}

// Err returns the error of the last run.
func (l *Loop) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Health is Err under the name that service.Admin shows in /healthz.
func (l *Loop) Health() error { return l.Err() }

// Ready is closed when a run has succeeded for the first time.
func (l *Loop) Ready() <-chan struct{} { return l.first }

// String returns the loop's name.
func (l *Loop) String() string { return l.name }

// Run runs the loop until ctx ends.
func (l *Loop) Run(ctx context.Context) error {
	pause := min(firstRetry, l.every)
	for {
		err := l.once(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		next := l.every
		if err != nil {
			next, pause = pause, min(2*pause, l.every)
		} else {
			pause = min(firstRetry, l.every)
		}
		timer := time.NewTimer(next)
		select {
		case <-l.wake:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		timer.Stop()
	}
}

// once runs f and keeps its error.
func (l *Loop) once(ctx context.Context) error {
	select { // what is wished by now is seen by this run
	case <-l.wake:
	default:
	}
	start := time.Now()
	err := l.f(ctx)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return err // told to stop: no word about the work
	}
	seconds.WithLabelValues(l.name).Observe(time.Since(start).Seconds())

	l.mu.Lock()
	before := l.err
	l.err = err
	l.mu.Unlock()
	log := slog.With("component", l.name)
	switch {
	case err != nil:
		runs.WithLabelValues(l.name, "error").Inc()
		failing.WithLabelValues(l.name).Set(1)
		if before == nil || before.Error() != err.Error() {
			log.Warn("round failed", "err", err)
		}
		return err
	case before != nil:
		log.Info("round succeeded again")
	}
	runs.WithLabelValues(l.name, "ok").Inc()
	failing.WithLabelValues(l.name).Set(0)
	select {
	case <-l.first:
	default:
		close(l.first)
	}
	return nil
}
