// Package qmp speaks QEMU's machine protocol: JSON objects, one per line, over a unix socket.
//
// A Client is one connection. Requests are matched to answers by id, so any number of callers may
// ask at once and each gives up by its own context; events go to one channel in order, and are
// never waited for: Events is buffered, and a reader that falls behind by more than the buffer ends
// the connection rather than stall answers or lose an event silently. Reads are bounded, because
// some of what QEMU reports (device names, panic details) is chosen by the guest. A connection that
// ends fails all that wait, and Done closes; whoever owns the VM connects again and asks for the
// status, since events are not repeated.
//
// The package knows how to talk, not what to say: the commands that matter are in commands.go,
// each with the type of its answer.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// maxLine bounds one message. query-qmp-schema, the longest answer, is 250 KiB in QEMU 7.2.
const maxLine = 4 << 20

// eventBuffer is how far a reader of Events may fall behind. The fastest source is a guest that
// resets itself in a loop: some hundred events in a second.
const eventBuffer = 4096

// ErrClosed is wrapped by what a connection says once it has ended.
var ErrClosed = errors.New("qmp connection closed")

// Error is QEMU's refusal of a command.
type Error struct {
	Command string `json:"-"`
	Class   string `json:"class"`
	Desc    string `json:"desc"`
}

func (e *Error) Error() string { return fmt.Sprintf("qmp %s: %s (%s)", e.Command, e.Desc, e.Class) }

// Event is something that QEMU tells unasked.
type Event struct {
	Name string
	Data json.RawMessage
	Time time.Time
}

// Version is what the greeting says.
type Version struct {
	Major, Minor, Micro int
	Package             string
}

// Client is a connection in command mode.
type Client struct {
	conn    *net.UnixConn
	version Version
	events  chan Event
	done    chan struct{}

	mu      sync.Mutex
	nextID  uint64
	waiting map[uint64]chan message
	err     error

	writing chan struct{} // one token: held while a request is written
}

// message is anything that QEMU sends.
type message struct {
	Greeting *struct {
		Version struct {
			QEMU struct {
				Major, Minor, Micro int
			} `json:"qemu"`
			Package string `json:"package"`
		} `json:"version"`
	} `json:"QMP"`
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
	ID     *uint64         `json:"id"`
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
	Time   struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

// Open takes over conn: waits for the greeting, enters command mode and starts to read. The reader
// ends with the connection; Close waits for it. On an error conn is closed.
func Open(ctx context.Context, conn *net.UnixConn) (*Client, error) {
	c := &Client{
		conn:    conn,
		events:  make(chan Event, eventBuffer),
		done:    make(chan struct{}),
		waiting: map[uint64]chan message{},
		writing: make(chan struct{}, 1),
	}
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	r := newReader(conn)
	m, err := r.next()
	if !stop() {
		conn.Close()
		return nil, fmt.Errorf("wait for QEMU's greeting: %w", ctx.Err())
	}
	if err == nil && m.Greeting == nil {
		err = errors.New("something else came")
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("wait for QEMU's greeting: %w", err)
	}
	v := m.Greeting.Version
	c.version = Version{v.QEMU.Major, v.QEMU.Minor, v.QEMU.Micro, v.Package}
	go c.read(r)
	if err := c.Do(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Version returns QEMU's version.
func (c *Client) Version() Version { return c.version }

// Events returns the channel of events. It is closed when the connection has ended.
func (c *Client) Events() <-chan Event { return c.events }

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection and waits for its reader. QEMU stays, and takes the next connection.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	c.conn.Close()
	<-c.done
	return nil
}

// Do runs a command: arguments may be nil, the answer is decoded into result unless that is nil. A
// refusal is an *Error. If ctx ends first the command may still be carried out.
func (c *Client) Do(ctx context.Context, command string, arguments, result any) error {
	return c.do(ctx, request{Execute: command, Arguments: arguments}, nil, result)
}

// DoWithFile is Do with an open file sent beside the command, as add-fd and getfd want it.
func (c *Client) DoWithFile(ctx context.Context, command string, arguments any, f *os.File, result any) error {
	return c.do(ctx, request{Execute: command, Arguments: arguments}, f, result)
}

type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

func (c *Client) do(ctx context.Context, req request, f *os.File, result any) error {
	answer := make(chan message, 1)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return fmt.Errorf("qmp %s: %w", req.Execute, c.err)
	}
	c.nextID++
	req.ID = c.nextID
	c.waiting[req.ID] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, req.ID)
		c.mu.Unlock()
	}()

	if err := c.write(ctx, req, f); err != nil {
		return fmt.Errorf("qmp %s: %w", req.Execute, err)
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("qmp %s: %w", req.Execute, ctx.Err())
	case m, ok := <-answer:
		if !ok {
			return fmt.Errorf("qmp %s: %w", req.Execute, c.reason())
		}
		if m.Error != nil {
			m.Error.Command = req.Execute
			return m.Error
		}
		if result == nil {
			return nil
		}
		if err := json.Unmarshal(m.Return, result); err != nil {
			return fmt.Errorf("qmp %s: read the answer: %w", req.Execute, err)
		}
		return nil
	}
}

// write sends one request whole. A write cut short by the context would leave half a line, so that
// ends the connection.
func (c *Client) write(ctx context.Context, req request, f *os.File) error {
	line, err := json.Marshal(req)
	if err != nil {
		return err
	}
	select {
	case c.writing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return c.reason()
	}
	defer func() { <-c.writing }()
	if err := ctx.Err(); err != nil { // before anything is said
		return err
	}
	cutting := make(chan struct{})
	cut := context.AfterFunc(ctx, func() { c.conn.SetWriteDeadline(time.Unix(1, 0)); close(cutting) })
	var oob []byte
	if f != nil {
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		// Control, not Fd: Fd would put the file into blocking mode.
		if err := raw.Control(func(fd uintptr) { oob = syscall.UnixRights(int(fd)) }); err != nil {
			return err
		}
		defer func() { _ = f.Name() }()
	}
	n, _, err := c.conn.WriteMsgUnix(append(line, '\n'), oob, nil)
	if err == nil && n <= len(line) {
		_, err = c.conn.Write(append(line, '\n')[n:])
	}
	if !cut() { // it has begun, and must not reach the next request's write
		<-cutting
		c.conn.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		c.fail(fmt.Errorf("%w: a request was cut short: %v", ErrClosed, err))
		c.conn.Close()
		return c.reason()
	}
	return nil
}

// read hands out what comes until the connection ends.
func (c *Client) read(r *reader) {
	defer func() {
		c.conn.Close()
		c.mu.Lock()
		for id, ch := range c.waiting {
			delete(c.waiting, id)
			close(ch)
		}
		c.mu.Unlock()
		close(c.events)
		close(c.done)
	}()
	for {
		m, err := r.next()
		if err != nil {
			c.fail(fmt.Errorf("%w: %v", ErrClosed, err))
			return
		}
		if m.Event != "" {
			e := Event{m.Event, m.Data, time.Unix(m.Time.Seconds, m.Time.Microseconds*1000)}
			select {
			case c.events <- e:
			default:
				c.fail(fmt.Errorf("%w: %d events were not read", ErrClosed, eventBuffer))
				return
			}
			continue
		}
		if m.ID == nil {
			if m.Error != nil { // QEMU could not even read the request: which one, it cannot say
				c.fail(fmt.Errorf("%w: %v", ErrClosed, m.Error))
				return
			}
			continue
		}
		c.mu.Lock()
		ch := c.waiting[*m.ID]
		delete(c.waiting, *m.ID)
		c.mu.Unlock()
		if ch != nil { // nil: whoever asked has given up
			ch <- m
		}
	}
}

// fail notes why the connection ends; the first reason stays.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

func (c *Client) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		return ErrClosed
	}
	return c.err
}

// reader cuts a stream into messages.
type reader struct{ lines *bufio.Scanner }

func newReader(r io.Reader) *reader {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), maxLine)
	return &reader{s}
}

// next returns the next message; a blank line is none.
func (r *reader) next() (message, error) {
	for r.lines.Scan() {
		line := r.lines.Bytes()
		if len(line) == 0 {
			continue
		}
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			return m, fmt.Errorf("read %.80q: %w", line, err)
		}
		return m, nil
	}
	if err := r.lines.Err(); err != nil {
		return message{}, err
	}
	return message{}, io.EOF
}
