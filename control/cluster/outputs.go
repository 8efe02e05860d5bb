package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/door"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// carried is how many outputs are carried at a time: one that is large or slow does not hold up all others.
const carried = 4

// refusedFor is how long a bucket is left alone that has not let an output in: its owner may make it or allow it again.
const refusedFor = 5 * time.Minute

// trimmedNote is what is put in the place of an output that the host has removed meanwhile.
const trimmedNote = "--output removed: later commands of the instance have needed its room--\n"

// outputDoor reads what a host keeps of a command.
type outputDoor interface {
	Length(ctx context.Context, h cloud.Host, i cloud.InstanceID, id cloud.CommandID, stream string) (int64, error)
	Page(ctx context.Context, h cloud.Host, i cloud.InstanceID, id cloud.CommandID, stream string, offset int64, limit int) ([]byte, error)
}

// bucket writes objects in the name of who has given the grant. A cloud.Error means that they may not.
type bucket interface {
	Put(ctx context.Context, grant, bucket, key string, size int64, body io.Reader) error
}

// Outputs carries the outputs of commands to the buckets that their callers have named, when each instance has ended. The
// host keeps an output until the command is forgotten, or later ones of the instance need its room, so an object store
// that is away only makes it late. What is carried twice is the same object.
type Outputs struct {
	Config
	Door   outputDoor
	Bucket bucket

	refused map[cloud.CommandID]time.Time // when their buckets are to be asked again
}

// Reconcile carries whatever has ended and is not in its bucket yet. A bucket that refuses is no failure of ours; one that
// is away is, and is asked again soon.
func (u *Outputs) Reconcile(ctx context.Context) error {
	snap := u.Mirror.Snapshot()
	all, err := store.Mirrored(snap, store.Deliveries)
	if err != nil {
		return err
	}
	now, waiting := u.Now(), map[cloud.CommandID]time.Time{}
	hosts := &patient{outputDoor: u.Door, away: map[cloud.HostID]error{}}
	var errs []error
	for _, d := range all {
		if until, ok := u.refused[d.Value.Command]; ok && now.Before(until) {
			waiting[d.Value.Command] = until
			continue
		}
		err := u.deliver(ctx, snap, hosts, d)
		if cloud.Code(err) != "" {
			u.Log.Warn("the output of a command was not let into its bucket", "command", d.Value.Command, "err", err)
			waiting[d.Value.Command] = now.Add(refusedFor)
		} else if err != nil && !errors.Is(err, store.ErrConflict) {
			errs = append(errs, err)
		}
	}
	u.refused = waiting
	return errors.Join(errs...)
}

// patient is the doors of one round, in which a host that has not answered is not waited for again.
type patient struct {
	outputDoor
	mu   sync.Mutex
	away map[cloud.HostID]error
}

func (p *patient) Length(ctx context.Context, h cloud.Host, i cloud.InstanceID, id cloud.CommandID, stream string) (int64, error) {
	p.mu.Lock()
	err := p.away[h.ID]
	p.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := p.outputDoor.Length(ctx, h, i, id, stream)
	if silent := new(url.Error); errors.As(err, &silent) { // what it answers, if only about one output, takes no time
		p.mu.Lock()
		p.away[h.ID] = err
		p.mu.Unlock()
	}
	return n, err
}

// deliver carries what has ended of one command, and keeps a note of it in one transaction.
func (u *Outputs) deliver(ctx context.Context, snap *store.Snapshot, hosts outputDoor, d store.Object[cloud.Delivery]) error {
	o, err := store.MirroredGet(snap, store.Commands, d.Value.Command)
	if errors.Is(err, store.ErrNotFound) { // forgotten
		t := store.NewTxn()
		store.Delete(t, store.Deliveries, d)
		_, err := u.Store.Commit(ctx, t)
		return err
	}
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	next, slots := d.Value, make(chan struct{}, carried)
	next.Done = slices.Clone(next.Done)
	var errs []error
	for _, id := range o.Value.Instances {
		inv, _ := shown(snap, o.Value, id, u.Now())
		if !inv.Status.Terminal() || slices.Contains(d.Value.Done, id) {
			continue
		}
		slots <- struct{}{}
		group.Go(func() {
			err := u.carry(ctx, snap, hosts, o.Value, d.Value, inv)
			<-slots
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("carry the output of %s on %s: %w", o.Value.ID, id, err))
				return
			}
			next.Done = append(next.Done, id)
		})
	}
	group.Wait()
	if len(next.Done) > len(d.Value.Done) || len(o.Value.Instances) == 0 {
		t := store.NewTxn()
		if len(next.Done) == len(o.Value.Instances) {
			store.Delete(t, store.Deliveries, d)
		} else {
			store.Update(t, store.Deliveries, d, next)
		}
		if _, err := u.Store.Commit(ctx, t); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// carry puts the outputs of a command on an instance into the bucket.
func (u *Outputs) carry(ctx context.Context, snap *store.Snapshot, hosts outputDoor, c cloud.Command, d cloud.Delivery, inv cloud.Invocation) error {
	host, err := store.MirroredGet(snap, store.Hosts, c.Hosts[inv.Instance])
	if errors.Is(err, store.ErrNotFound) {
		return nil // it has left the cloud, or nothing was ever sent: there is no output
	}
	if err != nil {
		return err
	}
	var lengths [2]int64
	gone := [2]bool{}
	for k, stream := range []string{"stdout", "stderr"} {
		lengths[k], err = hosts.Length(ctx, host.Value, inv.Instance, c.ID, stream)
		if gone[k] = errors.Is(err, door.ErrTrimmed); gone[k] {
			lengths[k], err = max(inv.StdoutBytes, 0), nil
			if stream == "stderr" {
				lengths[k] = max(inv.StderrBytes, 0)
			}
		}
		if err != nil {
			return err
		}
	}
	for _, p := range c.Output.Parts(c, d, inv, lengths[0], lengths[1]) {
		size, body := p.To-p.From, io.Reader(&pages{read: func(offset int64, limit int) ([]byte, error) {
			return hosts.Page(ctx, host.Value, inv.Instance, c.ID, p.Stream, offset, limit)
		}, at: p.From, end: p.To})
		if gone[0] && p.Stream == "stdout" || gone[1] && p.Stream == "stderr" {
			size, body = int64(len(trimmedNote)), strings.NewReader(trimmedNote)
		}
		if err := u.Bucket.Put(ctx, d.Grant, c.Output.Bucket, p.Key, size, body); err != nil {
			return err
		}
	}
	return nil
}

// pages reads a part of an output page by page.
type pages struct {
	read    func(offset int64, limit int) ([]byte, error)
	at, end int64
	page    []byte
}

func (p *pages) Read(b []byte) (int, error) {
	if len(p.page) == 0 {
		if p.at == p.end {
			return 0, io.EOF
		}
		var err error
		if p.page, err = p.read(p.at, int(min(p.end-p.at, door.MaxRead))); err != nil {
			return 0, err
		}
		if len(p.page) == 0 {
			return 0, io.ErrUnexpectedEOF
		}
		p.at += int64(len(p.page))
	}
	n := copy(b, p.page)
	p.page = p.page[n:]
	return n, nil
}
