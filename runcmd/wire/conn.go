package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

const (
	// pingEvery and silence find a peer that has vanished without a word: three pings may be lost.
	pingEvery = 15 * time.Second
	silence   = 50 * time.Second
	// writeWait bounds how long a peer that does not read may hold up a writer.
	writeWait = 10 * time.Second
)

// Conn carries frames. One goroutine may send while another receives.
type Conn struct {
	ws     *websocket.Conn
	gate   *gate // nil on the agent's side
	ponged atomic.Pointer[func()]
	max    int64

	before, last []byte // in which lies what the last two calls of Receive have returned
}

var pool sync.Pool // of write buffers: an idle connection holds none

// Dialer makes the connection below a websocket.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Dial connects an agent to the gateway at url, over the network.
func Dial(ctx context.Context, url string) (*Conn, error) { return Network.Dial(ctx, url) }

// Dial connects an agent to the gateway at url.
func (by Dialer) Dial(ctx context.Context, url string) (*Conn, error) {
	d := websocket.Dialer{
		NetDialContext:   by,
		HandshakeTimeout: 5 * time.Second,
		ReadBufferSize:   4096,
		WriteBufferSize:  MaxData + 1024, // an Output frame leaves in one write
	}
	ws, resp, err := d.DialContext(ctx, url, nil)
	if err != nil {
		if resp != nil {
			return nil, fmt.Errorf("connect to %s: %s", url, resp.Status)
		}
		return nil, fmt.Errorf("connect to %s: %w", url, err)
	}
	return newConn(ws, MaxToAgent), nil
}

var upgrader = websocket.Upgrader{
	HandshakeTimeout: 5 * time.Second,
	ReadBufferSize:   128, // held for life; what is larger is read around it
	WriteBufferSize:  1024,
	WriteBufferPool:  &pool,
	// A browser in a guest has no business here, wherever its page came from.
	CheckOrigin: func(r *http.Request) bool { return r.Header.Get("Origin") == "" },
}

// Upgrade turns an agent's HTTP request into a connection. On an error it has answered already.
func Upgrade(w http.ResponseWriter, r *http.Request) (*Conn, error) {
	h := &hijacker{ResponseWriter: w}
	ws, err := upgrader.Upgrade(h, r, nil)
	if err != nil {
		return nil, err
	}
	c := newConn(ws, MaxToGateway)
	c.gate, h.gate.ws = h.gate, ws
	return c, nil
}

func newConn(ws *websocket.Conn, max int64) *Conn {
	c := &Conn{ws: ws, max: max}
	ws.SetReadLimit(max)
	ws.SetReadDeadline(time.Now().Add(silence))
	alive := func() { ws.SetReadDeadline(time.Now().Add(silence)) }
	ws.SetPongHandler(func(string) error {
		alive()
		if f := c.ponged.Load(); f != nil {
			(*f)()
		}
		return nil
	})
	ws.SetPingHandler(func(data string) error {
		alive()
		err := ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(writeWait))
		if errors.Is(err, websocket.ErrCloseSent) {
			return nil
		}
		return err
	})
	return c
}

// Ping keeps the connection known to be alive until ctx ends; one side does it. It closes the
// connection when it can not.
func (c *Conn) Ping(ctx context.Context) {
	t := time.NewTicker(pingEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if c.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeWait)) != nil {
				c.Close()
				return
			}
		}
	}
}

// Probe asks the other side for a sign of life, of which OnPong's function is then told. It does not wait.
func (c *Conn) Probe() error {
	return c.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeWait))
}

// OnPong has f called when the other side has answered a probe or a ping. Somebody must be in Receive, which calls it: f must
// not block.
func (c *Conn) OnPong(f func()) { c.ponged.Store(&f) }

// headMost is more than stands before the bytes of an output.
const headMost = 128

// Send writes one frame. After an error the connection is of no more use.
func (c *Conn) Send(f Frame) error {
	size := 0
	if out, ok := f.(*Output); ok {
		size = len(out.Data) + headMost
	}
	b, err := Append(take(size), f)
	if err == nil {
		err = c.write(b)
	}
	give(b)
	return err
}

// write sends a message.
func (c *Conn) write(b []byte) error {
	if err := c.ws.SetWriteDeadline(time.Now().Add(writeWait)); err != nil {
		return err
	}
	return c.ws.WriteMessage(websocket.BinaryMessage, b)
}

// Receive returns the next frame. What it returned two calls ago is overwritten, so one frame may be
// worked on while the next arrives.
func (c *Conn) Receive() (Frame, error) {
	b, err := c.read()
	if err != nil {
		return nil, err
	}
	if len(b) > 0 && (b[0] == kindOutput || b[0] == kindAck) {
		return Decode(b)
	}
	decode := decodeApart
	if c.gate != nil && c.gate.rest != nil {
		decode = Decode // nobody waits on this stack
	}
	f, err := decode(b)
	give(c.last) // nothing of f lies in it
	c.last = nil
	return f, err
}

// read returns the next message, as Receive does.
func (c *Conn) read() ([]byte, error) {
	give(c.before)
	c.before, c.last = c.last, nil
	kind, r, err := c.ws.NextReader()
	if err != nil {
		return nil, err
	}
	if kind != websocket.BinaryMessage {
		return nil, errors.New("message is not binary")
	}
	for buf := take(0); ; {
		if len(buf) == cap(buf) {
			buf = grow(buf, int(c.max)+1)
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			c.last = buf
			c.ws.SetReadDeadline(time.Now().Add(silence))
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// Idle lays the connection down when nothing has come that Receive would return, and has resume called, in a goroutine of its
// own, when something has, or the connection has ended. It is false when there is something, or the connection can not be laid
// down, and Receive is to be called. Pings are answered meanwhile.
func (c *Conn) Idle(resume func()) bool { return c.gate != nil && c.gate.idle(resume) }

// decodeApart is Decode on a stack of its own: JSON needs a large one, and a goroutine that receives would keep it for as long as
// it waits for the next frame.
func decodeApart(msg []byte) (f Frame, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f, err = Decode(msg)
	}()
	<-done
	return f, err
}

// Close ends the connection at once; both Send and Receive then fail.
func (c *Conn) Close() error { return c.ws.Close() }
