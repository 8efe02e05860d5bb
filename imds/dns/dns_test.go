package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestNamesOfTheVPC(t *testing.T) {
	never := newUpstream(t, func(_ bool, q *dns.Msg) *dns.Msg {
		t.Errorf("%s was asked for elsewhere", q.Question[0].Name)
		return nil
	})
	w := newWorld(t, ResolversAt(never.at))
	const soa = "\t60\tIN\tSOA\tns.ichiro-1.compute.internal. hostmaster.ichiro-1.compute.internal. 1 3600 600 86400 60"
	for _, c := range []struct {
		name, question string
		kind           uint16
		code           int
		answer, ns     string
	}{
		{"a private name has its address", "ip-172-31-0-11.ichiro-1.compute.internal", dns.TypeA, 0, "\t60\tIN\tA\t172.31.0.11", ""},
		{"in the spelling of the question", "IP-172-31-0-11.ichiro-1.Compute.Internal", dns.TypeA, 0, "\t60\tIN\tA\t172.31.0.11", ""},
		{"it has no IPv6 address", "ip-172-31-0-11.ichiro-1.compute.internal", dns.TypeAAAA, 0, "", soa},
		{"an unknown name does not exist", "db.ichiro-1.compute.internal", dns.TypeA, dns.RcodeNameError, "", soa},
		{"a public name has the private address", "ec2-203-0-113-7.ichiro-1.compute.amazonaws.com", dns.TypeA, 0, "\t60\tIN\tA\t172.31.0.11", ""},
		{"an address has its name", "11.0.31.172.in-addr.arpa", dns.TypePTR, 0, "\t60\tIN\tPTR\tip-172-31-0-11.ichiro-1.compute.internal.", ""},
		{"the zone has an SOA record", "ichiro-1.compute.internal", dns.TypeSOA, 0, soa, ""},
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(c.name+" by "+network, func(t *testing.T) {
				a := w.exchange(testVPC, network, ask(c.question, c.kind))
				if a.Rcode != c.code || !a.Authoritative || !a.RecursionAvailable || a.Question[0].Name != dns.Fqdn(c.question) {
					t.Errorf("got %v", a)
				}
				for _, s := range []struct {
					name, want string
					got        []dns.RR
				}{{"answer", c.answer, a.Answer}, {"authority", c.ns, a.Ns}} {
					text := ""
					for _, r := range s.got {
						text += strings.TrimPrefix(r.String(), r.Header().Name)
					}
					if text != s.want {
						t.Errorf("%s: got %q, want %q", s.name, text, s.want)
					}
				}
				if c.answer != "" && a.Answer[0].Header().Name != dns.Fqdn(c.question) {
					t.Errorf("the record is of %s, want the question's spelling", a.Answer[0].Header().Name)
				}
			})
		}
	}
}

func TestWhatIsRefused(t *testing.T) {
	never := newUpstream(t, func(_ bool, q *dns.Msg) *dns.Msg { t.Errorf("%v was asked for", q); return nil })
	w := newWorld(t, ResolversAt(never.at))
	for _, c := range []struct {
		name  string
		spoil func(*dns.Msg)
		code  int
	}{
		{"a zone transfer", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeRefused},
		{"another class", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		{"two questions", func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		{"no question", func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError},
		{"an update", func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		{"a question with an answer", func(m *dns.Msg) { m.Answer = []dns.RR{record("a. 1 IN A 192.0.2.1")} }, dns.RcodeFormatError},
		{"what only a cache could answer", func(m *dns.Msg) { m.RecursionDesired = false }, dns.RcodeRefused},
		{"a version of EDNS that there is not yet", func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
		{"two EDNS records", func(m *dns.Msg) { m.SetEdns0(1232, false); m.SetEdns0(1232, false) }, dns.RcodeFormatError},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := ask("www.example.com", dns.TypeA)
			c.spoil(m)
			if a := w.exchange(testVPC, "tcp", m); a.Rcode != c.code || len(a.Answer) != 0 {
				t.Errorf("got %v, want %s", a, dns.RcodeToString[c.code])
			}
		})
	}
	t.Run("ANY is answered with one small record", func(t *testing.T) {
		if a := w.exchange(testVPC, "udp", ask("www.example.com", dns.TypeANY)); len(a.Answer) != 1 || a.Answer[0].Header().Rrtype != dns.TypeHINFO || a.Len() > 100 {
			t.Errorf("got %v", a)
		}
	})
	t.Run("a VPC without a resolver", func(t *testing.T) {
		n := testNetwork(testVPC)
		n.Resolver = false
		w.publish(n)
		for _, name := range []string{"www.example.com", "ip-172-31-0-11.ichiro-1.compute.internal"} {
			if a := w.exchange(testVPC, "udp", ask(name, dns.TypeA)); a.Rcode != dns.RcodeRefused || len(a.Answer) != 0 {
				t.Errorf("%s: got %v", name, a)
			}
		}
		if a := w.exchange(otherVPC, "udp", ask("ip-172-31-0-11.ichiro-1.compute.internal", dns.TypeA)); len(a.Answer) != 1 {
			t.Errorf("the other VPC gets %v", a)
		}
	})
}

// An answer is passed on as it is, whatever records it has and wherever they lead.
func TestTheWorldsAnswersArePassedOn(t *testing.T) {
	up := newUpstream(t, func(_ bool, q *dns.Msg) *dns.Msg {
		a := new(dns.Msg)
		a.SetReply(q)
		a.SetEdns0(4096, true)
		a.Answer = []dns.RR{record("www.example.com. 300 IN CNAME a.example.net."), record("a.example.net. 30 IN A 10.0.0.1")}
		a.Ns = []dns.RR{record("example.net. 300 IN NS ns.example.net.")}
		a.Extra = append(a.Extra, record("ns.example.net. 300 IN A 192.0.2.53"))
		return a
	})
	w := newWorld(t, ResolversAt(up.at))
	m := ask("wWw.Example.com", dns.TypeA)
	a := w.exchange(testVPC, "udp", m)
	if a.Id != m.Id || a.Question[0].Name != "wWw.Example.com." || len(a.Answer) != 2 || len(a.Ns) != 1 || len(a.Extra) != 1 || a.IsEdns0() != nil {
		t.Errorf("got %v", a)
	}
	q := <-up.asked
	if q.Id == m.Id { // 1 in 65,536
		t.Logf("the question went on under its own ID")
	}
	if o := q.IsEdns0(); o == nil || o.UDPSize() != udpSize || o.Do() || !q.RecursionDesired {
		t.Errorf("the resolver was asked %v", q)
	}
	m.SetEdns0(4096, true)
	if a := w.exchange(testVPC, "udp", m); a.IsEdns0() == nil || !a.IsEdns0().Do() || a.IsEdns0().UDPSize() != udpSize {
		t.Errorf("got %v, want EDNS where it was asked for", a)
	}
	if q := <-up.asked; !q.IsEdns0().Do() {
		t.Errorf("the resolver was asked %v, want DNSSEC as the guest", q)
	}
}

func TestAnswersAreKeptForTheirTimeAndForOneVPC(t *testing.T) {
	up := newUpstream(t, func(_ bool, q *dns.Msg) *dns.Msg {
		if strings.HasPrefix(q.Question[0].Name, "www.") {
			return address(60)(false, q)
		}
		a := new(dns.Msg)
		a.SetRcode(q, dns.RcodeNameError)
		if strings.HasPrefix(q.Question[0].Name, "no.") {
			a.Ns = []dns.RR{record("example.com. 3600 IN SOA ns.example.com. a.example.com. 1 2 3 4 20")}
		}
		return a
	})
	w := newWorld(t, ResolversAt(up.at))
	var mu sync.Mutex
	now := time.Now()
	w.server.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	wait := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
	for _, c := range []struct {
		name, question string
		vpc            cloud.VPCID
		after          time.Duration
		asked          int // of the upstream, in all
		ttl            uint32
	}{
		{"the first time it is asked for", "www.example.com", testVPC, 0, 1, 60},
		{"then it is kept", "www.example.com", testVPC, 0, 1, 60},
		{"whatever the spelling, and grows older", "WWW.example.com", testVPC, 45 * time.Second, 1, 15},
		{"another VPC does not see it", "www.example.com", otherVPC, 0, 2, 60},
		{"when its time is up it is asked for again", "www.example.com", testVPC, 15 * time.Second, 3, 60},
		{"a name that does not exist", "no.example.com", testVPC, 0, 4, 0},
		{"is kept for as long as its zone says", "no.example.com", testVPC, 19 * time.Second, 4, 0},
		{"and no longer", "no.example.com", testVPC, time.Second, 5, 0},
		{"one whose zone does not say so", "odd.example.com", testVPC, 0, 6, 0},
		{"is not kept", "odd.example.com", testVPC, 0, 7, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			wait(c.after)
			a := w.exchange(c.vpc, "udp", ask(c.question, dns.TypeA))
			if len(up.asked) != c.asked {
				t.Errorf("the resolver was asked %d times, want %d", len(up.asked), c.asked)
			}
			if c.ttl > 0 && (len(a.Answer) != 1 || a.Answer[0].Header().Ttl != c.ttl) {
				t.Errorf("got %v, want a TTL of %d", a, c.ttl)
			}
			if c.ttl == 0 && a.Rcode != dns.RcodeNameError {
				t.Errorf("got %v, want a name error", a)
			}
		})
	}
}

func TestALargeAnswerComesByTCP(t *testing.T) {
	up := newUpstream(t, func(tcp bool, q *dns.Msg) *dns.Msg {
		a := new(dns.Msg)
		a.SetReply(q)
		for i := range 200 {
			a.Answer = append(a.Answer, record(fmt.Sprintf("www.example.com. 60 IN A 192.0.2.%d", i)))
		}
		if !tcp {
			a.Truncate(udpSize)
		}
		return a
	})
	w := newWorld(t, ResolversAt(up.at))
	if a := w.exchange(testVPC, "tcp", ask("www.example.com", dns.TypeA)); len(a.Answer) != 200 || a.Truncated {
		t.Errorf("by TCP: %d records, truncated %t; want 200", len(a.Answer), a.Truncated)
	}
	if a := w.exchange(testVPC, "udp", ask("www.example.com", dns.TypeA)); !a.Truncated || a.Len() > dns.MinMsgSize {
		t.Errorf("by UDP: %d bytes, truncated %t; want at most 512 and that it is cut", a.Len(), a.Truncated)
	}
	m := ask("www.example.com", dns.TypeA)
	m.SetEdns0(65535, false)
	if a := w.exchange(testVPC, "udp", m); !a.Truncated || a.Len() > udpSize || a.Len() < udpSize/2 {
		t.Errorf("by UDP with EDNS: %d bytes, truncated %t; want at most %d and that it is cut", a.Len(), a.Truncated, udpSize)
	}
	if n := len(up.asked); n != 2 {
		t.Errorf("the resolver was asked %d times, want by UDP and by TCP", n)
	}
}

func TestAnotherResolverAnswersForOneThatDoesNot(t *testing.T) {
	good := newUpstream(t, address(0))
	unable := newUpstream(t, func(_ bool, q *dns.Msg) *dns.Msg {
		a := new(dns.Msg)
		a.SetRcode(q, dns.RcodeServerFailure)
		return a
	})
	silent := newUpstream(t, func(bool, *dns.Msg) *dns.Msg { return nil })
	closed := netip.MustParseAddrPort("127.0.0.1:1") // the kernel says that nobody is there
	forger := newUpstream(t, func(_ bool, q *dns.Msg) *dns.Msg {
		a := address(0)(false, q)
		a.Id++
		return a
	})
	old := newUpstream(t, func(_ bool, q *dns.Msg) *dns.Msg {
		if q.IsEdns0() != nil {
			a := new(dns.Msg)
			a.SetRcode(q, dns.RcodeFormatError)
			return a
		}
		return address(0)(false, q)
	})
	for _, c := range []struct {
		name string
		at   []netip.AddrPort
		code int
	}{
		{"one that is not there", []netip.AddrPort{closed, good.at}, 0},
		{"one that is silent", []netip.AddrPort{silent.at, good.at}, 0},
		{"one that cannot", []netip.AddrPort{unable.at, good.at}, 0},
		{"one that answers another question", []netip.AddrPort{forger.at, good.at}, 0},
		{"one that does not know EDNS answers without", []netip.AddrPort{old.at}, 0},
		{"when none can, that is the answer", []netip.AddrPort{unable.at}, dns.RcodeServerFailure},
		{"when none is there, that is the answer", []netip.AddrPort{closed}, dns.RcodeServerFailure},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, ResolversAt(c.at...))
			a := w.exchange(testVPC, "udp", ask("www.example.com", dns.TypeA))
			if a.Rcode != c.code || c.code == 0 && len(a.Answer) != 1 {
				t.Errorf("got %v", a)
			}
		})
	}
}

func TestASilentResolverIsAskedLast(t *testing.T) {
	good, silent := newUpstream(t, address(0)), newUpstream(t, func(bool, *dns.Msg) *dns.Msg { return nil })
	w := newWorld(t, ResolversAt(silent.at, good.at))
	for range 20 {
		w.exchange(testVPC, "udp", ask("www.example.com", dns.TypeA))
	}
	if n := len(silent.asked); n != 1 {
		t.Errorf("the silent one was asked %d times, want once", n)
	}
}

func TestTheResolversAreReadAgainWhenTheyChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	r := ResolversOf(path)
	if _, err := r.list(time.Now()); err == nil {
		t.Error("no error although there is no file")
	}
	for _, c := range []struct{ name, text, want string }{
		{"as the installer writes it", "# by hand\nsearch example.com\nnameserver 192.0.2.1\noptions edns0\n", "[192.0.2.1:53]"},
		{"as DHCP writes it", "nameserver 192.0.2.2\nnameserver 2001:db8::2\n", "[192.0.2.2:53 [2001:db8::2]:53]"},
		{"with more than count", "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n", "[192.0.2.1:53 192.0.2.2:53 192.0.2.3:53]"},
		{"emptied by somebody who is about to write it", "", "[192.0.2.1:53 192.0.2.2:53 192.0.2.3:53]"},
		{"and written", "nameserver 192.0.2.9\n", "[192.0.2.9:53]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := r.list(time.Now())
			if err != nil || fmt.Sprint(got) != c.want {
				t.Errorf("got %v, %v; want %s", got, err, c.want)
			}
		})
	}
}

func TestQuestionsThatAreOneAreAskedOnce(t *testing.T) {
	hold := make(chan struct{})
	up := newUpstream(t, func(_ bool, q *dns.Msg) *dns.Msg { <-hold; return address(60)(false, q) })
	w := newWorld(t, ResolversAt(up.at))
	var asking sync.WaitGroup
	for range 20 {
		asking.Go(func() {
			if a := w.exchange(testVPC, "udp", ask("www.example.com", dns.TypeA)); len(a.Answer) != 1 {
				t.Errorf("got %v", a)
			}
		})
	}
	<-up.asked
	for w.underWay() < 20 { // all wait for the one, or are about to
	}
	close(hold)
	asking.Wait()
	if n := len(up.asked); n != 0 {
		t.Errorf("the resolver was asked %d more times", n)
	}
	if n := w.counted(joined) + w.counted(cached); n != 19 {
		t.Errorf("%v were answered together with another or after it, want 19", n)
	}
}

func (w *world) underWay() int {
	w.server.underWay.mu.Lock()
	defer w.server.underWay.mu.Unlock()
	return w.server.underWay.total
}

// A guest that asks for more than it may waits for nobody's answers but its own.
func TestAGuestCannotTakeTheResolverFromAnother(t *testing.T) {
	up := newUpstream(t, func(_ bool, q *dns.Msg) *dns.Msg {
		if strings.HasPrefix(q.Question[0].Name, "slow") {
			return nil
		}
		return address(0)(false, q)
	})
	w := newWorld(t, ResolversAt(up.at))
	c, err := net.Dial("udp4", w.at[testVPC])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := 0; w.counted(limited) == 0; i++ {
		p, err := ask(fmt.Sprintf("slow%d.example.com", i), dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		c.Write(p)
	}
	if n := w.underWay(); n > maxUnderWay {
		t.Errorf("%d are under way, want at most %d", n, maxUnderWay)
	}
	if a := w.exchange(otherVPC, "udp", ask("www.example.com", dns.TypeA)); len(a.Answer) != 1 {
		t.Errorf("another guest gets %v", a)
	}
	if a := w.exchange(testVPC, "udp", ask("ip-172-31-0-11.ichiro-1.compute.internal", dns.TypeA)); len(a.Answer) != 1 {
		t.Errorf("for a name of the VPC the guest itself gets %v", a)
	}
}

func TestAGuestHasSoManyConnections(t *testing.T) {
	w := newWorld(t, ResolversAt(newUpstream(t, address(0)).at))
	var open []net.Conn
	for range maxConnections {
		c, err := net.Dial("tcp4", w.at[testVPC])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	talk := func(c net.Conn) error {
		d := dns.Conn{Conn: c}
		if err := d.WriteMsg(ask("www.example.com", dns.TypeA)); err != nil {
			return err
		}
		_, err := d.ReadMsg()
		return err
	}
	for i, c := range open {
		for range 3 { // one after the other on each
			if err := talk(c); err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
		}
	}
	c, err := net.Dial("tcp4", w.at[testVPC])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := talk(c); err == nil {
		t.Errorf("connection %d is served", maxConnections)
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	c := newCache(10 << 10)
	now := time.Now()
	k := func(i int) key { return key{vpc: testVPC, name: fmt.Sprintf("n%d.example.com.", i), kind: dns.TypeA} }
	for i := range 1000 {
		c.put(k(i), address(60)(false, ask(k(i).name, dns.TypeA)), now)
		if c.get(k(0), now) == nil {
			t.Fatalf("what is used all the time is dropped after %d others", i)
		}
	}
	if c.size() > c.limit || c.size() < c.limit/2 || len(c.entries) != c.recent.Len() {
		t.Errorf("%d bytes in %d entries, list of %d; limit %d", c.size(), len(c.entries), c.recent.Len(), c.limit)
	}
	if c.get(k(500), now) != nil || c.get(k(999), now) == nil {
		t.Error("not what was used last is kept")
	}
	for i := range 1000 {
		c.get(k(i), now.Add(time.Minute))
	}
	if c.size() != 0 || len(c.entries) != 0 {
		t.Errorf("%d bytes are left when all have expired", c.size())
	}
}

// lines counts what is logged, from info on.
type lines struct {
	slog.Handler
	n *atomic.Int32
}

func (l lines) Handle(context.Context, slog.Record) error { l.n.Add(1); return nil }
func (l lines) Enabled(context.Context, slog.Level) bool  { return true }
func (l lines) WithAttrs([]slog.Attr) slog.Handler        { return l }

func TestAGuestCannotFillTheLog(t *testing.T) {
	var n atomic.Int32
	root := bundle.Root(t.TempDir())
	index := bundle.NewIndex(root)
	defer index.Close()
	s := New(index, bundle.NewNetworks(root), ResolversAt(), slog.New(lines{n: &n}))
	for range 1000 {
		q, _ := s.read(testVPC, packed(t, ask("example.com.", dns.TypeA)), "udp")
		if p, ok := s.immediate(q); !ok || p[3]&0xf != dns.RcodeServerFailure {
			t.Fatalf("a question in a VPC that is not known is answered with % x", p)
		}
	}
	if n.Load() != 1 {
		t.Errorf("1000 questions made %d lines in the log, want 1", n.Load())
	}
}

func packed(t *testing.T, m *dns.Msg) []byte {
	t.Helper()
	p, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func FuzzQuestion(f *testing.F) {
	for _, m := range []*dns.Msg{ask("www.example.com", dns.TypeA), ask("ip-172-31-0-11.ichiro-1.compute.internal", dns.TypeA), ask("1.0.31.172.in-addr.arpa", dns.TypePTR), ask(".", dns.TypeANY)} {
		p, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p)
		m.SetEdns0(4096, true)
		p, _ = m.Pack()
		f.Add(p)
	}
	f.Add([]byte{})
	w := newWorld(f, ResolversAt(netip.MustParseAddrPort("127.0.0.1:1")))
	f.Fuzz(func(t *testing.T, packet []byte) {
		q, p := w.server.read(testVPC, packet, "udp")
		if q != nil {
			p, _ = w.server.immediate(q)
		}
		if p == nil {
			return
		}
		a := new(dns.Msg)
		if err := a.Unpack(p); err != nil || !a.Response || len(p) > udpSize {
			t.Errorf("% x is answered with % x: %v", packet, p, err)
		}
		if packet[2]&0x80 != 0 {
			t.Errorf("the answer % x is answered", packet)
		}
	})
}

// FuzzAnswer is about what the host's resolvers send, which is no safer than what guests do.
func FuzzAnswer(f *testing.F) {
	a := address(60)(false, ask("www.example.com", dns.TypeA))
	p, err := a.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p)
	m := ask("www.example.com", dns.TypeA)
	q := &question{vpc: testVPC, transport: "udp", m: m}
	c := newCache(1 << 20)
	f.Fuzz(func(t *testing.T, packet []byte) {
		a := new(dns.Msg)
		if a.Unpack(packet) != nil || !matches(m, a) {
			return
		}
		now := time.Now()
		c.put(q.key(), a, now)
		if kept := c.get(q.key(), now); kept != nil {
			q.pass(kept)
		}
		if p := q.pass(a); len(p) > dns.MinMsgSize {
			t.Errorf("an answer of %d bytes", len(p))
		}
	})
}
