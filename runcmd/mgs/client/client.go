// Package client is ichiro's own client of a data channel: what the stock plugin is, but as fast as the machine both
// ways, with the exit code, and with a session that goes on wherever the network went.
//
// Run keeps the connection: when it breaks, Resume is asked for a new token, and what was not acknowledged is written
// again. Read and Write know nothing of that. A host whose gateway was killed meanwhile begins anew, and says how much of
// the input the guest has: what it lacks is written again, once. It shows the screen again; a port cannot go on so.
package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/channel"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// firstPatience is how long a channel that was never open is tried: whoever waits wants to know why it is not.
const firstPatience = 10 * time.Second

// maxTail is what is kept of the input for a host that begins anew: what it, the channel and the guest's stream may have held.
const maxTail = 4 << 20

// version is how the gateway knows that it may send an exit code.
const version = "ichiro/1"

// Config is what a client is made of.
type Config struct {
	URL   string // StreamUrl
	Token string // TokenValue
	// Resume returns a new token; "" when the session has ended. nil for a client that does not resume.
	Resume func(ctx context.Context) (string, error)
	// Patience is how long the connection may be away.
	Patience time.Duration
}

// Properties are those of a port session.
type Properties struct{ PortNumber, LocalPortNumber, Type, Host string }

// Client is one end of a session. One goroutine may read and others write while Run runs.
type Client struct {
	cfg Config
	id  string

	mu         sync.Mutex
	change     sync.Cond
	end        *channel.End
	conn       *wire.ClientConn
	wake       chan struct{}
	inbox      []piece
	ready      bool   // the handshake with this host is over
	input      int64  // offset of what will be written next, as the guest counts
	tail       []byte // what was written last
	size       []byte // of the window, as it was told last
	kind       string
	properties Properties
	begun      chan struct{} // closed when the handshake is over
	code       int
	closed     bool
	text       string
}

// piece is what was received, by which of the client's ends.
type piece struct {
	*channel.Piece
	by *channel.End
}

// New returns a client that is not connected yet.
func New(cfg Config) *Client {
	c := &Client{cfg: cfg, id: newID().String(), end: channel.New(channel.Client, newID), begun: make(chan struct{}), code: -1}
	c.change.L = &c.mu
	return c
}

func newID() (id frame.ID) {
	rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}

// Begun is closed when the session can be used.
func (c *Client) Begun() <-chan struct{} { return c.begun }

// Session returns what kind of session it is. After Begun.
func (c *Client) Session() (string, Properties) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kind, c.properties
}

// Ended returns the exit code, -1 where there is none, and what the host says of the end. After Run.
func (c *Client) Ended() (code int, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.code, c.text
}

// Run keeps the session connected until it has ended: nil, or until it cannot be.
func (c *Client) Run(ctx context.Context) (err error) {
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.closed = true
		c.change.Broadcast()
	}()
	token, since, patience := c.cfg.Token, time.Now(), min(c.cfg.Patience, firstPatience)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		talked, err := c.connect(ctx, token)
		if c.over() {
			return nil
		}
		if talked {
			since, pause, patience = time.Now(), 50*time.Millisecond, c.cfg.Patience
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case c.cfg.Resume == nil || time.Since(since) > patience:
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		next, err := c.cfg.Resume(ctx)
		switch {
		case err == nil && next == "":
			return errors.New("the session has ended meanwhile")
		case err == nil:
			token = next
		case time.Since(since) > patience:
			return err
		}
	}
}

func (c *Client) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// connect serves one connection, and reports whether the host said anything on it.
func (c *Client) connect(ctx context.Context, token string) (talked bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := wire.DialClient(ctx, c.cfg.URL)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	hello, err := json.Marshal(map[string]string{
		"MessageSchemaVersion": "1.0", "RequestId": newID().String(), "TokenValue": token, "ClientId": c.id, "ClientVersion": version,
	})
	if err != nil {
		return false, err
	}
	if err := conn.WriteText(hello); err != nil {
		return false, err
	}
	wake := make(chan struct{}, 1)
	c.mu.Lock()
	c.end.Resume(time.Now())
	c.conn, c.wake = conn, wake
	c.mu.Unlock()
	go conn.Ping(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { defer cancel(); c.write(ctx, conn, wake) })
	for {
		b, err := conn.Read()
		if err != nil {
			return talked, fmt.Errorf("read from the session: %w", err)
		}
		talked = true
		if err := c.receive(b); err != nil {
			return talked, err
		}
		if c.over() {
			return true, nil
		}
	}
}

func (c *Client) receive(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	p, err := c.end.Receive(now, b)
	if err != nil {
		return err
	}
	if c.end.Anew() {
		c.end, c.ready = channel.New(channel.Client, newID), false
		if p, err = c.end.Receive(now, b); err != nil {
			return err
		}
	}
	for ; p != nil && err == nil; p = c.end.Next() {
		err = c.take(now, p)
	}
	if text, closed := c.end.Closed(); closed {
		c.closed, c.text = true, text
	}
	c.wakeWriter()
	c.change.Broadcast()
	return err
}

// take deals with what is the channel's own, and leaves the rest to Read.
func (c *Client) take(now time.Time, p *channel.Piece) error {
	switch p.Type {
	case frame.HandshakeRequest:
		c.end.Done(now, p)
		return c.answer(now, p.Data)
	case frame.HandshakeComplete:
		c.end.Done(now, p)
		return c.shaken(now, p.Data)
	case frame.ExitCode:
		if n, err := strconv.Atoi(string(p.Data)); err == nil {
			c.code = n
		}
		c.end.Done(now, p)
	case frame.Data, frame.Stderr:
		c.inbox = append(c.inbox, piece{p, c.end})
	default:
		c.end.Done(now, p)
	}
	return nil
}

// answer is the client's part of the handshake.
func (c *Client) answer(now time.Time, request []byte) error {
	var in struct {
		RequestedClientActions []struct {
			ActionType       string
			ActionParameters struct {
				SessionType string
				Properties  Properties
			}
		}
	}
	if err := json.Unmarshal(request, &in); err != nil {
		return fmt.Errorf("read the handshake: %v", err)
	}
	done := []map[string]any{}
	for _, a := range in.RequestedClientActions {
		status, trouble := 1, ""
		if a.ActionType == "SessionType" {
			c.kind, c.properties = a.ActionParameters.SessionType, a.ActionParameters.Properties
		} else {
			status, trouble = 3, "unsupported action"
		}
		done = append(done, map[string]any{"ActionType": a.ActionType, "ActionStatus": status, "ActionResult": nil, "Error": trouble})
	}
	out, err := json.Marshal(map[string]any{"ClientVersion": version, "ProcessedClientActions": done, "Errors": nil})
	if err != nil {
		return err
	}
	return c.end.Send(now, frame.HandshakeResponse, out)
}

// shaken ends the handshake: the first, or one with a host that has begun anew.
func (c *Client) shaken(now time.Time, complete []byte) error {
	var in struct{ InputOffset *int64 }
	if err := json.Unmarshal(complete, &in); err != nil {
		return fmt.Errorf("read the end of the handshake: %v", err)
	}
	c.ready = true
	select {
	case <-c.begun:
	default:
		if in.InputOffset != nil {
			c.input = *in.InputOffset
		}
		close(c.begun)
		return nil
	}
	switch c.kind {
	case string(cloud.SessionPort):
		c.closed, c.text = true, "the host's gateway was started again, and the connections were lost: begin anew"
		return nil
	case string(cloud.SessionBatch):
		c.closed, c.text = true, "the host's gateway was started again, and the command was ended, as a part of its output is lost: begin anew"
		return nil
	}
	if c.size != nil {
		if err := c.end.Send(now, frame.Size, c.size); err != nil {
			return err
		}
	}
	if in.InputOffset == nil {
		return nil
	}
	lacks := c.input - *in.InputOffset
	if lacks < 0 || lacks > int64(len(c.tail)) {
		return nil // others have written meanwhile
	}
	return c.send(now, frame.Data, c.tail[int64(len(c.tail))-lacks:])
}

// send sends a payload of any size, whether there is room for it or not.
func (c *Client) send(now time.Time, t frame.PayloadType, b []byte) error {
	for chunk := range slices.Chunk(b, channel.MaxData) {
		if err := c.end.Send(now, t, chunk); err != nil {
			return err
		}
	}
	return nil
}

// remember keeps what is written, for a host that begins anew.
func (c *Client) remember(b []byte) {
	c.input += int64(len(b))
	if c.tail = append(c.tail, b...); len(c.tail) > 2*maxTail {
		c.tail = append(c.tail[:0], c.tail[len(c.tail)-maxTail:]...)
	}
}

// write writes what is to be written.
func (c *Client) write(ctx context.Context, conn *wire.ClientConn, wake <-chan struct{}) {
	channel.Pump(ctx, wake, func() (out [][]byte, due time.Time, ours bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		due = c.end.Due(time.Now())
		return c.end.Take(), due, true
	}, conn.Write)
}

// wakeWriter is called with mu held.
func (c *Client) wakeWriter() {
	if c.conn == nil {
		return
	}
	channel.Wake(c.wake)
}

// Read returns the next output, io.EOF when the session has ended. It is acknowledged when Read is called again.
func (c *Client) Read() (frame.PayloadType, []byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.inbox) == 0 && !c.closed {
		c.change.Wait()
	}
	if len(c.inbox) == 0 {
		return 0, nil, io.EOF
	}
	p := c.inbox[0]
	c.inbox[0] = piece{}
	c.inbox = c.inbox[1:]
	if p.by == c.end {
		c.end.Done(time.Now(), p.Piece)
		c.wakeWriter()
	}
	return p.Type, p.Data, nil
}

// Write sends input, when there is room for it.
func (c *Client) Write(t frame.PayloadType, b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(b) > 0 {
		for (!c.ready || c.end.Room() < channel.MaxData) && !c.closed {
			c.change.Wait()
		}
		if c.closed {
			return io.ErrClosedPipe
		}
		n := min(len(b), channel.MaxData)
		if err := c.end.Send(time.Now(), t, b[:n]); err != nil {
			return err
		}
		switch {
		case t == frame.Size:
			c.size = bytes.Clone(b[:n])
		case t == frame.Data && c.kind != string(cloud.SessionPort):
			c.remember(b[:n])
		}
		b = b[n:]
		c.wakeWriter()
	}
	return nil
}

// Resize tells the size of the terminal.
func (c *Client) Resize(columns, rows int) error {
	return c.Write(frame.Size, fmt.Appendf(nil, `{"cols":%d,"rows":%d}`, columns, rows))
}

// CloseInput says that there is no more input for a command without a terminal.
func (c *Client) CloseInput() error {
	return c.Write(frame.Flag, channel.AppendSignal(frame.Disconnect))
}

// Terminate asks for the session's end.
func (c *Client) Terminate() error {
	return c.Write(frame.Flag, channel.AppendSignal(frame.Terminate))
}
