package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/handover"
)

const (
	testVPC  = cloud.VPCID("vpc-00000000000000001")
	otherVPC = cloud.VPCID("vpc-00000000000000002")
)

func testNetwork(id cloud.VPCID) bundle.Network {
	return bundle.Network{
		VPC: id, Region: "ichiro-1", Resolver: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("172.31.0.0/16")},
		Public: []cloud.PublicAddress{{Public: netip.MustParseAddr("203.0.113.7"), Private: netip.MustParseAddr("172.31.0.11")}},
	}
}

// upstream is a name server on the loopback.
type upstream struct {
	at    netip.AddrPort
	asked chan *dns.Msg // what it was asked, by whatever way
}

// newUpstream serves UDP and TCP at one port; answer may return nil, which is silence.
func newUpstream(t testing.TB, answer func(tcp bool, q *dns.Msg) *dns.Msg) *upstream {
	t.Helper()
	p, l := sockets(t)
	u := &upstream{at: p.LocalAddr().(*net.UDPAddr).AddrPort(), asked: make(chan *dns.Msg, 1024)}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		u.asked <- q.Copy()
		_, tcp := w.RemoteAddr().(*net.TCPAddr)
		if a := answer(tcp, q); a != nil {
			w.WriteMsg(a)
		}
	})
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	for _, s := range []*dns.Server{{PacketConn: p, Handler: handler}, {Listener: l, Handler: handler}} {
		ready := make(chan struct{})
		s.NotifyStartedFunc = func() { close(ready) }
		running.Go(func() { s.ActivateAndServe() })
		<-ready
		t.Cleanup(func() { s.Shutdown() })
	}
	return u
}

// sockets opens one of UDP and one of TCP at the same port.
func sockets(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	for {
		p, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp4", p.LocalAddr().String())
		if err == nil {
			return p, l
		}
		p.Close() // somebody else has the port
	}
}

// address answers A questions with an address.
func address(ttl uint32) func(bool, *dns.Msg) *dns.Msg {
	return func(_ bool, q *dns.Msg) *dns.Msg {
		a := new(dns.Msg)
		a.SetReply(q)
		a.Answer = append(a.Answer, record(fmt.Sprintf("%s %d IN A 192.0.2.1", q.Question[0].Name, ttl)))
		return a
	}
}

func record(s string) dns.RR {
	r, err := dns.NewRR(s)
	if err != nil {
		panic(err)
	}
	return r
}

// world is a resolver for two VPCs that have the same addresses.
type world struct {
	t      testing.TB
	server *Server
	root   bundle.Root
	at     map[cloud.VPCID]string
}

func newWorld(t testing.TB, resolvers *Resolvers) *world {
	t.Helper()
	w := &world{t: t, root: bundle.Root(t.TempDir()), at: map[cloud.VPCID]string{}}
	if err := os.MkdirAll(w.root.Networks(), 0o755); err != nil {
		t.Fatal(err)
	}
	index := bundle.NewIndex(w.root)
	t.Cleanup(func() { index.Close() })
	w.server = New(index, bundle.NewNetworks(w.root), resolvers, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	var open []interface{ Close() error }
	for _, id := range []cloud.VPCID{testVPC, otherVPC} {
		w.publish(testNetwork(id))
		p, l := sockets(t)
		w.at[id] = p.LocalAddr().String()
		w.server.Add(ctx, handover.Socket{VPC: id, Name: "udp", Packets: p.(*net.UDPConn)})
		w.server.Add(ctx, handover.Socket{VPC: id, Name: "tcp", Listener: l})
		open = append(open, p, l)
	}
	t.Cleanup(func() {
		cancel()
		for _, c := range open {
			c.Close()
		}
		if err := w.server.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) publish(n bundle.Network) {
	w.t.Helper()
	if err := bundle.Write(w.root.Network(n.VPC), n, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// counted returns how many questions by UDP had a result.
func (w *world) counted(result string) (n float64) {
	r := prometheus.NewRegistry()
	r.MustRegister(w.server.metrics.queries)
	families, err := r.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := m.GetLabel() // in order of their names
			if labels[0].GetValue() == result && labels[1].GetValue() == "udp" {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// ask makes a message as a guest's stub does.
func ask(name string, kind uint16) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), kind)
	return m
}

// exchange asks the resolver of a VPC.
func (w *world) exchange(vpc cloud.VPCID, network string, m *dns.Msg) *dns.Msg {
	w.t.Helper()
	c := dns.Client{Net: network, Timeout: 10 * time.Second}
	a, _, err := c.Exchange(m, w.at[vpc])
	if err != nil {
		w.t.Fatalf("%s %s: %v", network, m.Question[0].String(), err)
	}
	a.Compress = true // as it came: Len counts so
	return a
}
