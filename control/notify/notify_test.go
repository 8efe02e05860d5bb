package notify

import (
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

func TestWhereNothingIsSent(t *testing.T) {
	s := New([]netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")})
	s.own = func() ([]net.Addr, error) {
		return []net.Addr{&net.IPNet{IP: net.ParseIP("192.0.2.7"), Mask: net.CIDRMask(24, 32)}, &net.IPNet{IP: net.ParseIP("2001:db8::7"), Mask: net.CIDRMask(64, 128)}}, nil
	}
	for address, ok := range map[string]bool{
		"https://hooks.example.com/a?b=c":        true,
		"https://192.0.2.8:8443/":                true,
		"https://10.1.2.3/":                      true,
		"https://[2001:db8::8]/":                 true,
		"https://127.0.0.9/":                     true, // the operator allows it
		"http://hooks.example.com/":              false,
		"hooks.example.com":                      false,
		"https://":                               false,
		"https://user:word@hooks.example.com/":   false,
		"arn:aws:sns:eu-1:000000000000:topic":    false,
		"https://127.0.0.1/":                     false,
		"https://[::1]/":                         false,
		"https://[::ffff:127.0.0.1]/":            false,
		"https://[::127.0.0.1]/":                 false,
		"https://169.254.169.254/latest":         false,
		"https://[fe80::1]/":                     false,
		"https://[fd00:ec2::254]/":               false,
		"https://0.0.0.0/":                       false,
		"https://224.0.0.1/":                     false,
		"https://255.255.255.255/":               false,
		"https://192.0.2.7/":                     false, // this machine
		"https://[2001:db8::7]/":                 false,
		"https://[64:ff9b::7f00:1]/":             false,
		"https://[64:ff9b::a9fe:a9fe]/":          false,
		"https://[2002:7f00:1::]/":               false,
		"https://x/" + strings.Repeat("a", 2048): false,
	} {
		if err := s.Check(address); (err == nil) != ok {
			t.Errorf("%.60s: got %v, want it let through: %t", address, err, ok)
		}
	}
}

// A name says nothing of where it leads: that is seen when the connection is made, and a redirect is no way around it.
func TestWhereANameLeads(t *testing.T) {
	got := make(chan string, 9)
	mux := http.NewServeMux()
	mux.HandleFunc("/take", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- r.Header.Get("X-Kind") + " " + string(body)
	})
	mux.HandleFunc("/fail", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusInternalServerError) })
	mux.HandleFunc("/on", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/take", http.StatusTemporaryRedirect)
	})
	srv := httptest.NewTLSServer(mux)
	defer srv.Close()
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	sender := func(allowed ...netip.Prefix) *Sender {
		s := New(allowed)
		roots := x509.NewCertPool()
		roots.AddCert(srv.Certificate())
		tls := s.client.Transport.(*http.Transport).TLSClientConfig
		tls.RootCAs, tls.ServerName = roots, "example.com" // which the test server's certificate has
		return s
	}
	header := map[string]string{"X-Kind": "test"}
	if err := sender().Post(t.Context(), "https://localhost:"+port+"/take", header, []byte("x")); !errors.Is(err, ErrForbidden) {
		t.Errorf("a name for loopback: got %v", err)
	}
	s := sender(netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
	if err := s.Post(t.Context(), "https://localhost:"+port+"/take", header, []byte("hello")); err != nil {
		t.Error(err)
	} else if v := <-got; v != "test hello" {
		t.Errorf("sent %q", v)
	}
	for _, path := range []string{"/fail", "/on"} {
		if err := s.Post(t.Context(), "https://localhost:"+port+path, nil, nil); err == nil {
			t.Errorf("%s is taken for a yes", path)
		}
	}
	s = New([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
	if err := s.Post(t.Context(), "https://127.0.0.1:"+port+"/take", nil, nil); err == nil {
		t.Error("a certificate that nobody vouches for is taken")
	}
	select {
	case v := <-got:
		t.Errorf("one more was sent: %q", v)
	default:
	}
}
