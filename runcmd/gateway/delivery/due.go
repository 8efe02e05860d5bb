package delivery

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/bundle"
)

// A request says until when it may be delivered, as a time of day. Whoever sets the host's clock must not end commands by
// it, nor keep them for ever: from the moment that the gateway first looks at a request, what is left counts down on a
// clock that nobody sets. A gateway that is started again in the same boot goes on from what its predecessor noted, in
// `sent` or, while the command waits for its agent, in `due`.

// due is until when a command may be delivered, and until when it may take.
type due struct{ deliver, expire time.Time }

// clock tells a command's due.
type clock struct {
	boot string           // of the host
	wall func() time.Time // what can be set
}

func newClock() clock {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return clock{"", time.Now} // notes are of no use then
	}
	return clock{strings.TrimSpace(string(boot)), time.Now}
}

// steady is the time since boot, suspension included.
func steady() time.Duration {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &t)
	return time.Duration(t.Nano())
}

// due returns a request's, from the note of an earlier gateway if there is one of this boot.
func (k clock) due(req bundle.CommandRequest, note string) due {
	now := time.Now()
	var boot string
	var deliver, expire time.Duration
	if n, _ := fmt.Sscan(note, &boot, &deliver, &expire); n == 3 && boot == k.boot && boot != "" {
		at := steady()
		return due{now.Add(deliver - at), now.Add(expire - at)}
	}
	left := req.DeliverBy.Sub(k.wall())
	if !req.Requested.IsZero() {
		left = min(left, req.DeliverBy.Sub(req.Requested)) // a clock that was set back gives nobody more
	}
	all := left + slack
	for _, s := range req.Steps {
		all += time.Duration(s.TimeoutSeconds) * time.Second
	}
	return due{now.Add(left), now.Add(all)}
}

// note is what the next gateway is told of d.
func (k clock) note(d due) string {
	now, at := time.Now(), steady()
	return fmt.Sprintf("%s %d %d\n", k.boot, at+d.deliver.Sub(now), at+d.expire.Sub(now))
}

// waits makes a note of a command that the next gateway may have to deliver.
func (i *instance) waits(c *command) {
	if err := c.waits(); err != nil {
		i.log().Warn("record until when a command waits", "command", c.id, "err", err)
	}
}
