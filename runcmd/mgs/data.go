package mgs

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/bridge"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// openData promises a data channel for a session that was ordered of the instance.
func (s *Service) openData(w http.ResponseWriter, r *http.Request, from bundle.Found, _ netip.Addr) {
	token, err := s.bridge(from.ID).Token(cloud.SessionID(r.PathValue("id")))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	promise(w, "CreateDataChannelResponse", token)
}

// connectData makes a data channel of a websocket.
func (s *Service) connectData(w http.ResponseWriter, r *http.Request, from bundle.Found, _ netip.Addr) {
	m, id := s.bridge(from.ID), cloud.SessionID(r.PathValue("id"))
	if !m.Has(id) {
		http.Error(w, bridge.ErrUnknown.Error(), http.StatusNotFound)
		return
	}
	ws, err := wire.UpgradeRaw(w, r, maxMessage)
	if err != nil {
		return // answered
	}
	go func() { // not in this goroutine: its stack has grown with net/http's frames
		defer ws.Close()
		hurry := time.AfterFunc(helloWait, func() { ws.Close() })
		opening, text, err := ws.ReadRaw()
		hurry.Stop()
		if err != nil || !text || len(opening) > maxOpening {
			return
		}
		if err := m.Serve(context.Background(), id, opening, ws); err != nil {
			s.log.Debug("data channel ended", "instance", from.ID, "session", id, "err", err)
		}
	}()
}

// bridge returns what keeps the sessions of an instance's agent.
func (s *Service) bridge(id cloud.InstanceID) *bridge.Manager {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.guest(id).bridge
}
