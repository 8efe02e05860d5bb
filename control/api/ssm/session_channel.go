package ssm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// Sessions is what goes on beside the actions: the data channels, and the ends that hosts know of.
type Sessions struct{ s *Service }

// NewSessions returns them.
func NewSessions(cfg Config) *Sessions { return &Sessions{&Service{cfg}} }

// ServeHTTP relays a client's data channel to the session's host. The token is in the client's first message, and the
// gateway there checks it against what it is told here: of the session as it is now.
func (c *Sessions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := cloud.SessionID(strings.TrimPrefix(r.URL.Path, ChannelPath))
	if !id.WellFormed() {
		http.Error(w, "That is not a session", http.StatusNotFound)
		return
	}
	snap := c.s.Mirror.Snapshot()
	o, err := store.MirroredGet(snap, store.Sessions, id)
	if err != nil || o.Value.End != nil || o.Value.Token == "" {
		http.Error(w, "There is no such session, or it has ended", http.StatusNotFound)
		return
	}
	host, err := store.MirroredGet(snap, store.Hosts, o.Value.HostID)
	if err != nil {
		http.Error(w, "The instance's host is not known", http.StatusBadGateway)
		return
	}
	if err := c.s.Sessions.Relay(host.Value, o.Value, w, r); err != nil {
		c.s.Log.Error("relay a data channel", "session", id, "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 10*time.Second)
	defer cancel()
	if err := c.s.settle(ctx, id); err != nil && !errors.Is(err, store.ErrNotFound) {
		c.s.Log.Warn("ask how a session is", "session", id, "err", err)
	}
}

// Reconcile asks the hosts for the ends of sessions, tells them what shall end, and forgets sessions that Session
// Manager would no longer show.
func (c *Sessions) Reconcile(ctx context.Context) error {
	all, err := store.Mirrored(c.s.Mirror.Snapshot(), store.Sessions)
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range all {
		switch {
		case o.Value.End == nil:
			errs = append(errs, c.s.settle(ctx, o.Value.ID))
		case c.s.Now().Sub(o.Value.End.At) > sessionsShown:
			t := store.NewTxn()
			store.Delete(t, store.Sessions, o)
			if _, err := c.s.Store.Commit(ctx, t); err != nil && !errors.Is(err, store.ErrConflict) {
				errs = append(errs, err)
			}
		case !o.Value.Noted && c.s.Now().Sub(o.Value.End.At) > noteWait:
			errs = append(errs, c.s.noteEnd(ctx, o.Value))
		}
	}
	return errors.Join(errs...)
}

// settle asks a session's host how it is, tells it that it shall end if it shall, and keeps the end.
func (s *Service) settle(ctx context.Context, id cloud.SessionID) error {
	snap := s.Mirror.Snapshot()
	o, err := store.MirroredGet(snap, store.Sessions, id)
	if err != nil || o.Value.End != nil {
		return err
	}
	end, err := s.endOf(ctx, snap, o.Value)
	if err != nil || end == nil {
		return err
	}
	told := false
	next, err := s.change(ctx, o, func(n *cloud.Session) bool {
		if told = n.End == nil; told {
			n.End, n.Token = end, ""
		}
		return told
	})
	if err != nil || !told {
		return err
	}
	return s.noteEnd(ctx, next)
}

// noteWait is how long whoever wrote a session's end has to note it: of several control planes one does.
const noteWait = time.Minute

// noteEnd tells the audit of a session's end, and writes down that it was told.
func (s *Service) noteEnd(ctx context.Context, x cloud.Session) error {
	if s.Ended == nil {
		return nil
	}
	if err := s.Ended(x); err != nil {
		return fmt.Errorf("note the end of session %s: %w", x.ID, err)
	}
	o, err := store.MirroredGet(s.Mirror.Snapshot(), store.Sessions, x.ID)
	if err != nil {
		return err
	}
	_, err = s.change(ctx, o, func(n *cloud.Session) bool {
		was := n.Noted
		n.Noted = true
		return !was
	})
	return err
}

// endOf returns how a session has ended, nil if it goes on as far as can be known.
func (s *Service) endOf(ctx context.Context, snap *store.Snapshot, x cloud.Session) (*cloud.SessionEnd, error) {
	now := s.Now().UTC()
	lost := &cloud.SessionEnd{At: now, Code: -1, Reason: "lost"}
	i, err := store.Target(snap, x.Target)
	if err != nil || i.Host != x.HostID {
		return lost, nil // the instance is gone, and with it what ran in it
	}
	host, err := store.MirroredGet(snap, store.Hosts, x.HostID)
	if err != nil {
		return nil, err
	}
	end, known, err := s.Sessions.Session(ctx, host.Value, x)
	if err != nil || end != nil {
		return end, err
	}
	if x.Terminate {
		if known, err = s.Sessions.Terminate(ctx, host.Value, x); err != nil {
			return nil, err
		}
		if !known {
			lost.Reason = "terminated"
			return lost, nil
		}
	}
	if !known && now.After(x.TokenExpires) {
		return lost, nil // no client has come, or its gateway was lost and none has come back
	}
	return nil, nil
}
