// Package notify sends what users have asked to be told of to addresses that they have named.
//
// Whoever names an address has the control plane's machine open a connection, so this is where it is decided which it
// opens: HTTPS alone, nothing follows a redirect or a proxy of the environment, and an address is looked at when its name
// has been resolved and the connection is about to be made. Loopback, link-local (metadata services), this machine's own addresses and what is no
// host's are refused, unless the operator has allowed them.
package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"
)

// patience is how long an address may take for all of it.
const patience = 10 * time.Second

// ErrForbidden is the error of an address to which nothing is sent.
var ErrForbidden = errors.New("notifications are not sent to this machine, its links or no host's address, unless the operator allows it")

// Sender sends.
type Sender struct {
	allowed []netip.Prefix
	own     func() ([]net.Addr, error)
	client  *http.Client
}

// New returns a sender that may also send to the prefixes that are allowed.
func New(allowed []netip.Prefix) *Sender {
	s := &Sender{allowed: allowed, own: net.InterfaceAddrs}
	dialer := &net.Dialer{Timeout: patience, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return s.permit(at.Addr())
	}}
	s.client = &http.Client{
		Timeout:       patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSHandshakeTimeout: patience, DisableKeepAlives: true,
			MaxResponseHeaderBytes: 64 << 10, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		},
	}
	return s
}

// Check says what is wrong with an address, as far as its text tells.
func (s *Sender) Check(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Scheme != "https" || u.Hostname() == "" || len(address) > 2048:
		return errors.New("give an address such as https://hooks.example.com/path")
	case u.User != nil || u.Fragment != "":
		return errors.New("the address has a user or a fragment: leave them out")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil {
		return s.permit(ip)
	}
	return nil
}

// nat64 are the addresses behind which a network may have IPv4 ones (RFC 6052, and 6to4's of RFC 3056 with them).
var nat64 = map[netip.Prefix]int{
	netip.MustParsePrefix("64:ff9b::/96"): 12, netip.MustParsePrefix("2002::/16"): 2,
}

// reserved are no host's on another machine, or have what only a machine itself is to reach.
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("::/96"),
}

// permit decides about an address.
func (s *Sender) permit(ip netip.Addr) error {
	ip = ip.WithZone("").Unmap()
	if slices.ContainsFunc(s.allowed, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return nil
	}
	for prefix, at := range nat64 {
		if prefix.Contains(ip) {
			b := ip.As16()
			return s.permit(netip.AddrFrom4([4]byte(b[at : at+4])))
		}
	}
	if !ip.IsValid() || ip.IsLoopback() || ip.IsUnspecified() || ip.IsLinkLocalUnicast() || ip.IsMulticast() ||
		slices.ContainsFunc(reserved, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return fmt.Errorf("%s: %w", ip, ErrForbidden)
	}
	addresses, err := s.own()
	if err != nil {
		return fmt.Errorf("look at this machine's addresses: %w", err)
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok {
			if mine, ok := netip.AddrFromSlice(n.IP); ok && mine.Unmap() == ip {
				return fmt.Errorf("%s: %w", ip, ErrForbidden)
			}
		}
	}
	return nil
}

// Post sends a body, and returns nil if whoever is there has taken it.
func (s *Sender) Post(ctx context.Context, address string, header map[string]string, body []byte) error {
	if err := s.Check(address); err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // what they say does not matter
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("notify: the answer is %s", resp.Status)
	}
	return nil
}
