package server

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what an operator can watch. None is labelled by instance: there may be thousands.
type metrics struct {
	requests     *prometheus.CounterVec
	seconds      prometheus.Histogram
	noToken      prometheus.Counter
	invalidToken prometheus.Counter
	unknown      prometheus.Counter
	refused      prometheus.Counter
	throttled    prometheus.Counter
	open         prometheus.Gauge
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "ichiro", Subsystem: "imds", Name: name, Help: help})
	}
	return &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "ichiro", Subsystem: "imds", Name: "requests_total",
			Help: "Requests by IMDS version (v1 without a token, v2 with one or for one), class of the path and code.",
		}, []string{"version", "class", "code"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "ichiro", Subsystem: "imds", Name: "answer_seconds", Help: "Time to answer a request.",
			Buckets: prometheus.ExponentialBuckets(10e-6, 4, 8), // 10 us to 160 ms
		}),
		noToken:      counter("rx_no_token_total", "Requests refused because a token is required."),
		invalidToken: counter("rx_invalid_token_total", "Requests refused because their token is not valid."),
		unknown:      counter("unknown_callers_total", "Requests from an address that no bundle names."),
		refused:      counter("connections_refused_total", "Connections dropped because their sender has too many."),
		throttled:    counter("throttled_total", "Requests refused because their instance makes too many in a second."),
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "ichiro", Subsystem: "imds", Name: "connections", Help: "Connections that are open.",
		}),
	}
}

// Expose shows the server's figures among those of the process.
func (s *Server) Expose() {
	m := s.metrics
	prometheus.MustRegister(m.requests, m.seconds, m.noToken, m.invalidToken, m.unknown, m.refused, m.throttled, m.open)
}

func (m *metrics) count(r *http.Request, class string, code int, took time.Duration) {
	version := "v1"
	if class == "token" || r.Header.Get(tokenHeader) != "" {
		version = "v2"
	}
	m.requests.WithLabelValues(version, class, strconv.Itoa(code)).Inc()
	m.seconds.Observe(took.Seconds())
}
