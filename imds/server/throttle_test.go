package server

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestThrottle(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	type ask struct {
		id   cloud.InstanceID
		at   time.Duration
		n    int
		want int // that may
	}
	for name, c := range map[string]struct {
		rate int
		asks []ask
	}{
		"all at once":                       {10, []ask{{"i-1", 0, 25, 10}}},
		"one instance takes none of others": {10, []ask{{"i-1", 0, 25, 10}, {"i-2", 0, 25, 10}}},
		"it may again after a while":        {10, []ask{{"i-1", 0, 25, 10}, {"i-1", 300 * time.Millisecond, 25, 3}, {"i-1", 400 * time.Millisecond, 25, 1}}},
		"nothing is saved beyond a second":  {10, []ask{{"i-1", 0, 1, 1}, {"i-1", time.Hour, 25, 10}}},
		"a clock that goes back":            {10, []ask{{"i-1", time.Second, 10, 10}, {"i-1", 0, 5, 0}, {"i-1", time.Second, 25, 10}}},
		"no limit":                          {0, []ask{{"i-1", 0, 100000, 100000}}},
	} {
		th := newThrottle(c.rate)
		for k, a := range c.asks {
			got := 0
			for range a.n {
				if th.take(a.id, start.Add(a.at)) {
					got++
				}
			}
			if got != a.want {
				t.Errorf("%s: request %d of %s: %d of %d may, want %d", name, k+1, a.id, got, a.n, a.want)
			}
		}
	}
}

func TestTheThrottleForgetsWhoIsGone(t *testing.T) {
	th := newThrottle(10)
	now := time.Unix(1_800_000_000, 0)
	for k := range 50_000 {
		th.take(cloud.InstanceID(fmt.Sprint("i-", k)), now)
		now = now.Add(10 * time.Millisecond)
	}
	if n := len(th.buckets); n > 2*fewBuckets {
		t.Errorf("after 50,000 instances, one each 10 ms, it remembers %d", n)
	}
}

func TestAnInstanceThatAsksTooOftenIsToldSo(t *testing.T) {
	now := time.Now()
	w := newWorld(t, func(s *Server) { s.Limit(2); s.now = func() time.Time { return now } })
	w.publish(nil)
	for k, want := range []int{200, 200, 503, 503} {
		resp, _ := w.do("GET", "/latest/meta-data/instance-id")
		if resp.StatusCode != want {
			t.Errorf("request %d: got %d, want %d", k+1, resp.StatusCode, want)
		}
	}
	if got := counted(t, w.server.metrics.throttled); got != 2 {
		t.Errorf("the metric counts %v, want 2", got)
	}
	w.publish(func(m *bundle.Metadata) { m.Options.HTTPEndpoint = "disabled" })
	now = now.Add(time.Second)
	for k, want := range []int{403, 403, 503} {
		if resp, _ := w.do("PUT", "/latest/api/token"); resp.StatusCode != want {
			t.Errorf("what is refused counts too: request %d got %d, want %d", k+1, resp.StatusCode, want)
		}
	}
}

func counted(t *testing.T, c prometheus.Collector) float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	all, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return all[0].GetMetric()[0].GetCounter().GetValue()
}

// The guest's 10,000 connections come while another one asks: none of its requests fails, or waits for long.
func TestTenThousandConnectionsOfOneGuestLeaveOthersAlone(t *testing.T) {
	w := newWorld(t)
	m := instance(testID, "127.0.0.2")
	w.put(m)
	flood := make(chan struct{})
	var kept []net.Conn
	go func() {
		defer close(flood)
		for range 10_000 {
			c, err := net.Dial("tcp4", w.addr)
			if err != nil {
				continue // the reset came first
			}
			fmt.Fprint(c, "GET /latest HTTP/1.1\r\nX: ") // and never the rest
			if len(kept) < 2*maxConnections {
				kept = append(kept, c)
				continue
			}
			c.Close()
		}
	}()
	defer func() {
		<-flood
		for _, c := range kept {
			c.Close()
		}
	}()
	asked := 0
	for over := false; !over; {
		select {
		case <-flood:
			over = true
		default:
		}
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: 2 * time.Second}).Dial("tcp4", w.addr)
		if err != nil {
			t.Fatalf("request %d of the other guest: %v", asked, err)
		}
		c.SetDeadline(time.Now().Add(2 * time.Second))
		fmt.Fprint(c, "GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != 200 && resp.StatusCode != 503 {
			t.Fatalf("request %d of the other guest: %v, %v", asked, resp, err)
		}
		c.Close()
		asked++
	}
	if asked < 20 {
		t.Errorf("the other guest was answered %d times while 10,000 connections came", asked)
	}
	if got := counted(t, w.server.metrics.refused); got < 9000 {
		t.Errorf("the metric counts %v connections that were refused", got)
	}
}
