//go:build net

package eni

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// The limit of packets would show as unexplained timeouts. Who asks too often is told so before: 503, with the packets that are left.
func TestWhoAsksTooOftenIsToldBeforePacketsAreDropped(t *testing.T) {
	m := start(t, "ell")
	c := config("ell", guestInterface(1, "sg-default"))
	apply(t, m, c)
	s := newServices(t, m, c.VPCs...)
	s.inhabited("i-0000000000000000a", 1)
	s.start()
	g := configured(t, m, 1)
	asked, code := 0, 0
	if err := g.Do(func() (err error) {
		for err == nil && code != http.StatusServiceUnavailable && asked < 2000 {
			code, err = once()
			asked++
		}
		return err
	}); err != nil {
		t.Fatalf("request %d: %v, with %v", asked, err, m.Counters())
	}
	if n := m.Counters()["vpc-1/llrate"]; n != 0 || code != http.StatusServiceUnavailable {
		t.Errorf("request %d is answered %d, and %d packets were dropped by then", asked, code, n)
	}
	t.Logf("request %d was the last", asked)
}

// once makes one request, by a connection of its own as all are here, from the namespace of its thread.
func once() (code int, err error) {
	c, err := net.DialTimeout("tcp4", Metadata.String(), 10*time.Second)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(c, "GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}
