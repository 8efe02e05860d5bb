package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// How long an address that does not take a notice is left alone, doubled each time; and how long one is sent at all, from the end
// of its command on.
const (
	firstNotice = time.Second
	lastNotice  = 5 * time.Minute
	noticeLife  = 24 * time.Hour
)

// turn is after what time an address that is slow is told the rest the next time: all commands' notices wait for one round's end.
const turn = 5 * time.Second

// told is how many addresses are told at the same time: one that takes its time is not to hold up the others.
const told = 16

// poster sends to an address and returns nil if it was taken.
type poster interface {
	Post(ctx context.Context, address string, header map[string]string, body []byte) error
}

// Notices tells the addresses that callers have named how their commands go: at least once, since what was told is written down
// after it. The same notice has the same MessageId each time.
type Notices struct {
	Config
	Poster poster

	mu    sync.Mutex
	later map[cloud.CommandID]delay
}

type delay struct {
	until time.Time
	pause time.Duration
}

// Reconcile tells what is to be told now. That an address does not take it is logged and no failure of ours.
func (u *Notices) Reconcile(ctx context.Context) error {
	snap := u.Mirror.Snapshot()
	all, err := store.Mirrored(snap, store.Notices)
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	slots, errs := make(chan struct{}, told), make([]error, len(all))
	for k, n := range all {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			if err := u.tell(ctx, snap, n); err != nil && !errors.Is(err, store.ErrConflict) {
				errs[k] = err
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// tell tells of one command.
func (u *Notices) tell(ctx context.Context, snap *store.Snapshot, n store.Object[cloud.Notice]) error {
	o, err := store.MirroredGet(snap, store.Commands, n.Value.Command)
	if errors.Is(err, store.ErrNotFound) || err == nil && o.Value.Notify == nil {
		return u.over(ctx, n)
	}
	if err != nil {
		return err
	}
	c, now := o.Value, u.Now().UTC()
	seen := make([]cloud.Invocation, len(c.Instances))
	for k, id := range c.Instances {
		seen[k], _ = shown(snap, c, id, now)
	}
	due, last := c.Notify.Due(c, n.Value.Told, seen, now)
	if len(due) == 0 && last {
		return u.over(ctx, n)
	}
	if len(due) == 0 || now.Before(u.delayed(c.ID).until) {
		return nil
	}
	next := n.Value
	if next.Told = maps.Clone(next.Told); next.Told == nil {
		next.Told = map[cloud.InstanceID]cloud.InvocationStatus{}
	}
	var failed error
	done := 0
	for _, e := range due {
		if done > 0 && u.Now().Sub(now) > turn {
			break
		}
		header, body := u.notice(c, e)
		if failed = u.Poster.Post(ctx, c.Notify.URL, header, body); failed != nil {
			break
		}
		next.Told[e.Instance] = e.Status
		done++
	}
	switch {
	case failed == nil:
		u.delay(c.ID, delay{})
		if last && done == len(due) {
			return u.over(ctx, n)
		}
	case last && now.Sub(ended(seen, c)) > noticeLife:
		u.Log.Warn("nobody takes a notice of a command: given up", "command", c.ID, "err", failed)
		return u.over(ctx, n)
	default:
		pause := min(max(2*u.delayed(c.ID).pause, firstNotice), lastNotice)
		u.delay(c.ID, delay{now.Add(pause), pause})
		u.Log.Warn("a notice of a command was not taken", "command", c.ID, "again", pause, "err", failed)
	}
	if done == 0 {
		return nil
	}
	t := store.NewTxn()
	store.Update(t, store.Notices, n, next)
	_, err = u.Store.Commit(ctx, t)
	return err
}

// ended is when the last instance has ended; when the command was sent if none has begun.
func ended(seen []cloud.Invocation, c cloud.Command) time.Time {
	at := c.Requested
	for _, i := range seen {
		if i.Ended.After(at) {
			at = i.Ended
		}
	}
	return at
}

func (u *Notices) over(ctx context.Context, n store.Object[cloud.Notice]) error {
	u.delay(n.Value.Command, delay{})
	t := store.NewTxn()
	store.Delete(t, store.Notices, n)
	_, err := u.Store.Commit(ctx, t)
	return err
}

func (u *Notices) delayed(id cloud.CommandID) delay {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.later[id]
}

func (u *Notices) delay(id cloud.CommandID, d delay) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if d.pause == 0 {
		delete(u.later, id)
		return
	}
	if u.later == nil {
		u.later = map[cloud.CommandID]delay{}
	}
	u.later[id] = d
}

// notice is what is sent: a notification as SNS has it, without SNS's signature, whose Message is Run Command's.
func (u *Notices) notice(c cloud.Command, e cloud.NoticeEvent) (header map[string]string, body []byte) {
	const clock = "2006-01-02T15:04:05.000Z"
	message := map[string]any{
		"commandId": c.ID, "documentName": c.DocumentName, "requestedDateTime": c.Requested.UTC().Format(clock), "status": e.Status, "detailedStatus": e.Details,
		"eventTime": e.At.UTC().Format(clock),
	}
	if e.Instance != "" {
		message["instanceId"] = e.Instance
	} else {
		message["instanceIds"], message["expiresAfter"] = c.Instances, c.Expires.UTC().Format(clock)
		message["outputS3BucketName"], message["outputS3KeyPrefix"] = "", ""
		if c.Output != nil {
			message["outputS3BucketName"], message["outputS3KeyPrefix"] = c.Output.Bucket, c.Output.Prefix
		}
	}
	text, _ := json.Marshal(message) // strings and lists of them always encode
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s", c.ID, e.Instance, e.Status))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80 // version 8 of RFC 9562: of one's own making
	id := fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
	body, _ = json.Marshal(map[string]string{
		"Type": "Notification", "MessageId": id, "TopicArn": c.Notify.URL, "Subject": "EC2 Run Command Notification " + u.Region, "Message": string(text),
		"Timestamp": u.Now().UTC().Format(clock),
	})
	return map[string]string{"Content-Type": "text/plain; charset=UTF-8", "x-amz-sns-message-type": "Notification", "x-amz-sns-message-id": id, "User-Agent": "ichiro"}, body
}
