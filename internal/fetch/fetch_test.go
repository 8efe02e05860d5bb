package fetch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

func TestReadResponse(t *testing.T) {
	for _, c := range []struct {
		name, text, body string
		status           int
		err              error
	}{
		{"a counted body", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiNEXT", "hi", 200, nil},
		{"a body in chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n1\r\n!\r\n0\r\nT: x\r\n\r\nNEXT", "hi!", 200, nil},
		{"a body to the end", "HTTP/1.0 404 Not Found\r\n\r\ngone", "gone", 404, nil},
		{"bare line feeds", "HTTP/1.1 200 OK\nContent-Length: 1\n\nx", "x", 200, nil},
		{"an interim answer", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "", 204, nil},
		{"no HTTP", "SSH-2.0-OpenSSH\r\n\r\n", "", 0, ErrMalformed},
		{"a length that is none", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "", 0, ErrMalformed},
		{"a length beyond the limit", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "", 0, ErrTooLarge},
		{"a chunk beyond the limit", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", "", 0, ErrTooLarge},
		{"an endless line", "HTTP/1.1 200 " + strings.Repeat("x", 5000), "", 0, ErrTooLarge},
		{"endless headers", "HTTP/1.1 200 OK\r\n" + headers(100), "", 0, ErrTooLarge},
		{"a body that is cut", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", "", 0, io.ErrUnexpectedEOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ReadResponse(bufio.NewReaderSize(strings.NewReader(c.text), maxLine), "GET")
			if !errors.Is(err, c.err) || err == nil && (got.Status != c.status || string(got.Body) != c.body) {
				t.Errorf("got %d %q, %v; want %d %q, %v", got.Status, got.Body, err, c.status, c.body, c.err)
			}
		})
	}
}

func headers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "H%d: v\r\n", i)
	}
	return b.String() + "\r\n"
}

// A real server, once with connections that stay and once with connections that end.
func TestDoPipelines(t *testing.T) {
	for _, keep := range []bool{true, false} {
		connections := 0
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, r.Method+r.URL.Path+r.Header.Get("X-Token"))
		}))
		server.Config.SetKeepAlivesEnabled(keep)
		server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				connections++ // called by Serve's one goroutine
			}
		}
		server.Start()
		c := Client{Server: netip.MustParseAddrPort(server.Listener.Addr().String())}
		got, err := c.Do(context.Background(), Request{Method: "PUT", Path: "/a"},
			Request{Method: "GET", Path: "/b", Header: map[string]string{"X-Token": "!"}}, Request{Method: "GET", Path: "/c"})
		server.Close()
		if err != nil {
			t.Fatalf("keep %v: %v", keep, err)
		}
		text := ""
		for _, a := range got {
			text += fmt.Sprint(a.Status, string(a.Body), " ")
		}
		if want := "200PUT/a 200GET/b! 200GET/c "; text != want {
			t.Errorf("keep %v: got %q, want %q", keep, text, want)
		}
		want := map[bool]int{true: 1, false: 3}[keep]
		if connections != want {
			t.Errorf("keep %v: %d connections, want %d", keep, connections, want)
		}
	}
}

func TestServersOfBothFamiliesAreAsked(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Logf("%s is not to be had here: %v", at, err) // a machine without IPv6
			continue
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) })}
		go srv.Serve(l) // ends with Close
		to := netip.MustParseAddrPort(l.Addr().String())
		got, err := (Client{Server: to}).Do(t.Context(), Request{Method: "GET", Path: "/"})
		srv.Close()
		host := to.Addr().String()
		if to.Addr().Is6() {
			host = "[" + host + "]" // RFC 9110, 4.2.3
		}
		if err != nil || got[0].Status != 200 || string(got[0].Body) != host {
			t.Errorf("%s: got %v, %v, want it asked as %s", to, got, err, host)
		}
	}
}

func TestDoSaysWhyNot(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	l.Close()
	if _, err := (Client{Server: at}).Do(t.Context(), Request{Method: "GET", Path: "/x"}); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("closed port: got %v, want a refusal", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	l, err = net.Listen("tcp", "127.0.0.1:0") // accepts and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at = netip.MustParseAddrPort(l.Addr().String())
	if _, err := (Client{Server: at}).Do(ctx, Request{Method: "GET", Path: "/x"}); err == nil {
		t.Error("cancelled call: got no error")
	}
}

func FuzzReadResponse(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ReadResponse(bufio.NewReaderSize(strings.NewReader(text), maxLine), "GET")
		if err == nil && (a.Status < 200 || a.Status > 999 || len(a.Body) > len(text)) {
			t.Errorf("got %d and %d bytes from %q", a.Status, len(a.Body), text)
		}
	})
}
