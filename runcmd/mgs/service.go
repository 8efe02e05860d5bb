package mgs

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/bridge"
	"github.com/ichiro-metal/ichiro/runcmd/stream"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

const (
	// maxBody bounds a call. An inventory, the longest, has at most 1 MB.
	maxBody = 2 << 20
	// maxMessage bounds a message of the control channel: the agent writes at most 142,000 bytes.
	maxMessage = 160 << 10
	// helloWait is how long a control channel may take to say who it is.
	helloWait = 10 * time.Second
	// poll is how long a call for messages of the older service waits in vain: the agent's client hangs up after longer.
	poll = 15 * time.Second
	// maxOpening bounds the first message of a data channel, and its promise.
	maxOpening = 16 << 10
	// maxTokens bounds the tokens that an instance may have at a time: each opens one control channel.
	maxTokens = 4
)

// Finder tells whose an address is.
type Finder interface {
	Find(vpc cloud.VPCID, addr netip.Addr) (bundle.Found, error)
}

// Config is what a service works with.
type Config struct {
	Find Finder
	TLS  *tls.Config
	// Join serves a control channel until it breaks.
	Join func(cloud.InstanceID, *Channel, netip.Addr)
	// Session serves the host's side of a session until its connection breaks; false for none that was ordered so.
	Session func(of cloud.InstanceID, id cloud.SessionID, nonce string, conn stream.Conn) bool
	Log     *slog.Logger
}

// Service answers stock agents.
type Service struct {
	find    Finder
	join    func(cloud.InstanceID, *Channel, netip.Addr)
	session func(cloud.InstanceID, cloud.SessionID, string, stream.Conn) bool
	tls     *tls.Config
	log     *slog.Logger
	poll    time.Duration

	mu     sync.Mutex
	guests map[cloud.InstanceID]*guest
}

// guest is what is known of an instance with a stock agent.
type guest struct {
	info    *info
	tokens  []string
	channel *Channel
	bridge  *bridge.Manager // of its sessions
}

// info is what an agent says of itself and its machine.
type info struct {
	InstanceID   string `json:"InstanceId"`
	AgentVersion string
	ComputerName string
	PlatformName string
	PlatformType string
	PlatformVer  string `json:"PlatformVersion"`
}

// New returns a service that knows no agents yet.
func New(cfg Config) *Service {
	return &Service{
		find: cfg.Find, join: cfg.Join, session: cfg.Session, tls: cfg.TLS, log: cfg.Log, poll: poll, guests: map[cloud.InstanceID]*guest{},
	}
}

// Close ends the sessions and waits until they have: the agents keep them only for this gateway.
func (s *Service) Close() {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.guests))
	s.mu.Unlock()
	for _, g := range all {
		g.bridge.Close()
	}
}

// Serve answers the agents of a VPC until l, which bounds their connections, is closed.
func (s *Service) Serve(vpc cloud.VPCID, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler(vpc),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       20 * time.Second,
		WriteTimeout:      40 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10, // signatures and session tokens
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // websockets are of HTTP/1.1
	}
	return srv.Serve(tls.NewListener(l, s.tls))
}

// handler knows who calls before anything is done for them.
func (s *Service) handler(vpc cloud.VPCID) http.Handler {
	type action func(http.ResponseWriter, *http.Request, bundle.Found, netip.Addr)
	as := func(do action) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			from, err := netip.ParseAddrPort(r.RemoteAddr)
			if err != nil {
				http.Error(w, "who are you?", http.StatusForbidden)
				return
			}
			found, err := s.find.Find(vpc, from.Addr().Unmap())
			if err != nil {
				http.Error(w, "no instance has this address", http.StatusForbidden)
				return
			}
			do(w, r, found, from.Addr().Unmap())
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{$}", as(s.call))
	mux.HandleFunc("POST /v1/control-channel/{id}", as(s.open))
	mux.HandleFunc("GET /v1/control-channel/{id}", as(s.connect))
	mux.HandleFunc("POST /v1/data-channel/{id}", as(s.openData))
	mux.HandleFunc("GET /v1/data-channel/{id}", as(s.connectData))
	return mux
}

// guest returns what is known of an instance. The caller holds mu.
func (s *Service) guest(id cloud.InstanceID) *guest {
	g := s.guests[id]
	if g == nil {
		g = &guest{bridge: bridge.New(bridge.Config{
			Instance: id, Log: s.log,
			Join: func(session cloud.SessionID, nonce string, conn stream.Conn) bool {
				return s.session(id, session, nonce, conn)
			},
		})}
		s.guests[id] = g
	}
	return g
}

// call answers an action in JSON.
func (s *Service) call(w http.ResponseWriter, r *http.Request, from bundle.Found, _ netip.Addr) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		fault(w, http.StatusRequestEntityTooLarge, "ValidationException", "the request is too long, or was cut short")
		return
	}
	var in struct {
		info
		Destination string
	}
	if err := json.Unmarshal(body, &in); err != nil {
		fault(w, http.StatusBadRequest, "SerializationException", "the request is not of JSON")
		return
	}
	for _, claim := range []string{in.InstanceID, in.Destination} {
		if claim != "" && claim != string(from.ID) {
			fault(w, http.StatusBadRequest, "InvalidInstanceId", "the address that this request came from is of another instance")
			return
		}
	}
	switch target := r.Header.Get("X-Amz-Target"); target {
	case "AmazonSSM.UpdateInstanceInformation":
		s.mu.Lock()
		s.guest(from.ID).info = &in.info
		s.mu.Unlock()
		answer(w, http.StatusOK, struct{}{})
	case "AmazonSSM.ListInstanceAssociations":
		answer(w, http.StatusOK, map[string]any{"Associations": []string{}})
	case "AmazonSSM.PutInventory", "AmazonSSM.PutComplianceItems", "AmazonSSM.UpdateInstanceAssociationStatus":
		// There are no associations, and nobody asks for an inventory that an agent sends by itself.
		answer(w, http.StatusOK, struct{}{})
	case "EC2WindowsMessageDeliveryService.GetMessages":
		s.messages(w, r, from.ID)
	default:
		fault(w, http.StatusBadRequest, "UnsupportedOperation", "ichiro's gateway does not answer this action to the stock agent")
	}
}

// messages answers for the message service of before control channels: there are none, and it takes its time.
func (s *Service) messages(w http.ResponseWriter, r *http.Request, id cloud.InstanceID) {
	t := time.NewTimer(s.poll)
	defer t.Stop()
	select {
	case <-r.Context().Done():
		return
	case <-t.C:
	}
	answer(w, http.StatusOK, map[string]any{"Destination": id, "Messages": []string{}, "MessagesRequestId": rand.Text()})
}

// open promises a control channel.
func (s *Service) open(w http.ResponseWriter, r *http.Request, from bundle.Found, _ netip.Addr) {
	if r.PathValue("id") != string(from.ID) {
		http.Error(w, "the address that this request came from is of another instance", http.StatusForbidden)
		return
	}
	token := rand.Text()
	s.mu.Lock()
	g := s.guest(from.ID)
	g.tokens = append(g.tokens, token)
	g.tokens = g.tokens[max(0, len(g.tokens)-maxTokens):]
	s.mu.Unlock()
	promise(w, "CreateControlChannelResponse", token)
}

// promise answers with the token for a channel.
func promise(w http.ResponseWriter, name, token string) {
	out, err := xml.Marshal(struct {
		XMLName    xml.Name
		TokenValue string
	}{xml.Name{Local: name}, token})
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(http.StatusCreated)
	w.Write(out)
}

// connect makes a control channel of a websocket.
func (s *Service) connect(w http.ResponseWriter, r *http.Request, from bundle.Found, addr netip.Addr) {
	if r.PathValue("id") != string(from.ID) {
		http.Error(w, "the address that this request came from is of another instance", http.StatusForbidden)
		return
	}
	ws, err := wire.UpgradeRaw(w, r, maxMessage)
	if err != nil {
		return // answered
	}
	// Not in this goroutine: its stack has grown with net/http's frames and would stay so.
	go s.attend(ws, from, addr)
}

// attend serves a websocket until it breaks.
func (s *Service) attend(ws *wire.Raw, from bundle.Found, addr netip.Addr) {
	defer ws.Close()
	hurry := time.AfterFunc(helloWait, func() { ws.Close() })
	b, text, err := ws.ReadRaw()
	hurry.Stop()
	if err != nil || !text {
		return
	}
	first, err := parseFirst(b)
	if err != nil {
		s.log.Debug("control channel begins with something else", "instance", from.ID, "err", err)
		return
	}
	c := s.admit(ws, from, first)
	if c == nil {
		s.log.Debug("control channel has no token of ours", "instance", from.ID)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go ws.Ping(ctx) // the agent's own pings come too seldom
	go func() {
		if err := c.serve(); err != nil {
			s.log.Debug("control channel ended", "instance", from.ID, "err", err)
		}
	}()
	s.join(from.ID, c, addr)
	c.Close()
	s.left(from, c)
}

// first is the first message of a control channel.
type first struct {
	TokenValue   string
	AgentVersion string
	PlatformType string
}

func parseFirst(b []byte) (first, error) {
	var f first
	if err := json.Unmarshal(b, &f); err != nil {
		return f, errors.New("first message is not of JSON")
	}
	if f.TokenValue == "" {
		return f, errors.New("first message has no token")
	}
	return f, nil
}

// admit returns the channel of a websocket whose token is one that the instance was given, which it then is no more.
func (s *Service) admit(ws socket, from bundle.Found, f first) *Channel {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.guest(from.ID)
	n := slices.Index(g.tokens, f.TokenValue)
	if n < 0 {
		return nil
	}
	g.tokens = slices.Delete(g.tokens, n, n+1)
	hello := wire.Hello{
		Version: wire.Version, Agent: f.AgentVersion, PlatformType: f.PlatformType,
		Level: wire.Level,  // newJob says of each step whether it can be had
		Boot:  rand.Text(), // each channel is one of its own: what an earlier one was given is not given again
	}
	if g.info != nil {
		hello.Agent, hello.ComputerName = g.info.AgentVersion, g.info.ComputerName
		hello.PlatformName, hello.PlatformVer = g.info.PlatformName, g.info.PlatformVer
	} else if p, err := from.Dir.Agent(); err == nil { // of before this gateway was started
		hello.ComputerName, hello.PlatformName, hello.PlatformVer = p.ComputerName, p.PlatformName, p.PlatformVer
	}
	if strings.EqualFold(hello.PlatformType, "linux") {
		hello.PlatformType = "Linux"
	}
	hello.Sessions = true
	g.channel = newChannel(ws, from.ID, hello, g.channel, g.bridge)
	return g.channel
}

// left forgets the instance of a channel when that is gone itself.
func (s *Service) left(from bundle.Found, c *Channel) {
	if _, err := from.Dir.Agent(); err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.guests[from.ID]; g != nil && g.channel == c {
		delete(s.guests, from.ID)
		go g.bridge.Close() // it waits
	}
}

// answer writes an answer in JSON.
func answer(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte("{}")
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(status)
	w.Write(body)
}

func fault(w http.ResponseWriter, status int, code, message string) {
	answer(w, status, map[string]string{"__type": code, "message": message})
}
