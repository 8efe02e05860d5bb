package wire

import (
	"bufio"
	"encoding/binary"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// gate stands between an agent's websocket and its connection, and lets through no more than the frame that has begun. So it is
// known when nothing is left that somebody must wait for, which the websocket's own buffer would hide; and pings and pongs it takes
// out and answers itself, for which somebody would have to be in Receive. What else is in a frame is the websocket's affair.
type gate struct {
	net.Conn
	ws   *websocket.Conn
	rest sleeper // nil if the connection can not be laid down

	page   *page  // nil while it is empty
	at, to int    // in page, what has come and was not let through
	left   uint64 // of the frame that is let through
	err    error  // with which it has ended
}

// sleeper is a connection that can be laid down while nothing comes: package idle's.
type sleeper interface {
	Try(read func() (int, error)) (int, error)
	Await(resume func(), until time.Time) bool
}

type page [4096]byte

var pages = sync.Pool{New: func() any { return new(page) }}

// hijacker puts a gate into the connection that a request is upgraded to.
type hijacker struct {
	http.ResponseWriter
	gate *gate
}

// Hijack is net/http's.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.gate = &gate{Conn: c, rest: sleeperIn(c)}
	return h.gate, rw, nil
}

// sleeperIn finds the connection that can be laid down within those that are wrapped around it.
func sleeperIn(c net.Conn) sleeper {
	for {
		if s, ok := c.(sleeper); ok {
			return s
		}
		outer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = outer.NetConn()
	}
}

// head is what the first bytes of a frame say (RFC 6455, 5.2).
type head struct {
	size uint64 // of the frame, these bytes included
	sign bool   // it is a ping or a pong as it should be
}

// headOf reads the head of a frame; false if more is needed.
func headOf(b []byte) (head, bool) {
	const final, masked = 0x80, 0x80
	if len(b) < 2 {
		return head{}, false
	}
	before, size := 2, uint64(b[1]&^masked)
	switch {
	case size == 126 && len(b) >= 4:
		before, size = 4, uint64(binary.BigEndian.Uint16(b[2:]))
	case size == 127 && len(b) >= 10:
		before, size = 10, binary.BigEndian.Uint64(b[2:])
	case size > 125:
		return head{}, false
	}
	op := b[0] &^ final
	sign := (op == websocket.PingMessage || op == websocket.PongMessage) && b[0]&final != 0 && b[1]&masked != 0 && before == 2
	if b[1]&masked != 0 {
		before += 4
	}
	return head{min(size, 1<<62) + uint64(before), sign}, true // one that claims more is refused for its size
}

func (g *gate) held() []byte {
	if g.page == nil {
		return nil
	}
	return g.page[g.at:g.to]
}

// fill adds to what has come, by a read that returns 0 if it may not wait and nothing has.
func (g *gate) fill(read func([]byte) (int, error)) (int, error) {
	if g.page == nil {
		g.page = pages.Get().(*page)
		g.at, g.to = 0, 0
	}
	if g.at > 0 {
		g.at, g.to = 0, copy(g.page[:], g.page[g.at:g.to])
	}
	n, err := read(g.page[g.to:])
	g.to += n
	g.drop(0)
	return n, err
}

// drop forgets the first n bytes of what has come, and gives the page back when it is empty.
func (g *gate) drop(n int) {
	if g.at += n; g.at == g.to {
		pages.Put(g.page)
		g.page = nil
	}
}

// answer takes a ping or a pong out of what has come.
func (g *gate) answer(size int) error {
	frame := g.held()[:size]
	mask, data := frame[2:6], make([]byte, size-6)
	for n := range data {
		data[n] = frame[6+n] ^ mask[n%4]
	}
	heed := g.ws.PingHandler()
	if frame[0]&0xf == websocket.PongMessage {
		heed = g.ws.PongHandler()
	}
	g.drop(size)
	g.err = heed(string(data))
	return g.err
}

// Read lets through what belongs to one frame.
func (g *gate) Read(p []byte) (int, error) {
	for g.left == 0 {
		if g.err != nil {
			return 0, g.err
		}
		switch h, ok := headOf(g.held()); {
		case ok && !h.sign:
			g.left = h.size
		case ok && uint64(len(g.held())) >= h.size:
			g.answer(int(h.size))
		default:
			if _, err := g.fill(g.Conn.Read); err != nil {
				if g.page == nil {
					return 0, err
				}
				g.left = uint64(len(g.held())) // the beginning of a frame, which may be wrong already
			}
		}
	}
	p = p[:min(uint64(len(p)), g.left)]
	if g.page == nil && len(p) >= len(page{}) {
		n, err := g.Conn.Read(p)
		g.left -= uint64(n)
		return n, err
	}
	for g.page == nil {
		if _, err := g.fill(g.Conn.Read); err != nil {
			return 0, err
		}
	}
	n := copy(p, g.held())
	g.drop(n)
	g.left -= uint64(n)
	return n, nil
}

// idle is Conn.Idle.
func (g *gate) idle(resume func()) bool {
	if g.rest == nil || g.left > 0 {
		return false
	}
	try := func(p []byte) (int, error) {
		return g.rest.Try(func() (int, error) { return g.Conn.Read(p) })
	}
	for g.err == nil {
		h, ok := headOf(g.held())
		switch {
		case ok && h.sign && uint64(len(g.held())) >= h.size:
			g.answer(int(h.size))
		case g.page != nil:
			return false // a frame has begun
		default:
			n, err := g.fill(try)
			if err != nil {
				return false // Read finds the same
			}
			if n == 0 {
				return g.rest.Await(resume, time.Now().Add(silence))
			}
		}
	}
	return false
}
