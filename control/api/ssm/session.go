package ssm

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

const (
	// tokenLife is how long a token opens a data channel. The AWS CLI starts the plugin at once.
	tokenLife = 2 * time.Minute
	// sessionsShown is how long Session Manager shows sessions.
	sessionsShown = 30 * 24 * time.Hour
	// ChannelPath is where data channels are, on the API's endpoint; the session's ID follows.
	ChannelPath = api.ChannelPath
)

// sessionDoor is what hosts do for sessions.
type sessionDoor interface {
	// Relay hands a client's request for a data channel to the host.
	Relay(h cloud.Host, s cloud.Session, w http.ResponseWriter, r *http.Request) error
	// Terminate asks for the end; false when the host does not know the session.
	Terminate(ctx context.Context, h cloud.Host, s cloud.Session) (bool, error)
	// Session returns the end, nil while there is none, and whether the host knows the session at all.
	Session(ctx context.Context, h cloud.Host, s cloud.Session) (*cloud.SessionEnd, bool, error)
}

// sessionActions are the part of the table that is about sessions.
func (s *Service) sessionActions() []api.Action {
	ro := api.ReadOnly()
	return []api.Action{
		api.Do("StartSession", s.StartSession, api.Resource(func(in *shape.StartSessionInput) []string {
			return []string{targetARN(cloud.InstanceID(in.Target)), "document/" + cmp.Or(in.DocumentName, preferences)}
		})),
		api.Do("ResumeSession", s.ResumeSession, api.Resource(func(in *shape.ResumeSessionInput) []string { return []string{"session/" + in.SessionId} })),
		api.Do("TerminateSession", s.TerminateSession, api.Resource(func(in *shape.TerminateSessionInput) []string { return []string{"session/" + in.SessionId} })),
		api.Do("DescribeSessions", s.DescribeSessions, ro),
		api.Do("GetConnectionStatus", s.GetConnectionStatus, ro, api.Resource(func(in *shape.GetConnectionStatusInput) []string {
			return []string{targetARN(cloud.InstanceID(in.Target))}
		})),
	}
}

// StartSession makes a session and the token that opens its data channel. The guest hears of it with the client.
func (s *Service) StartSession(ctx context.Context, in *shape.StartSessionInput) (*shape.StartSessionOutput, error) {
	if utf8.RuneCountInString(in.Reason) > 256 {
		return nil, cloud.Errorf("ValidationException", "Reason may have 256 characters")
	}
	name := cmp.Or(in.DocumentName, preferences)
	snap := s.Mirror.Snapshot()
	p, local, err := s.sessionPlan(ctx, snap, name, in.Parameters)
	if err != nil {
		return nil, err
	}
	i, connected := s.connected(ctx, snap, in.Target)
	if !connected {
		return nil, cloud.Errorf("TargetNotConnected", "%.40s is not connected.", in.Target)
	}
	id, err := s.newSessionID(api.CallerFrom(ctx))
	if err != nil {
		return nil, err
	}
	token, hash, err := s.newToken()
	if err != nil {
		return nil, err
	}
	now := s.Now().UTC()
	session := cloud.Session{
		ID: id, Account: caller(ctx), Owner: api.CallerFrom(ctx).ARN, Target: i.ID, HostID: i.Host, Document: name, Reason: in.Reason,
		LocalPort: local, Plan: p, Started: now, Token: hash, TokenExpires: now.Add(tokenLife),
	}
	t := store.NewTxn()
	store.Create(t, store.Sessions, id, session)
	rev, err := s.Store.Commit(ctx, t)
	if err != nil {
		return nil, err
	}
	note{Session: id}.on(ctx)
	return &shape.StartSessionOutput{SessionId: string(id), TokenValue: token, StreamUrl: s.streamURL(ctx, id)}, s.Mirror.WaitRev(ctx, rev)
}

// connected returns the caller's instance, and whether its agent is connected.
func (s *Service) connected(ctx context.Context, snap *store.Snapshot, target string) (cloud.Instance, bool) {
	i, err := store.Target(snap, cloud.InstanceID(nonEmpty(target)))
	if err != nil || i.Account != caller(ctx) || !s.managed(snap, i) {
		return cloud.Instance{}, false
	}
	ping, err := store.MirroredGet(snap, store.Pings(i.Host), i.ID)
	return i, err == nil && ping.Value.Connected
}

// newSessionID names a session for who starts it, as Session Manager does: policies go by session/${aws:username}-*.
func (s *Service) newSessionID(who api.Identity) (cloud.SessionID, error) {
	name := who.ARN[strings.LastIndexAny(who.ARN, ":/")+1:]
	name = strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("-_=,@", r) {
			return r
		}
		return '_'
	}, name)
	name = strings.TrimLeft(name[:min(len(name), 64)], "-")
	return cloud.NewID[cloud.SessionID](s.Rand, cmp.Or(name, "session"))
}

// newToken returns a token and what is kept of it.
func (s *Service) newToken() (token, hash string, err error) {
	var b [32]byte
	if _, err := io.ReadFull(s.Rand, b[:]); err != nil {
		return "", "", err
	}
	token = base64.RawURLEncoding.EncodeToString(b[:])
	sum := sha256.Sum256([]byte(token))
	return token, hex.EncodeToString(sum[:]), nil
}

// streamURL is where the caller reached the API.
func (s *Service) streamURL(ctx context.Context, id cloud.SessionID) string {
	host, secure := api.Reached(ctx)
	scheme := "ws://"
	if secure {
		scheme = "wss://"
	}
	return scheme + host + ChannelPath + string(id) + "?role=publish_subscribe"
}

// owned returns the caller's account's session.
func (s *Service) owned(ctx context.Context, snap *store.Snapshot, id string) (store.Object[cloud.Session], error) {
	none := cloud.Errorf("DoesNotExistException", "Session %.96s does not exist: see describe-sessions", id)
	if !cloud.SessionID(id).WellFormed() {
		return store.Object[cloud.Session]{}, none
	}
	o, err := store.MirroredGet(snap, store.Sessions, cloud.SessionID(id))
	if errors.Is(err, store.ErrNotFound) || err == nil && o.Value.Account != caller(ctx) {
		return o, none
	}
	return o, err
}

// change applies f to a session until nobody else changes it at the same time.
func (s *Service) change(ctx context.Context, o store.Object[cloud.Session], f func(*cloud.Session) bool) (cloud.Session, error) {
	for {
		next := o.Value
		if !f(&next) {
			return next, nil
		}
		t := store.NewTxn()
		store.Update(t, store.Sessions, o, next)
		rev, err := s.Store.Commit(ctx, t)
		if err == nil {
			return next, s.Mirror.WaitRev(ctx, rev)
		}
		if !errors.Is(err, store.ErrConflict) {
			return next, err
		}
		if rev, err = s.Store.Head(ctx); err == nil {
			err = s.Mirror.WaitRev(ctx, rev)
		}
		if err != nil {
			return next, err
		}
		if o, err = store.MirroredGet(s.Mirror.Snapshot(), store.Sessions, o.Value.ID); err != nil {
			return next, err
		}
	}
}

// ResumeSession makes the next token, which puts the one before out of use. A session is its owner's: whoever resumes
// it is in it. One that has ended answers without a token, which clients take for its end.
func (s *Service) ResumeSession(ctx context.Context, in *shape.ResumeSessionInput) (*shape.ResumeSessionOutput, error) {
	o, err := s.owned(ctx, s.Mirror.Snapshot(), in.SessionId)
	if err != nil {
		return nil, err
	}
	if o.Value.Owner != api.CallerFrom(ctx).ARN {
		return nil, cloud.Errorf("AccessDeniedException", "Session %s belongs to another: only who has started it may resume it", o.Value.ID)
	}
	token, hash, err := s.newToken()
	if err != nil {
		return nil, err
	}
	next, err := s.change(ctx, o, func(n *cloud.Session) bool {
		if n.End != nil || n.Terminate {
			return false
		}
		n.Token, n.TokenExpires, n.Resumes = hash, s.Now().UTC().Add(tokenLife), n.Resumes+1
		return true
	})
	switch {
	case err != nil:
		return nil, err
	case next.Token != hash:
		return &shape.ResumeSessionOutput{SessionId: in.SessionId}, nil
	}
	return &shape.ResumeSessionOutput{SessionId: in.SessionId, TokenValue: token, StreamUrl: s.streamURL(ctx, next.ID)}, nil
}

// TerminateSession ends a session. Its host is told now, and again until it has.
func (s *Service) TerminateSession(ctx context.Context, in *shape.TerminateSessionInput) (*shape.TerminateSessionOutput, error) {
	o, err := s.owned(ctx, s.Mirror.Snapshot(), in.SessionId)
	if err != nil {
		return nil, err
	}
	next, err := s.change(ctx, o, func(n *cloud.Session) bool {
		if n.End != nil || n.Terminate {
			return false
		}
		n.Terminate, n.Token = true, ""
		return true
	})
	if err != nil {
		return nil, err
	}
	if next.End == nil {
		if err := s.settle(ctx, next.ID); err != nil {
			s.Log.Warn("a session's host was not told of its end", "session", next.ID, "err", err)
		}
	}
	return &shape.TerminateSessionOutput{SessionId: in.SessionId}, nil
}

// GetConnectionStatus tells whether a session could be started.
func (s *Service) GetConnectionStatus(ctx context.Context, in *shape.GetConnectionStatusInput) (*shape.GetConnectionStatusOutput, error) {
	status := "notconnected"
	if _, ok := s.connected(ctx, s.Mirror.Snapshot(), in.Target); ok {
		status = "connected"
	}
	return &shape.GetConnectionStatusOutput{Target: in.Target, Status: status}, nil
}
