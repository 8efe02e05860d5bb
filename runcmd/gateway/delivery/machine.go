package delivery

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/enrol"
)

const (
	// strangers bounds the connections of whom nobody knows yet, all together, and sameStrangers those from one address: whoever knows
	// of the listener may try, and a hundred machines may be behind one address. They have ten seconds to show a key.
	strangers     = 12 << 10
	sameStrangers = 10 << 10
)

// anteroom is a listener whose connections are strangers' until they are known to be a machine's, of which each has so many.
type anteroom struct {
	net.Listener

	mu    sync.Mutex
	open  int
	from  map[netip.Addr]int
	known map[cloud.InstanceID]int
}

func newAnteroom(l net.Listener) *anteroom {
	return &anteroom{Listener: l, from: map[netip.Addr]int{}, known: map[cloud.InstanceID]int{}}
}

// visitor is a connection that came through an anteroom.
type visitor struct {
	net.Conn
	room *anteroom
	addr netip.Addr

	machine cloud.InstanceID // "" while it is not known; the room's lock guards both
	left    bool
}

// Accept returns the next connection that may come in.
func (a *anteroom) Accept() (net.Conn, error) {
	for {
		c, err := a.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err != nil || !a.enter(network(from.Addr())) {
			c.Close()
			continue
		}
		return &visitor{Conn: c, room: a, addr: network(from.Addr())}, nil
	}
}

// network is what counts as one address: of IPv6 whoever has one has a /64 of them.
func network(a netip.Addr) netip.Addr {
	if a = a.Unmap().WithZone(""); a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

func (a *anteroom) enter(from netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open >= strangers || a.from[from] >= sameStrangers {
		return false
	}
	a.open++
	a.from[from]++
	return true
}

// leave forgets a connection where it was counted. The lock is held.
func (v *visitor) leave() {
	a := v.room
	if v.machine == "" {
		a.open--
		if a.from[v.addr]--; a.from[v.addr] == 0 {
			delete(a.from, v.addr)
		}
		return
	}
	if a.known[v.machine]--; a.known[v.machine] == 0 {
		delete(a.known, v.machine)
	}
}

// NetConn returns the connection within.
func (v *visitor) NetConn() net.Conn { return v.Conn }

// Close ends the connection.
func (v *visitor) Close() error {
	v.room.mu.Lock()
	if !v.left {
		v.left = true
		v.leave()
	}
	v.room.mu.Unlock()
	return v.Conn.Close()
}

// letIn counts the connection as a machine's from now on; false if that has enough.
func (v *visitor) letIn(id cloud.InstanceID) bool {
	a := v.room
	a.mu.Lock()
	defer a.mu.Unlock()
	if v.left || a.known[id] >= perAddress {
		return false
	}
	v.leave()
	v.machine = id
	a.known[id]++
	return true
}

// visiting is the key under which a request's context has its visitor.
type visiting struct{}

// ServeMachines accepts the agents of machines that are no guests until l is closed. Who they are their keys tell: config must
// ask for them. One that has no name yet registers.
func (g *Gateway) ServeMachines(l net.Listener, config *tls.Config, register http.Handler) error {
	srv := g.server(g.machine)
	srv.Handler.(*http.ServeMux).Handle("POST "+enrol.Path, register)
	srv.SetKeepAlivesEnabled(false) // who was answered goes: only an agent's websocket stays
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, visiting{}, c.(*tls.Conn).NetConn())
	}
	return srv.Serve(tls.NewListener(newAnteroom(g.idle.Listener(l)), config))
}

var errStranger = errors.New("the machine is not known by this key")

// machine tells whose a connection is, by its key; it has answered already if nobody's.
func (g *Gateway) machine(w http.ResponseWriter, r *http.Request) (cloud.InstanceID, netip.Addr, bool) {
	id, from, err := g.shown(r)
	if err != nil {
		g.log.Debug("a machine is not who it says", "instance", id, "addr", from, "err", err)
		http.Error(w, "this machine is not registered", http.StatusForbidden)
		return "", netip.Addr{}, false
	}
	if v, ok := r.Context().Value(visiting{}).(*visitor); !ok || !v.letIn(id) {
		http.Error(w, "this machine has too many connections", http.StatusServiceUnavailable)
		return "", netip.Addr{}, false
	}
	return id, from, true
}

// shown returns the machine whose key a request has come with.
func (g *Gateway) shown(r *http.Request) (id cloud.InstanceID, from netip.Addr, err error) {
	key, shown := enrol.Shown(r.TLS)
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if !shown || err != nil {
		return "", from, errStranger
	}
	from = at.Addr().Unmap()
	if id = cloud.InstanceID(r.TLS.PeerCertificates[0].Subject.CommonName); !cloud.WellFormed(id, cloud.ManagedPrefix) {
		return "", from, errStranger
	}
	n, err := g.root.Instance(id).Node()
	if err == nil && n.Key != key {
		err = errStranger
	}
	return id, from, err
}
