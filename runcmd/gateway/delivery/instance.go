package delivery

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/printable"
	"github.com/ichiro-metal/ichiro/runcmd/fault"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

const (
	// helloWait is how long a connection may take to say who it is.
	helloWait = 10 * time.Second
	// seenEvery is how often agent.json is renewed while the agent is connected.
	seenEvery = time.Minute
	// quiet is how long a command may run before its state is written: most have ended by then,
	// also under TCG.
	quiet = 100 * time.Millisecond
	// ackEvery is how much of an output comes before it is acknowledged. An agent keeps 4 MiB that are not: it does not wait for
	// an acknowledgement unless the gateway is slow, and each wakes it up.
	ackEvery = 512 << 10
)

// wordMost is how much of a word is kept that a guest chose.
const wordMost = 128

// metadata stands among the commands to be looked at for the guest's metadata: no ID of a command has this form.
const metadata cloud.CommandID = "metadata.json"

// instance is the one who owns what is known of an instance's commands.
type instance struct {
	dir    bundle.Dir
	limits Limits
	clock  clock
	logs   *slog.Logger
	turns  turns

	mu    sync.Mutex
	dirty map[cloud.CommandID]bool // to be looked at; "" stands for all; nil while there is nothing

	// The rest belongs to the turns.
	timer    *time.Timer
	now      *link     // nil when the agent is away
	heard    time.Time // when the current connection last gave a sign of life
	probed   time.Time // when it was asked for one that has not come; zero for never
	epoch    uint64
	commands map[cloud.CommandID]*command // the open ones
	kept     map[cloud.CommandID]int64    // bytes of output that lie here, of commands that have ended too
	used     int64                        // the sum of kept
	ping     cloud.AgentPing
	pinged   time.Time // when agent.json is due
}

// log says whose it is. It is made when there is something to say: of ten thousand instances most never have.
func (i *instance) log() *slog.Logger { return i.logs.With("instance", i.dir.ID()) }

// address is that of a network; an agent at a port has none.
func address(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func newInstance(dir bundle.Dir, limits Limits, clock clock, log *slog.Logger, start func(func())) *instance {
	i := &instance{dir: dir, limits: limits, clock: clock, logs: log, dirty: map[cloud.CommandID]bool{"": true}}
	i.turns.start, i.turns.idle = start, i.arm
	i.turns.do(i.welcomeBack)
	return i
}

// look makes the instance look at a command's files, or at all for "". It never blocks.
func (i *instance) look(id cloud.CommandID) {
	i.mu.Lock()
	first := i.dirty == nil
	if first {
		i.dirty = map[cloud.CommandID]bool{}
	}
	i.dirty[id] = true
	i.mu.Unlock()
	if first {
		i.turns.do(i.lookAll)
	}
}

func (i *instance) takeDirty() map[cloud.CommandID]bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	d := i.dirty
	i.dirty = nil
	return d
}

// arm has the instance look at its clock when there is something to do that nobody will wake it for.
func (i *instance) arm() {
	left := time.Until(i.next(time.Now()))
	if i.timer == nil {
		i.timer = time.AfterFunc(left, func() { i.turns.do(func() { i.tick(time.Now()) }) })
	} else {
		i.timer.Reset(left)
	}
}

// retire ends what is done for the instance.
func (i *instance) retire() {
	i.turns.end(func() {
		if i.timer != nil {
			i.timer.Stop()
		}
		i.hangUp(nil)
		for _, c := range i.commands {
			c.close()
		}
	})
}

// lookAll looks at whatever is to be looked at.
func (i *instance) lookAll() {
	for id := range i.takeDirty() {
		if id == metadata {
			i.tellMetadata()
		} else {
			i.read(id)
		}
	}
}

// heed acts on a frame of the agent, and hangs up on one that says what it may not.
func (i *instance) heed(f wire.Frame) {
	if err := i.handle(f); err != nil {
		i.hangUp(err)
	} else {
		i.alive()
	}
}

// welcomeBack reads what an earlier gateway left.
func (i *instance) welcomeBack() {
	if p, err := i.dir.Agent(); err == nil {
		i.ping = p
		if p.Connected {
			i.ping.Connected = false
			// Its agent connects again within moments; if not, that is worth a file.
			i.pinged = time.Now().Add(5 * time.Second)
		}
	}
	for id := range i.takeDirty() {
		if id != metadata { // nobody is there to be told
			i.read(id)
		}
	}
}

// errAway is the error of an order for an agent that is not there, or knows no sessions.
var errAway = errors.New("the agent is not connected, or too old for sessions")

func (i *instance) order(f wire.Frame) error {
	if i.now == nil || !i.now.guest.sessions {
		return errAway
	}
	i.send(f)
	return nil
}

// tellMetadata wakes the agent, if it listens. One that connects later reads the metadata by itself.
func (i *instance) tellMetadata() {
	if i.now != nil && i.now.guest.listens {
		i.send(&wire.Metadata{})
	}
}

// join makes a connection the current one. Frames of an older one are never looked at again.
func (i *instance) join(l *link, hello *wire.Hello) {
	if l.stock && i.now != nil && !i.now.stock {
		close(l.fenced) // our own agent is there
		l.conn.Close()
		return
	}
	i.hangUp(nil)
	i.epoch = max(i.epoch+1, uint64(time.Now().UnixMicro())) // grows over restarts, too
	i.now, i.heard = l, time.Now()
	l.guest = guestAgent{boot: hello.Boot, level: hello.Level, listens: hello.Listens, sessions: hello.Sessions}
	i.ping = cloud.AgentPing{
		Instance: i.dir.ID(), Connected: true,
		Version: printable.Word(hello.Agent, wordMost), PlatformType: printable.Word(hello.PlatformType, wordMost),
		PlatformName: printable.Word(hello.PlatformName, wordMost), PlatformVer: printable.Word(hello.PlatformVer, wordMost),
		ComputerName: printable.Word(hello.ComputerName, wordMost), Address: address(l.addr),
	}
	i.log().Info("agent connected", "epoch", i.epoch)
	i.send(&wire.Welcome{Version: wire.Version, Epoch: i.epoch, Instance: i.dir.ID()})
	for _, id := range hello.Commands {
		if i.commands[id] == nil {
			i.send(&wire.Done{ID: id}) // it has ended here, or was removed
		}
	}
	for _, c := range i.commands {
		i.deliver(c)
	}
	i.pinged = time.Now() // the files of commands come first: they are waited for
}

// hangUp ends the current connection, if there is one.
func (i *instance) hangUp(err error) {
	if i.now == nil {
		return
	}
	close(i.now.fenced)
	i.now.conn.Close()
	i.now, i.probed = nil, time.Time{}
	i.ping.Connected, i.ping.LastSeen = false, time.Now().UTC()
	i.pinged = time.Now()
	if err != nil {
		i.log().Warn("agent was disconnected", "err", err)
	} else {
		i.log().Info("agent disconnected")
	}
	for _, c := range i.commands {
		c.told = false
	}
}

// send sends a frame to the agent, if it is there. A guest that does not read is hung up on.
func (i *instance) send(f wire.Frame) {
	if i.now == nil {
		return
	}
	if err := i.now.conn.Send(f); err != nil {
		i.hangUp(nil)
	}
}

// read looks at the files of a command, or of all for "".
func (i *instance) read(id cloud.CommandID) {
	if id == "" {
		entries, err := os.ReadDir(i.dir.Commands())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			i.log().Error("list commands", "err", err)
		}
		i.used, i.kept = 0, nil
		for _, e := range entries {
			if id, kind := bundle.ParseCommandFile(e.Name()); kind == bundle.CommandAsked {
				i.keep(id, kept(i.dir, id))
				i.read(id)
			}
		}
		return
	}
	c := i.commands[id]
	if c == nil {
		var err error
		if c, err = open(i.dir, id, i.clock); err != nil {
			i.log().Error("read a command", "command", id, "err", err)
			return
		}
		if c == nil { // it has ended, or is gone
			if _, err := os.Lstat(i.dir.Path("commands", string(id))); err != nil {
				i.keep(id, -i.kept[id])
			}
			return
		}
		if i.commands == nil {
			i.commands = map[cloud.CommandID]*command{}
		}
		i.commands[id] = c
	} else if c.removed() {
		i.keep(id, -i.kept[id])
		i.close(c)
		return
	}
	_, err := os.Lstat(i.dir.Path("commands", string(id)+".cancel"))
	cancel := err == nil && !c.cancel
	c.cancel = c.cancel || cancel
	if c.told {
		if cancel {
			i.send(&wire.Cancel{ID: id})
			i.advance(c, cloud.InvocationCancelling)
		}
		return
	}
	i.deliver(c)
}

// keep counts n more bytes of a command's output.
func (i *instance) keep(id cloud.CommandID, n int64) {
	if n == 0 {
		return
	}
	if i.kept == nil {
		i.kept = map[cloud.CommandID]int64{}
	}
	i.used += n
	if i.kept[id] += n; i.kept[id] == 0 {
		delete(i.kept, id)
	}
}

// close forgets an open command here and in the guest.
func (i *instance) close(c *command) {
	if delete(i.commands, c.id); len(i.commands) == 0 {
		i.commands = nil // most instances have none most of the time, and a map is not small
	}
	c.close()
	i.send(&wire.Done{ID: c.id})
}

// deliver gives a command to the agent, if that is there and it is time.
func (i *instance) deliver(c *command) {
	now := time.Now()
	switch {
	case c.sent == "" && c.cancel:
		i.end(c, cloud.InvocationCancelled, string(cloud.InvocationCancelled), nil)
		return
	case c.sent == "" && !now.Before(c.due.deliver):
		i.end(c, cloud.InvocationTimedOut, "DeliveryTimedOut", nil)
		return
	case i.now == nil:
		if c.sent == "" {
			i.waits(c)
		}
		return
	case c.sent == "" && c.level() > i.now.guest.level:
		i.end(c, cloud.InvocationFailed, "InvalidPlatform", nil) // an old agent would take something else for it
		return
	case c.sent == "" && now.Sub(i.heard) > i.limits.Quiet:
		i.probe(now)
		return // alive delivers it, or the next connection
	}
	i.hand(c, now)
}

// hand gives a command to the agent that is there.
func (i *instance) hand(c *command, now time.Time) {
	if r, ok := i.now.conn.(interface{ Room() bool }); ok && c.sent == "" && !r.Room() {
		return // offer hands it over
	}
	fault.At("gateway seen")
	if err := c.markSent(i.now.guest.boot, now); err != nil {
		i.log().Error("record a delivery", "command", c.id, "err", err)
		c.again = now.Add(time.Second) // the host's disk is full, and may not be then
		return
	}
	fault.At("gateway noted")
	c.told = true
	i.send(c.request(i.dir.ID(), i.now.guest.boot, min(i.limits.Output, i.limits.Quota)))
	fault.At("gateway sent")
	i.log().Debug("command sent", "command", c.id)
	if c.cancel {
		i.advance(c, cloud.InvocationCancelling)
	}
}

// probe asks the agent whether it is there, unless it is being asked already.
func (i *instance) probe(now time.Time) {
	if !i.probed.IsZero() {
		return
	}
	i.probed = now
	if err := i.now.conn.Probe(); err != nil {
		i.hangUp(nil)
	}
}

// alive takes note of a sign of life, and hands over what waited for one.
func (i *instance) alive() {
	if i.now == nil {
		return
	}
	i.heard = time.Now()
	if i.probed.IsZero() {
		return
	}
	i.probed = time.Time{}
	for _, c := range i.commands {
		if !c.told && i.now != nil {
			i.hand(c, i.heard)
		}
	}
}

// advance moves a command to a state that is not its last, and writes it.
func (i *instance) advance(c *command, s cloud.InvocationStatus) {
	if c.advance(s, time.Now()) {
		i.save(c)
	}
}

func (i *instance) save(c *command) {
	c.saveAt = time.Time{}
	if err := c.save(i.dir); err != nil {
		i.log().Error("write the state of a command", "command", c.id, "err", err)
	}
}

// end ends a command: from now on nothing that the guest says about it counts.
func (i *instance) end(c *command, s cloud.InvocationStatus, details string, r *wire.Result) {
	fault.At("gateway result received")
	c.end(s, details, r, time.Now())
	c.sync()
	fault.At("gateway output synced")
	if err := c.digest(); err != nil {
		i.log().Error("read the output of a command", "command", c.id, "err", err) // it has none in the audit then
	}
	if err := c.save(i.dir); err != nil {
		// It stays open: the agent keeps the result and offers it again on its next connection.
		i.log().Error("write the result of a command", "command", c.id, "err", err)
		i.hangUp(nil)
		c.reopen(time.Now())
		return
	}
	fault.At("gateway result kept")
	i.close(c)
	fault.At("gateway acknowledged")
	i.log().Debug("command ended", "command", c.id, "status", s)
}

var errNotAsked = errors.New("agent speaks of a command that it was not sent")

// handle acts on a frame of the agent. An error ends the connection.
func (i *instance) handle(f wire.Frame) error {
	switch f := f.(type) {
	case *wire.Accepted:
		if c := i.told(f.ID); c != nil {
			i.advance(c, cloud.InvocationInProgress)
		}
	case *wire.Output:
		c := i.told(f.ID)
		if c == nil {
			return nil // ended meanwhile: it has been told Done
		}
		if c.inv.Status == cloud.InvocationPending {
			c.advance(cloud.InvocationInProgress, time.Now())
			c.saveAt = time.Now().Add(quiet)
		}
		if over := i.used + int64(len(f.Data)) - i.limits.Quota; over > 0 && !c.full[f.Stream] {
			i.trim(over)
		}
		n, err := c.append(f, i.limits.Output, i.limits.Quota-i.used)
		i.keep(f.ID, n)
		fault.At("gateway output kept")
		if err != nil {
			return err
		}
		if have := c.have[f.Stream]; have-c.acked[f.Stream] >= ackEvery {
			c.acked[f.Stream] = have
			i.send(&wire.Ack{ID: f.ID, Stream: f.Stream, Offset: have})
		}
	case *wire.Result:
		c := i.told(f.ID)
		if c == nil {
			return nil
		}
		s, details, err := c.judge(f)
		if err != nil {
			return err
		}
		i.end(c, s, details, f)
		i.offer()
	default:
		return errNotAsked
	}
	return nil
}

// told returns an open command that was sent on the current connection.
func (i *instance) told(id cloud.CommandID) *command {
	if c := i.commands[id]; c != nil && c.told {
		return c
	}
	return nil
}

// offer delivers what an agent had no room for.
func (i *instance) offer() {
	if i.now == nil || !i.now.stock {
		return
	}
	for _, c := range i.commands {
		if !c.told {
			i.deliver(c)
		}
	}
}

// next returns when there is something to do that nobody will wake us for.
func (i *instance) next(now time.Time) time.Time {
	at := now.Add(time.Hour)
	if !i.pinged.IsZero() {
		at = earlier(at, i.pinged)
	}
	if !i.probed.IsZero() {
		at = earlier(at, i.probed.Add(i.limits.Patience))
	}
	for _, c := range i.commands {
		at = earlier(at, c.next())
	}
	return at
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (i *instance) tick(now time.Time) {
	switch over := i.probed.Add(i.limits.Patience); {
	case i.probed.IsZero() || now.Before(over):
	case now.Sub(over) > i.limits.Patience/2:
		i.probed = now // who is late has not read what came in time either: a host with too much to do loses no agent for it
	default:
		i.log().Info("agent gives no sign of life")
		i.hangUp(nil)
	}
	for _, c := range i.commands {
		switch {
		case !now.Before(c.due.expire):
			i.end(c, cloud.InvocationTimedOut, "DeliveryTimedOut", nil)
		case c.sent == "" && !now.Before(c.due.deliver):
			i.end(c, cloud.InvocationTimedOut, "DeliveryTimedOut", nil)
		case !c.again.IsZero() && !now.Before(c.again):
			c.again = time.Time{}
			if !c.told {
				i.deliver(c)
			}
		case !c.saveAt.IsZero() && !now.Before(c.saveAt):
			i.save(c)
		}
	}
	i.offer()
	if i.pinged.IsZero() || now.Before(i.pinged) {
		return
	}
	i.pinged = time.Time{}
	if i.now != nil {
		i.ping.LastSeen = now.UTC()
		i.pinged = now.Add(seenEvery)
	}
	err := bundle.Write(i.dir.Path("commands", "agent.json"), i.ping, 0o640)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		i.log().Error("write agent.json", "err", err)
	}
}
