package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Serve answers requests on l until ctx ends, then lets those under way finish for a few seconds.
// With TLS wanted, l is a TLS listener.
func (f *Front) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           f,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second, // 1 MiB in 30 s: the slowest client we wait for
		WriteTimeout:      patience + 20*time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10, // a session token is a few KiB
		ConnContext:       withConn,
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := srv.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	<-done
	return err
}

// An auditLine is what is kept of a changing call. Parameters are not: they may hold secrets.
type auditLine struct {
	Time         time.Time `json:"time"`
	Request      string    `json:"request"`
	Service      string    `json:"service"`
	Action       string    `json:"action"`
	Account      string    `json:"account,omitempty"`
	Caller       string    `json:"caller,omitempty"`
	AccessKey    string    `json:"accessKey,omitempty"`
	Source       string    `json:"source"`
	Instance     string    `json:"instance,omitempty"` // whose guest it is that asks, by the way that guests have to the API
	Agent        string    `json:"agent,omitempty"`
	Resources    []string  `json:"resources,omitempty"`
	DryRun       bool      `json:"dryRun,omitempty"`
	Code         string    `json:"code,omitempty"` // empty when it was done
	Milliseconds int64     `json:"ms"`
	Detail       any       `json:"detail,omitempty"` // what an action remarks; of what is no call, how a session has ended
}

// Note writes an audit line about what is no call, such as the end of a session.
func (f *Front) Note(service, event string, owner Identity, resource string, detail any) error {
	err := f.audit.write(auditLine{
		Time: f.cfg.Now().UTC(), Service: service, Action: event, Account: owner.Account, Caller: owner.ARN,
		Resources: []string{resource}, Detail: detail,
	})
	if err != nil {
		f.cfg.Log.Error("the audit line could not be written", "event", event, "err", err)
	}
	return err
}

type auditor struct {
	mu sync.Mutex
	w  io.Writer
}

// write appends the line in one Write, so that lines of an O_APPEND file never mix.
func (a *auditor) write(l auditLine) error {
	if a.w == nil {
		return nil
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	_, err = a.w.Write(append(b, '\n'))
	return err
}

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ichiro_api_requests_total", Help: "API requests by service, action and the code answered.",
		}, []string{"service", "action", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ichiro_api_request_seconds", Help: "Time from a request's last byte read to its answer made.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16), // 0.5 ms to 16 s
		}, []string{"service", "action"}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.seconds)
	}
	return m
}

// observe counts a request. action is a name of the tables or "unknown": clients cannot make label values.
func (m *metrics) observe(service, action, code string, took time.Duration) {
	m.requests.WithLabelValues(service, action, code).Inc()
	m.seconds.WithLabelValues(service, action).Observe(took.Seconds())
}
