// Package sessions is the host's part of Session Manager: between a client's data channel and a guest's session.
//
// A client comes through the API and the host's door, at a socket that only the agent may open; what the control
// plane knows of the session comes with it. The guest's agent is told, and dials. The two meet here:
//
//	plugin --data channel--> API --> door --> [ End | session | Stream ] <--websocket-- agent in the guest
//
// The guest is who its address says, and only the session that was ordered of it, with the order's nonce, is its. The
// client is who has the session's token: each token opens the channel for one client, until the API has made the next.
// Neither is believed beyond that. Each direction of a session holds a window of bytes at most, whoever stops to read.
//
// What is left is a record per session below the host's state: who, what, when, how it ended, how many bytes, and of
// a terminal a recording (asciicast v2) with its digest. A gateway that is killed loses the channels, not the sessions:
// they go on in the guests, and a client that resumes gets its screen back.
package sessions

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/door"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
	"github.com/ichiro-metal/ichiro/runcmd/stream"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

const (
	// kept is how long records are kept: as long as Session Manager shows sessions.
	kept = 30 * 24 * time.Hour
	// perInstance bounds the sessions of one instance.
	perInstance = 64
	// helloWait is how long a client may take to say who it is.
	helloWait = 10 * time.Second
)

// guests reach the agents in guests.
type guests interface {
	// Order has a frame sent to an instance's agent; an error if it is not connected or knows no sessions.
	Order(id cloud.InstanceID, f wire.Frame) error
}

// Config is what a hub works with.
type Config struct {
	Dir    string // of the records
	Limit  int64  // bytes of one recording
	Quota  int64  // bytes of all records
	Guests guests
	Log    *slog.Logger
}

// Hub keeps the sessions of a host.
type Hub struct {
	cfg      Config
	mu       sync.Mutex
	sessions map[cloud.SessionID]*session
	wg       sync.WaitGroup
	ctx      context.Context
	stop     context.CancelFunc
}

// New returns a hub without sessions.
func New(cfg Config) *Hub {
	h := &Hub{cfg: cfg, sessions: map[cloud.SessionID]*session{}}
	h.ctx, h.stop = context.WithCancel(context.Background())
	return h
}

// Run keeps the records within their bounds until ctx ends; then the channels are closed.
func (h *Hub) Run(ctx context.Context) error {
	defer h.wg.Wait()
	defer h.stop()
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		h.sweep(time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Handler serves what comes through the host's door.
func (h *Hub) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(door.ChannelPath, h.channel)
	mux.HandleFunc(door.TerminatePath, h.terminate)
	mux.HandleFunc(door.SessionPath, h.tell)
	return mux
}

func (h *Hub) session(id cloud.SessionID) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions[id]
}

// hello is a client's first message.
type hello struct {
	TokenValue, ClientId, ClientVersion string //nolint:staticcheck // the names are the protocol's
}

// channel serves a client.
func (h *Hub) channel(w http.ResponseWriter, r *http.Request) {
	var spec cloud.Session
	data, err := base64.StdEncoding.DecodeString(r.Header.Get(door.SessionHeader))
	if err == nil {
		err = json.Unmarshal(data, &spec)
	}
	if err != nil || !spec.ID.WellFormed() || string(spec.ID) != r.PathValue("session") || !cloud.WellFormed(spec.Target, "i", cloud.ManagedPrefix) {
		http.Error(w, "not a session", http.StatusBadRequest)
		return
	}
	conn, err := wire.UpgradeClient(w, r)
	if err != nil {
		return // answered
	}
	go h.serve(spec, conn) // not in this goroutine: its stack has grown with net/http's frames
}

func (h *Hub) serve(spec cloud.Session, conn *wire.ClientConn) {
	defer conn.Close()
	hurry := time.AfterFunc(helloWait, func() { conn.Close() })
	b, err := conn.Read()
	hurry.Stop()
	if err != nil {
		return
	}
	var who hello
	if json.Unmarshal(b, &who) != nil || len(who.ClientId) > 64 || !tokenMatches(spec, who.TokenValue, time.Now()) {
		h.cfg.Log.Warn("a client without a valid token was refused", "session", spec.ID)
		conn.Refuse("the token is not valid")
		return
	}
	s, why := h.open(spec)
	if s == nil {
		newEnd := newEnd()
		newEnd.Close(time.Now(), string(spec.ID), who.ClientId, why)
		for _, b := range newEnd.Take() {
			conn.Write(b)
		}
		return
	}
	s.attach(h.ctx, conn, who, spec)
}

// open returns the session, begun if it is new; or why there is none.
func (h *Hub) open(spec cloud.Session) (*session, string) {
	if _, err := h.read(spec.ID); !errors.Is(err, fs.ErrNotExist) {
		if s := h.session(spec.ID); s != nil {
			return s, "" // what it said last may still be owed to its client
		}
		return nil, "the session has ended"
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.sessions[spec.ID]; s != nil {
		return s, ""
	}
	if h.ctx.Err() != nil {
		return nil, "the gateway is ending"
	}
	n := 0
	for _, s := range h.sessions {
		if s.spec.Target == spec.Target {
			n++
		}
	}
	if n >= perInstance {
		return nil, "the instance has too many sessions: end some"
	}
	s, err := newSession(h, spec)
	if err != nil {
		h.cfg.Log.Error("begin a session", "session", spec.ID, "err", err)
		return nil, "the host cannot record the session"
	}
	h.sessions[spec.ID] = s
	h.wg.Go(func() { s.run(h.ctx) })
	return s, ""
}

func (h *Hub) forget(s *session) {
	h.mu.Lock()
	delete(h.sessions, s.spec.ID)
	h.mu.Unlock()
	h.sweep(time.Now())
}

// terminate ends a session.
func (h *Hub) terminate(w http.ResponseWriter, r *http.Request) {
	s := h.session(cloud.SessionID(r.PathValue("session")))
	if s == nil {
		// It may go on in the guest, unknown to this gateway since it was started again.
		var spec cloud.Session
		data, err := base64.StdEncoding.DecodeString(r.Header.Get(door.SessionHeader))
		if err == nil && json.Unmarshal(data, &spec) == nil && spec.ID.WellFormed() {
			h.cfg.Guests.Order(spec.Target, &wire.Terminate{ID: spec.ID})
		}
		http.Error(w, "there is none", http.StatusNotFound)
		return
	}
	s.terminate("terminated")
	w.WriteHeader(http.StatusNoContent)
}

// tell says how a session is.
func (h *Hub) tell(w http.ResponseWriter, r *http.Request) {
	id := cloud.SessionID(r.PathValue("session"))
	if !id.WellFormed() {
		http.Error(w, "not a session", http.StatusBadRequest)
		return
	}
	rec, err := h.read(id)
	switch {
	case err == nil:
		json.NewEncoder(w).Encode(rec.End)
	case h.session(id) != nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		http.Error(w, "there is none", http.StatusNotFound)
	}
}

// Guest serves the websocket of a guest for a session.
func (h *Hub) Guest(from cloud.InstanceID, w http.ResponseWriter, r *http.Request) {
	s := h.ordered(from, cloud.SessionID(r.PathValue("session")), r.URL.Query().Get("nonce"))
	if s == nil {
		http.Error(w, "no such session was ordered of this guest", http.StatusForbidden)
		return
	}
	conn, err := wire.UpgradeSession(w, r)
	if err != nil {
		return // answered
	}
	go s.guest(h.ctx, conn)
}

// Join serves a connection for a session of a guest whose agent this process speaks for, until it breaks. It reports whether
// the session was ordered of it.
func (h *Hub) Join(from cloud.InstanceID, id cloud.SessionID, nonce string, conn stream.Conn) bool {
	s := h.ordered(from, id, nonce)
	if s == nil {
		return false
	}
	s.guest(h.ctx, conn)
	return true
}

// ordered returns the session that was ordered of an instance with a nonce, nil if none was.
func (h *Hub) ordered(from cloud.InstanceID, id cloud.SessionID, nonce string) *session {
	s := h.session(id)
	if s == nil || s.spec.Target != from || !same(s.nonce, nonce) {
		return nil
	}
	return s
}

func random() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func newID() (id frame.ID) {
	rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}
