package delivery

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/printable"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// slack is what the agent may take beyond a command's own timeouts: its grace period, a reconnect.
const slack = 30 * time.Second

// command is an open command: one that was asked for and has not ended.
type command struct {
	id     cloud.CommandID
	req    bundle.CommandRequest
	dir    string // the command's own: the only place that its output can go to
	inv    cloud.Invocation
	sent   string // the boot that it was first sent to; "" before
	sentAt time.Time
	told   bool // on the current connection
	cancel bool
	clock  clock
	due    due
	noted  bool      // due is in a file
	again  time.Time // when the next delivery is tried, as the last one could not be recorded
	saveAt time.Time // when a state that waits in memory is written

	out    [wire.Streams]*os.File
	have   [wire.Streams]int64 // bytes received, or given up
	behind [wire.Streams]int64 // of it, that is on its way to the disk
	acked  [wire.Streams]int64 // of it, on the current connection or another
	full   [wire.Streams]bool  // no more is kept: there is a gap, or a limit was met
	sum    [wire.Streams]sum   // of what is kept, as far as it came to this gateway
}

// sum is a digest that grows with a file.
type sum struct {
	hash.Hash // nil if there was something in the file already
	bytes     int64
}

// requestLimit is more than a request can have, of 64 steps with 64 KiB each.
const requestLimit = 8 << 20

// forgotten stands for a boot of which nobody knows the name any more.
const forgotten = "forgotten"

// noteLimit is more than a note of the gateway has: the name of a boot and three numbers.
const noteLimit = 4 << 10

// open reads the files of a command; nil if it has ended or is gone.
func open(dir bundle.Dir, id cloud.CommandID, k clock) (*command, error) {
	inv, err := dir.Invocation(id)
	if errors.Is(err, fs.ErrNotExist) || err == nil && inv.Status.Terminal() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c := &command{id: id, dir: dir.Path("commands", string(id)), inv: inv, clock: k}
	return c, c.load()
}

func (c *command) path(name string) string { return c.dir + "/" + name }

func (c *command) load() error {
	request, err := bundle.ReadPlain(c.path("request.json"), requestLimit)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(request.Data, &c.req); err != nil {
		return fmt.Errorf("decode the request: %v", err)
	}
	if c.req.Command != c.id || len(c.req.Steps) == 0 || len(c.req.Steps) > wire.MaxSteps {
		return fmt.Errorf("request is of %q with %d steps", c.req.Command, len(c.req.Steps))
	}
	note, err := bundle.ReadPlain(c.path("due"), noteLimit)
	c.noted = err == nil
	if sent, err := bundle.ReadPlain(c.path("sent"), noteLimit); err == nil {
		boot, rest, _ := strings.Cut(string(sent.Data), "\n")
		if c.sent = strings.TrimSpace(boot); c.sent != "" {
			note.Data = []byte(rest)
		}
		c.sentAt = sent.Modified
		for n := range wire.Streams {
			if info, err := os.Lstat(c.path(n.String())); err == nil {
				c.have[n] = info.Size()
			}
		}
	}
	if c.sent == "" && c.req.Begun {
		c.sent = forgotten
	}
	c.due = c.clock.due(c.req, string(note.Data))
	return nil
}

// sync puts the outputs on the disk. They are there before the result is.
func (c *command) sync() {
	for n, f := range c.out {
		if f != nil && unix.Fdatasync(int(f.Fd())) != nil {
			c.full[n] = true
		}
	}
}

// digest notes the digests of the outputs as they are kept. It reads those that an earlier gateway has begun.
func (c *command) digest() error {
	for n, to := range [wire.Streams]*string{wire.Stdout: &c.inv.StdoutSHA256, wire.Stderr: &c.inv.StderrSHA256} {
		if c.have[n] == 0 {
			continue // most print on one of them only, many on none
		}
		if s := c.sum[n]; s.bytes > 0 {
			if info, err := os.Lstat(c.path(wire.Stream(n).String())); err == nil && info.Size() == s.bytes {
				*to = hex.EncodeToString(s.Sum(nil))
				continue
			}
		}
		f, err := os.Open(c.path(wire.Stream(n).String()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		h := sha256.New()
		size, err := io.Copy(h, f)
		f.Close()
		if err != nil {
			return err
		}
		if size > 0 {
			*to = hex.EncodeToString(h.Sum(nil))
		}
	}
	return nil
}

// writeBehind begins to put what was written on the disk, so that sync finds it there.
func (c *command) writeBehind(s wire.Stream) {
	const every = 8 << 20
	if f := c.out[s]; f != nil && c.have[s]-c.behind[s] >= every {
		unix.SyncFileRange(int(f.Fd()), c.behind[s], c.have[s]-c.behind[s], unix.SYNC_FILE_RANGE_WRITE)
		c.behind[s] = c.have[s]
	}
}

func (c *command) close() {
	for _, f := range c.out {
		if f != nil {
			f.Close()
		}
	}
}

// removed reports whether the command's directory is gone.
func (c *command) removed() bool {
	_, err := os.Lstat(c.path("request.json"))
	return errors.Is(err, fs.ErrNotExist)
}

// markSent records the boot that a command is first sent to, before it is: who does not know whether a
// command arrived must not send it to another boot, whose journal may be empty.
func (c *command) markSent(boot string, now time.Time) error {
	if c.sent != "" {
		return nil
	}
	boot = printable.Word(boot, wordMost)
	if strings.TrimSpace(boot) == "" {
		boot = "unknown"
	}
	if err := bundle.PutPlain(c.path("sent"), []byte(boot+"\n"+c.clock.note(c.due)), 0o640); err != nil {
		return err
	}
	c.sent, c.sentAt = boot, now
	return nil
}

// waits records until when the command may be delivered, for a gateway that comes after this one.
func (c *command) waits() error {
	if c.noted {
		return nil
	}
	c.noted = true
	return bundle.PutPlain(c.path("due"), []byte(c.clock.note(c.due)), 0o640)
}

// request is the command as it goes to an agent.
func (c *command) request(id cloud.InstanceID, boot string, limit int64) *wire.Request {
	r := &wire.Request{
		ID: c.id, Environment: map[string]string{}, Offsets: c.have, Limit: limit, Cancel: c.cancel,
		Resume: c.sent != printable.Word(boot, wordMost),
	}
	for k, v := range c.req.Environment {
		r.Environment[k] = v
	}
	r.Environment["AWS_SSM_INSTANCE_ID"] = string(id)
	for _, s := range c.req.Steps {
		r.Steps = append(r.Steps, wire.NewStep(s))
	}
	return r
}

// level is that of the agents that understand the command.
func (c *command) level() (most int) {
	for _, s := range c.req.Steps {
		most = max(most, wire.NewStep(s).Level())
	}
	return most
}

// append adds a piece of output. It returns how many bytes are kept of it.
func (c *command) append(f *wire.Output, limit, room int64) (int64, error) {
	s := f.Stream
	skip := c.have[s] - f.Offset
	if skip >= int64(len(f.Data)) {
		return 0, nil // sent twice
	}
	if skip < 0 {
		c.full[s] = true // the guest has lost a part: what is kept stays a true beginning
		skip = 0
	}
	data := f.Data[skip:]
	c.have[s] = f.Offset + int64(len(f.Data))
	if c.full[s] {
		return 0, nil
	}
	if c.out[s] == nil {
		var err error
		if c.out[s], err = os.OpenFile(c.path(s.String()), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640); err != nil {
			return 0, fmt.Errorf("open %s of %s: %w", s, c.id, err)
		}
		if info, err := c.out[s].Stat(); err == nil && info.Size() == 0 {
			c.sum[s] = sum{Hash: sha256.New()}
		}
	}
	start := c.have[s] - int64(len(data))
	if most := min(limit-start, room); int64(len(data)) > most {
		data, c.full[s] = data[:max(0, most)], true
	}
	n, err := c.out[s].Write(data)
	if err != nil {
		// The host's disk is full: keep a true beginning, and let the command go on.
		c.full[s] = true
	}
	if c.sum[s].Hash != nil {
		c.sum[s].Write(data[:n])
		c.sum[s].bytes += int64(n)
	}
	c.writeBehind(s)
	return int64(n), nil
}

// advance moves to a state that is not the last. It reports whether that changed anything.
func (c *command) advance(s cloud.InvocationStatus, now time.Time) bool {
	if c.inv.Status == s || !c.inv.Status.MayBecome(s) {
		return false
	}
	c.inv.Status, c.inv.Details = s, string(s)
	if s == cloud.InvocationInProgress && c.inv.Started.IsZero() {
		c.inv.Started = now.UTC()
	}
	return true
}

// judge derives the state from what the agent says of the steps: that of the last that has not succeeded, but that a failure
// is worse than a timeout.
func (c *command) judge(r *wire.Result) (cloud.InvocationStatus, string, error) {
	if len(r.Steps) == 0 || len(r.Steps) > len(c.req.Steps) {
		return "", "", fmt.Errorf("result has %d steps, the request %d", len(r.Steps), len(c.req.Steps))
	}
	if r.Steps[0].Outcome == wire.Skipped {
		return "", "", errors.New("the first step was skipped")
	}
	worst, details := cloud.InvocationSuccess, string(cloud.InvocationSuccess)
	for _, s := range r.Steps {
		status, d, err := ended(s.Outcome)
		if err != nil {
			return "", "", err
		}
		if status != cloud.InvocationSuccess && (worst != cloud.InvocationFailed || status != cloud.InvocationTimedOut) {
			worst, details = status, d
		}
	}
	return worst, details, nil
}

// ended translates an outcome into Systems Manager's words. Interrupted is ours: the guest or its agent
// went down, and whether the script has done its work nobody knows.
func ended(o wire.Outcome) (cloud.InvocationStatus, string, error) {
	switch o {
	case wire.Success, wire.Skipped:
		return cloud.InvocationSuccess, "Success", nil
	case wire.Failed:
		return cloud.InvocationFailed, "Failed", nil
	case wire.Interrupted:
		return cloud.InvocationFailed, "Interrupted", nil
	case wire.TimedOut:
		return cloud.InvocationTimedOut, "ExecutionTimedOut", nil
	case wire.Cancelled:
		return cloud.InvocationCancelled, "Cancelled", nil
	}
	return "", "", errors.New("step has an unknown outcome")
}

// end moves to a terminal state. r is nil when the agent has no part in it.
func (c *command) end(s cloud.InvocationStatus, details string, r *wire.Result, now time.Time) {
	c.inv.Status, c.inv.Details = s, details
	c.inv.Ended = now.UTC()
	c.inv.StdoutBytes, c.inv.StderrBytes = c.have[wire.Stdout], c.have[wire.Stderr]
	if r == nil {
		return
	}
	c.inv.StdoutBytes, c.inv.StderrBytes = r.Outputs[wire.Stdout], r.Outputs[wire.Stderr]
	c.inv.Steps = nil
	// The guest's clock only tells how long ago something was, and never before we sent the command.
	when := func(t time.Duration) time.Time {
		at := now.Add(t - r.Now)
		if at.After(now) {
			at = now
		}
		if at.Before(c.sentAt) {
			at = c.sentAt
		}
		return at.UTC()
	}
	for n, step := range r.Steps {
		if step.Outcome == wire.Skipped {
			continue
		}
		status, details, _ := ended(step.Outcome)
		asked := c.req.Steps[n]
		c.inv.Steps = append(c.inv.Steps, cloud.StepResult{
			Name: asked.Name, Action: asked.Action, Status: status, Details: details,
			ResponseCode: code(step), Started: when(step.Started), Ended: when(step.Ended),
			StdoutEnd: step.Outputs[wire.Stdout], StderrEnd: step.Outputs[wire.Stderr],
		})
	}
	last := c.inv.Steps[len(c.inv.Steps)-1]
	c.inv.Started, c.inv.Ended, c.inv.ResponseCode = c.inv.Steps[0].Started, last.Ended, last.ResponseCode
	for _, step := range c.inv.Steps {
		if step.Status == s { // that of the step which decided it, whatever came after
			c.inv.ResponseCode = step.ResponseCode
		}
	}
}

// code keeps a guest's number within what an exit code can be.
func code(s wire.StepResult) int { return min(max(s.Code, -1), 255) }

// reopen undoes end when its result could not be written; what time has ended, time tries again soon.
func (c *command) reopen(now time.Time) {
	const again = 5 * time.Second
	c.inv.Status, c.inv.Details = cloud.InvocationInProgress, string(cloud.InvocationInProgress)
	if c.sent == "" {
		c.inv.Status, c.inv.Details = cloud.InvocationPending, string(cloud.InvocationPending)
	}
	if c.due.expire.Before(now.Add(again)) {
		c.due.expire = now.Add(again)
	}
	if c.sent == "" && c.due.deliver.Before(now.Add(again)) {
		c.due.deliver = now.Add(again)
	}
}

func (c *command) save(dir bundle.Dir) error {
	return bundle.Write(dir.Path("commands", string(c.id)+".json"), c.inv, 0o640)
}

// next returns when the command needs attention by itself.
func (c *command) next() time.Time {
	at := c.due.expire
	if c.sent == "" {
		at = earlier(at, c.due.deliver)
	}
	if !c.again.IsZero() {
		at = earlier(at, c.again)
	}
	if !c.saveAt.IsZero() && c.saveAt.Before(at) {
		at = c.saveAt
	}
	return at
}

// kept returns how many bytes of output lie in a command's directory.
func kept(dir bundle.Dir, id cloud.CommandID) int64 {
	var sum int64
	for n := range wire.Streams {
		if info, err := os.Lstat(dir.CommandOutput(id, n.String())); err == nil {
			sum += info.Size()
		}
	}
	return sum
}
