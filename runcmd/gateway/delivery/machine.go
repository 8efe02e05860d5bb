package delivery

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/enrol"
)

// machines bounds the connections of machines that are no guests, all together: a hundred may be behind one address, and whoever
// knows of the listener may try.
const machines = 12 << 10

// bounded is a listener that closes connections beyond so many.
type bounded struct {
	net.Listener
	open atomic.Int64
}

// Accept returns the next connection that may come in.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if b.open.Add(1) > machines {
			b.open.Add(-1)
			c.Close()
			continue
		}
		return &admitted{Conn: c, leave: sync.OnceFunc(func() { b.open.Add(-1) })}, nil
	}
}

// ServeMachines accepts the agents of machines that are no guests until l is closed. Who they are their keys tell: config must
// ask for them. One that has no name yet registers.
func (g *Gateway) ServeMachines(l net.Listener, config *tls.Config, register http.Handler) error {
	srv := g.server(g.machine)
	srv.Handler.(*http.ServeMux).Handle("POST "+enrol.Path, register)
	return srv.Serve(tls.NewListener(&bounded{Listener: g.idle.Listener(l)}, config))
}

// machine tells whose a connection is, by its key; it has answered already if nobody's.
func (g *Gateway) machine(w http.ResponseWriter, r *http.Request) (cloud.InstanceID, netip.Addr, bool) {
	refuse := func() (cloud.InstanceID, netip.Addr, bool) {
		http.Error(w, "this machine is not registered", http.StatusForbidden)
		return "", netip.Addr{}, false
	}
	key, shown := enrol.Shown(r.TLS)
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if !shown || err != nil {
		return refuse()
	}
	id := cloud.InstanceID(r.TLS.PeerCertificates[0].Subject.CommonName)
	if !cloud.WellFormed(id, cloud.ManagedPrefix) {
		return refuse()
	}
	if n, err := g.root.Instance(id).Node(); err != nil || n.Key != key {
		g.log.Debug("a machine is not who it says", "instance", id, "addr", from.Addr(), "err", err)
		return refuse()
	}
	return id, from.Addr().Unmap(), true
}
