package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// How long is waited. A guest's own resolver asks again after 5 s (resolv.conf(5)), and by then should have an answer.
const (
	patience    = 4500 * time.Millisecond
	firstTry    = time.Second
	furtherTry  = 1500 * time.Millisecond
	tries       = 2 // of each resolver
	answerBytes = 4096
)

// forwarder asks the host's resolvers.
type forwarder struct {
	resolvers *Resolvers
	metrics   *metrics

	mu      sync.Mutex
	flights map[key]*flight
}

// flight is a question that is being asked, and whoever waits for it.
type flight struct {
	done   chan struct{}
	answer *dns.Msg // nil when no resolver answered; not to be changed
}

// ask returns the answer of a resolver, and whether it was another question's; nil if there is none. It must not be changed.
// keep is given the answer before the next such question may be asked again, and known tells what it was given.
func (f *forwarder) ask(ctx context.Context, k key, q *question, known func() *dns.Msg, keep func(*dns.Msg)) (a *dns.Msg, shared bool) {
	f.mu.Lock()
	if other := f.flights[k]; other != nil {
		f.mu.Unlock()
		select {
		case <-other.done:
			return other.answer, true
		case <-ctx.Done():
			return nil, true
		}
	}
	if a := known(); a != nil { // it has come since the caller looked
		f.mu.Unlock()
		return a, true
	}
	mine := &flight{done: make(chan struct{})}
	f.flights[k] = mine
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	mine.answer = f.resolve(ctx, q)
	if mine.answer != nil {
		keep(mine.answer)
	}
	f.mu.Lock()
	delete(f.flights, k)
	f.mu.Unlock()
	close(mine.done)
	return mine.answer, false
}

// resolve asks one resolver after the other. One that says that it cannot is as good as one that says nothing, but what
// it said is the answer if no other has a better one.
func (f *forwarder) resolve(ctx context.Context, q *question) (last *dns.Msg) {
	start := time.Now()
	limit := firstTry
	for range tries {
		servers, err := f.resolvers.list(time.Now())
		if err != nil {
			return last
		}
		for _, server := range servers {
			a, err := f.exchange(ctx, server, q, limit)
			if ctx.Err() != nil {
				return last
			}
			if err != nil {
				f.resolvers.blame(server, time.Now())
				continue
			}
			f.resolvers.praise(server)
			switch a.Rcode {
			case dns.RcodeSuccess, dns.RcodeNameError:
				f.metrics.seconds.Observe(time.Since(start).Seconds())
				return a
			}
			last = a
		}
		if last != nil {
			return last
		}
		limit = furtherTry
	}
	return nil
}

// exchange asks one resolver: by UDP, by TCP if the answer was cut, and without EDNS if that is what it does not understand.
func (f *forwarder) exchange(ctx context.Context, server netip.AddrPort, q *question, limit time.Duration) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	m := query(q)
	a, err := f.once(ctx, "udp", server, m)
	if err == nil && (a.Rcode == dns.RcodeFormatError || a.Rcode == dns.RcodeNotImplemented) {
		m.Extra = nil
		a, err = f.once(ctx, "udp", server, m)
	}
	if err == nil && a.Truncated {
		return f.once(ctx, "tcp", server, m)
	}
	return a, err
}

// query is the question as it goes on: nothing of the guest's but what it asks for.
func query(q *question) *dns.Msg {
	m := new(dns.Msg)
	m.RecursionDesired = true
	m.CheckingDisabled, m.AuthenticatedData = q.m.CheckingDisabled, q.m.AuthenticatedData
	m.Question = []dns.Question{q.m.Question[0]}
	m.SetEdns0(udpSize, q.edns != nil && q.edns.Do())
	return m
}

// once asks once, from a socket of its own: the kernel gives each another port, and takes datagrams only from the server.
func (f *forwarder) once(ctx context.Context, network string, server netip.AddrPort, m *dns.Msg) (*dns.Msg, error) {
	var id [2]byte
	rand.Read(id[:]) // never fails, see its documentation
	m.Id = binary.BigEndian.Uint16(id[:])
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c := dns.Conn{Conn: conn, UDPSize: answerBytes}
	if err := c.WriteMsg(m); err != nil {
		return nil, err
	}
	for {
		a, err := c.ReadMsg()
		switch {
		case err == nil && matches(m, a):
			return a, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case network == "tcp" || isNetwork(err):
			if err == nil {
				err = errors.New("the answer is to another question")
			}
			return nil, err
		}
		f.metrics.mismatched.Inc() // an answer may still come
	}
}

// isNetwork reports whether an error is the socket's and not the message's.
func isNetwork(err error) bool {
	var op net.Error
	return errors.As(err, &op) || errors.Is(err, net.ErrClosed)
}

// matches reports whether a is an answer to m.
func matches(m, a *dns.Msg) bool {
	return a.Response && a.Id == m.Id && a.Opcode == m.Opcode && len(a.Question) == 1 &&
		strings.EqualFold(a.Question[0].Name, m.Question[0].Name) &&
		a.Question[0].Qtype == m.Question[0].Qtype && a.Question[0].Qclass == m.Question[0].Qclass
}

// order puts the resolvers that have not answered lately behind those that have.
func order(servers []netip.AddrPort, silent map[netip.AddrPort]time.Time, now time.Time) []netip.AddrPort {
	out := slices.Clone(servers)
	slices.SortStableFunc(out, func(a, b netip.AddrPort) int {
		var x, y int
		if now.Before(silent[a]) {
			x = 1
		}
		if now.Before(silent[b]) {
			y = 1
		}
		return x - y
	})
	return out
}
