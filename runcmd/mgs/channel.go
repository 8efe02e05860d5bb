package mgs

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/bridge"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

const (
	// maxRoom is how many commands the agent is given at a time: it works on five, holds five more, and refuses the rest.
	maxRoom = 10
	// patience is how long the last word waits for a step's result that it has overtaken.
	patience = 2 * time.Second
	// again is how long after its first sending a job may be sent again.
	again = 5 * time.Minute
	// settling is how long after connecting a reply may be of a command that we are about to hear of.
	settling = 10 * time.Second
	// maxLast bounds how many last words of one command are acknowledged: the agent repeats itself every five minutes.
	maxLast = 4
	// maxOver bounds what is remembered of commands that have ended: a late reply comes within moments.
	maxOver = 256
)

// socket carries the agent's messages: a *wire.Raw.
type socket interface {
	ReadRaw() (b []byte, text bool, err error)
	WriteRaw(b []byte) error
	Probe() error
	OnPong(func())
	Close() error
}

// Channel is a control channel of the stock agent, seen as a connection of ours: what is sent to it in package wire's
// frames becomes jobs, and what the agent replies is received as the frames that ours would have sent.
type Channel struct {
	socket
	id     cloud.InstanceID
	hello  wire.Hello
	opened time.Time
	bridge *bridge.Manager
	in     chan wire.Frame // of what was made of the agent's messages
	quit   chan struct{}   // closed by Close
	hangUp sync.Once

	mu     sync.Mutex // of what follows, and of writing
	next   int64      // sequence number
	runs   map[cloud.CommandID]*run
	before map[cloud.CommandID]*run       // those of an earlier channel that had not ended
	reply  map[cloud.CommandID][]frame.ID // last words that are acknowledged when they are on disk
	over   map[cloud.CommandID]bool       // ended on this channel
}

// newChannel returns the channel of an instance's agent over a websocket whose first message has been read. It goes on from
// an earlier one, if there is one, and has the sessions of b from now on. Somebody must run serve.
func newChannel(s socket, id cloud.InstanceID, hello wire.Hello, earlier *Channel, b *bridge.Manager) *Channel {
	c := &Channel{
		socket: s, id: id, hello: hello, opened: time.Now(), bridge: b, in: make(chan wire.Frame), quit: make(chan struct{}),
		runs: map[cloud.CommandID]*run{}, reply: map[cloud.CommandID][]frame.ID{}, over: map[cloud.CommandID]bool{},
		before: map[cloud.CommandID]*run{},
	}
	b.Reach(c.say)
	if earlier != nil {
		earlier.Close()
		earlier.mu.Lock()
		defer earlier.mu.Unlock()
		for id, r := range earlier.runs {
			c.before[id] = &run{asked: r.asked, size: r.size, steps: maps.Clone(r.steps), sent: r.sent, heard: r.heard}
		}
	}
	return c
}

// Receive returns what the agent says next.
func (c *Channel) Receive() (wire.Frame, error) {
	select {
	case f := <-c.in:
		return f, nil
	case <-c.quit:
		return nil, errGone
	}
}

var errGone = errors.New("control channel is closed")

// Close ends the channel.
func (c *Channel) Close() error {
	c.hangUp.Do(func() { close(c.quit) })
	return c.socket.Close()
}

// Room reports whether the agent takes one more command.
func (c *Channel) Room() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.runs) < maxRoom
}

// Send gives the agent a frame of ours. Those that it has no word for are left out.
func (c *Channel) Send(f wire.Frame) error {
	switch f := f.(type) {
	case *wire.Request:
		return c.request(f)
	case *wire.Cancel:
		return c.cancel(f.ID)
	case *wire.Done:
		return c.done(f.ID)
	case *wire.Order:
		c.bridge.Order(*f)
	case *wire.Terminate:
		c.bridge.Terminate(f.ID)
	}
	return nil
}

// say sends a message about a session.
func (c *Channel) say(kind string, payload any) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.write(kind, payload)
}

// request gives the agent a command. One that an earlier channel was given it gets again only if it has not said a word of it
// and would know it: it remembers for half an hour which jobs it had, and answers that one is a duplicate. Otherwise its
// replies are waited for.
func (c *Channel) request(r *wire.Request) error {
	j, err := newJob(c.id, r)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.runs[r.ID] == nil {
		n := c.before[r.ID]
		if n == nil {
			n = &run{asked: len(r.Steps)}
		}
		delete(c.before, r.ID)
		c.runs[r.ID] = n
		switch {
		case r.Resume && (n.heard || time.Since(n.sent) > again):
		case err != nil:
			go c.refuse(r.ID, err.Error())
			return nil
		default:
			if n.sent.IsZero() {
				n.sent = time.Now()
			}
			if err := c.write(frame.Job, j); err != nil {
				return err
			}
		}
	}
	if r.Cancel {
		return c.cancelLocked(r.ID)
	}
	return nil
}

func (c *Channel) cancel(id cloud.CommandID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cancelLocked(id)
}

func (c *Channel) cancelLocked(id cloud.CommandID) error {
	var own frame.ID
	rand.Read(own[:])
	j, err := newCancel(c.id, id, cloud.CommandID(own.String()))
	if err != nil {
		return err
	}
	return c.write(frame.Job, j)
}

// done forgets a command. Its end is on disk: now the agent may forget it, too.
func (c *Channel) done(id cloud.CommandID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.runs, id)
	if len(c.over) == maxOver {
		clear(c.over)
	}
	c.over[id] = true
	for _, m := range c.reply[id] {
		if err := c.acknowledge(id, m); err != nil {
			return err
		}
	}
	delete(c.reply, id)
	return nil
}

// acknowledge tells the agent that a reply need not be sent again. The caller holds mu.
func (c *Channel) acknowledge(id cloud.CommandID, m frame.ID) error {
	return c.write(frame.JobReplyAck, struct {
		JobID   string `json:"jobId"`
		Message string `json:"acknowledgedMessageId"`
	}{jobID(id, c.id), m.String()})
}

// write sends a message. The caller holds mu.
func (c *Channel) write(kind string, payload any) error {
	body, err := json.Marshal(payload)
	if err != nil {
		return fmt.Errorf("encode %s: %v", kind, err)
	}
	m := frame.Message{Type: kind, Created: time.Now(), Sequence: c.next, Flags: frame.SYN | frame.FIN, Payload: body}
	rand.Read(m.ID[:])
	b, err := frame.Append(nil, &m)
	if err != nil {
		return err
	}
	c.next++
	return c.WriteRaw(b)
}

// serve reads what the agent says until the channel closes.
func (c *Channel) serve() error {
	defer c.Close()
	if !c.tell(&c.hello) {
		return errGone
	}
	for {
		b, text, err := c.ReadRaw()
		if err != nil {
			return err
		}
		if text {
			return errors.New("agent sends a text where messages are binary")
		}
		m, err := frame.Decode(b)
		if err != nil {
			return err
		}
		switch m.Type {
		case frame.JobAck:
			err = c.acked(m.Payload)
		case frame.JobReply:
			err = c.replied(m.Payload, m.ID)
		case frame.TaskComplete:
			err = c.bridge.Completed(m.Payload, m.ID)
		}
		if err != nil {
			return err
		}
	}
}

// tell hands a frame to whoever receives.
func (c *Channel) tell(f wire.Frame) bool {
	select {
	case c.in <- f:
		return true
	case <-c.quit:
		return false
	}
}

// acked deals with the agent's answer to a job.
func (c *Channel) acked(payload []byte) error {
	var a ack
	if err := json.Unmarshal(payload, &a); err != nil {
		return errors.New("agent_job_ack is not of JSON")
	}
	id, err := commandOf(a.JobID, c.id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	r := c.runs[id]
	known := r != nil
	if known {
		r.heard = true
	}
	c.mu.Unlock()
	switch {
	case !known: // the answer to a cancellation, or of a command that has ended
	case a.Status == ackTaken, a.Status == ackDuplicate:
		c.tell(&wire.Accepted{ID: id})
	default:
		c.refuse(id, a.refused())
	}
	return nil
}

// replied deals with what the agent says of a command.
func (c *Channel) replied(payload []byte, m frame.ID) error {
	in, err := parseReply(payload, c.id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	r := c.runs[in.command]
	switch {
	case r == nil && !c.over[in.command] && time.Since(c.opened) < settling:
		c.mu.Unlock()
		return nil // it says so again in five minutes
	case r == nil:
		defer c.mu.Unlock()
		return c.acknowledge(in.command, m)
	}
	r.heard = true
	before := r.final != nil
	r.take(in)
	complete, final := r.complete(), r.final != nil
	if ended(in.status) { // also when it is told again
		c.reply[in.command] = append(c.reply[in.command], m)[max(0, len(c.reply[in.command])+1-maxLast):]
	} else if err := c.acknowledge(in.command, m); err != nil {
		c.mu.Unlock()
		return err
	}
	c.mu.Unlock()
	switch {
	case complete:
		c.end(in.command, r)
	case !final:
		c.tell(&wire.Accepted{ID: in.command})
	case !before:
		time.AfterFunc(patience, func() { c.end(in.command, r) })
	}
	return nil
}

// end tells the end of a command, once.
func (c *Channel) end(id cloud.CommandID, r *run) {
	c.mu.Lock()
	told := r.told || c.runs[id] != r
	r.told = true
	c.mu.Unlock()
	if told {
		return
	}
	// Nobody changes r any more: what comes now is late.
	stdout, stderr, result := r.result(id)
	c.output(id, wire.Stdout, stdout)
	c.output(id, wire.Stderr, stderr)
	c.tell(result)
}

// refuse ends a command that the agent did not take.
func (c *Channel) refuse(id cloud.CommandID, why string) {
	stderr, result := refusal(id, why)
	c.output(id, wire.Stderr, stderr)
	c.tell(result)
}

func (c *Channel) output(id cloud.CommandID, s wire.Stream, data string) {
	for at := 0; at < len(data); at += wire.MaxData {
		piece := data[at:min(len(data), at+wire.MaxData)]
		c.tell(&wire.Output{ID: id, Stream: s, Offset: int64(at), Data: []byte(piece)})
	}
}
