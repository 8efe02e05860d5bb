package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
)

// maxClient bounds a message of a data channel: the stock agent writes at most 142,000 bytes.
const maxClient = 160 << 10

// clientSilence is how long a client may say nothing at all: one whose terminal is stopped answers no ping.
const clientSilence = 5 * time.Minute

// ClientConn is a websocket of a data channel. One goroutine may write while another reads.
type ClientConn struct {
	*Conn
	patience time.Duration // how long the other side may say nothing at all
}

// UpgradeClient turns a client's HTTP request into a connection. On an error it has answered already.
func UpgradeClient(w http.ResponseWriter, r *http.Request) (*ClientConn, error) {
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil, err
	}
	return newClient(ws, clientSilence), nil
}

// DialClient opens a data channel as a client does.
func DialClient(ctx context.Context, url string) (*ClientConn, error) {
	return Dialer(nil).DialClient(ctx, url)
}

// DialClient opens a data channel as a client does; nil dials as programs of users do, by a proxy where there is one.
func (by Dialer) DialClient(ctx context.Context, url string) (*ClientConn, error) {
	d := websocket.Dialer{NetDialContext: by, HandshakeTimeout: 10 * time.Second, ReadBufferSize: 64 << 10, WriteBufferSize: 72 << 10, Proxy: http.ProxyFromEnvironment}
	ws, resp, err := d.DialContext(ctx, url, nil)
	if err != nil {
		if resp != nil {
			return nil, fmt.Errorf("open the data channel: %s", resp.Status)
		}
		return nil, fmt.Errorf("open the data channel: %w", err)
	}
	return newClient(ws, silence), nil // a host pings, whatever it has to say
}

func newClient(ws *websocket.Conn, patience time.Duration) *ClientConn {
	c := newConn(ws, maxClient)
	alive := func() { ws.SetReadDeadline(time.Now().Add(patience)) }
	ws.SetPongHandler(func(string) error { alive(); return nil })
	ws.SetPingHandler(func(data string) error {
		alive()
		err := ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(writeWait))
		if errors.Is(err, websocket.ErrCloseSent) {
			return nil
		}
		return err
	})
	alive()
	return &ClientConn{c, patience}
}

// Write sends a message.
func (c *ClientConn) Write(b []byte) error {
	if err := c.ws.SetWriteDeadline(time.Now().Add(clientSilence)); err != nil {
		return err
	}
	return c.ws.WriteMessage(websocket.BinaryMessage, b)
}

// WriteText sends a text: the first message of a channel.
func (c *ClientConn) WriteText(b []byte) error { return c.ws.WriteMessage(websocket.TextMessage, b) }

// Read returns the next message, in memory of its own.
func (c *ClientConn) Read() ([]byte, error) {
	c.ws.SetReadDeadline(time.Now().Add(c.patience))
	_, r, err := c.ws.NextReader()
	if err != nil {
		return nil, err
	}
	// A message says how long it is: memory of its size, and no growing. One that lies is found out.
	head := make([]byte, headSize)
	n, err := io.ReadFull(r, head)
	switch {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return head[:n], nil
	case err != nil:
		return nil, err
	}
	b := head
	if size := headSize + int(binary.BigEndian.Uint32(head[headSize-4:])); size > headSize && size <= maxClient {
		b = make([]byte, size)
		copy(b, head)
		if n, err = io.ReadFull(r, b[headSize:]); err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
			return nil, err
		} else if err != nil {
			return b[:headSize+n], nil
		}
	}
	rest, err := io.ReadAll(r)
	return append(b, rest...), err
}

// headSize is what stands before the payload of a binary message; its last four bytes are the payload's length.
const headSize = 120

// Refuse ends the connection with a reason for its user.
func (c *ClientConn) Refuse(why string) {
	c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.ClosePolicyViolation, why), time.Now().Add(time.Second))
	c.Close()
}
