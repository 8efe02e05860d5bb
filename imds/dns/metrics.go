package dns

import "github.com/prometheus/client_golang/prometheus"

// The results of a question, for counting.
const (
	local     = "local"     // a name of the VPC
	unknown   = "unknown"   // one that the VPC does not have
	cached    = "cached"    // kept from an earlier answer
	forwarded = "forwarded" // asked of the host's resolvers
	joined    = "joined"    // answered together with an earlier question
	failed    = "failed"    // no resolver answered
	refused   = "refused"   // the VPC has no resolver, or the question is one that is not answered
	malformed = "malformed"
	limited   = "limited" // dropped: too many under way
)

// metrics are what an operator can watch. None is labelled by instance or name.
type metrics struct {
	queries    *prometheus.CounterVec
	seconds    prometheus.Histogram
	mismatched prometheus.Counter
}

func newMetrics() *metrics {
	return &metrics{
		queries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "ichiro", Subsystem: "dns", Name: "queries_total", Help: "Questions of guests by transport and result.",
		}, []string{"transport", "result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "ichiro", Subsystem: "dns", Name: "upstream_seconds", Help: "Time until one of the host's resolvers answered.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8), // 0.5 ms to 8 s
		}),
		mismatched: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "ichiro", Subsystem: "dns", Name: "mismatched_total", Help: "Datagrams that came for a question and were no answer to it: a late one, or a forgery.",
		}),
	}
}

func (m *metrics) count(q *question, result string) {
	m.queries.WithLabelValues(q.transport, result).Inc()
}

// Expose registers the metrics with the process's registry.
func (s *Server) Expose() {
	prometheus.MustRegister(s.metrics.queries, s.metrics.seconds, s.metrics.mismatched,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "ichiro", Subsystem: "dns", Name: "cache_bytes", Help: "Answers that are kept.",
		}, func() float64 { return float64(s.cache.size()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "ichiro", Subsystem: "dns", Name: "under_way", Help: "Questions that wait for the host's resolvers.",
		}, func() float64 {
			s.underWay.mu.Lock()
			defer s.underWay.mu.Unlock()
			return float64(s.underWay.total)
		}))
}
