package server

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
)

// BenchmarkAgainstBareHandler compares the server with a net/http handler of one line, both asked over
// a new connection for each request, as EC2's clients do. Rounds alternate, so that both meet the same
// machine; the medians and their ratio are printed.
func BenchmarkAgainstBareHandler(b *testing.B) {
	bare := bareServer(b)
	for _, c := range []struct {
		name    string
		request string
		tokens  bool
	}{
		{"leaf", "GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: x\r\n", false},
		{"leaf-with-token", "GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: x\r\n", true},
		{"listing", "GET /latest/meta-data/ HTTP/1.1\r\nHost: x\r\n", false},
		{"token", "PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n", false},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b, func(s *Server) { s.Limit(1e6) }) // one caller is all there is
			w.publish(func(m *bundle.Metadata) { m.Options.HTTPTokens = "optional" })
			request := c.request
			if c.tokens {
				request += "X-aws-ec2-metadata-token: " + w.token() + "\r\n"
			}
			const round, rounds = 500, 9
			var ours, theirs []time.Duration
			for b.Loop() {
				for range rounds {
					ours = append(ours, ask(b, w.addr, request, round))
					theirs = append(theirs, ask(b, bare, "GET / HTTP/1.1\r\nHost: x\r\n", round))
				}
			}
			o, t := median(ours)/round, median(theirs)/round
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(o.Nanoseconds())/1e3, "us/request")
			b.ReportMetric(float64(t.Nanoseconds())/1e3, "bare-us/request")
			b.ReportMetric(float64(o)/float64(t), "ratio")
		})
	}
}

func bareServer(b *testing.B) string {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		io.WriteString(w, string(testID))
	})}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(l) })
	b.Cleanup(func() { server.Close(); serving.Wait() })
	return l.Addr().String()
}

// ask sends the request n times from four clients and returns how long that took.
func ask(b *testing.B, addr, request string, n int) time.Duration {
	start := time.Now()
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for range n / 4 {
				c, err := net.Dial("tcp4", addr)
				if err != nil {
					b.Error(err)
					return
				}
				fmt.Fprintf(c, "%s\r\n", request)
				reply, err := io.ReadAll(c)
				c.Close()
				if err != nil || !strings.HasPrefix(string(reply), "HTTP/1.1 200 OK\r\n") {
					b.Errorf("reply %.40q, %v", reply, err)
					return
				}
			}
		})
	}
	clients.Wait()
	return time.Since(start)
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
