// Package server answers guests on the metadata address.
//
// It decides who asks: the VPC is that of the listening socket, which the agent opened in the VPC's
// namespace and handed over; the address is the sender's, which the firewall has checked against the tap it
// came from. Nothing in the request can change that. What is answered is tree's affair, and comes
// from files alone, so the server needs no right on the host and no other process to be alive.
//
// Requests are held to EC2's rules: session tokens as in IMDSv2, one request to a connection, the hop
// limit on the reply that carries a token, and to limits of size, time and number that one guest
// cannot exceed at the expense of another. Tokens, credentials and user data are never logged.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/imds/tree"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/handover"
)

// The limits. A token request with all headers of the largest known client has under 1 KiB; answers are at most
// the 16 KiB of user data, which even a slow guest takes at once.
const (
	maxHeader      = 8 << 10
	headerTimeout  = 5 * time.Second
	answerTimeout  = 10 * time.Second
	maxConnections = 64 // of one instance at a time; cloud-init uses 2, an instance with many containers some 20
	shutdownGrace  = 2 * time.Second
)

// maxTTL is the longest life of a token in seconds, six hours, by EC2's documentation.
const maxTTL = 21600

// The headers are written in Go's canonical form, and EC2's own spelling differs from it in letter case only.
const (
	tokenHeader = "X-Aws-Ec2-Metadata-Token"
	ttlHeader   = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
)

// Server is the metadata service of a host.
type Server struct {
	index   *bundle.Index
	tree    *tree.Tree
	tokens  *Tokens
	log     *slog.Logger
	now     func() time.Time
	http    *http.Server
	metrics *metrics
	callers callers
	limit   *throttle
	serving sync.WaitGroup

	authority *authority // of tokens for other systems
}

// New returns a Server that answers from the bundles of index.
func New(index *bundle.Index, t *tree.Tree, tokens *Tokens, log *slog.Logger) *Server {
	s := &Server{
		index: index, tree: t, tokens: tokens, now: time.Now,
		log:     log.With("component", "server"),
		metrics: newMetrics(),
		callers: callers{open: map[account]int{}},
		limit:   newThrottle(DefaultRate),

		authority: newAuthority(""),
	}
	s.http = &http.Server{
		Handler:                      s,
		ReadHeaderTimeout:            headerTimeout,
		ReadTimeout:                  headerTimeout,
		WriteTimeout:                 answerTimeout,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnContext:                  func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
	return s
}

// Limit sets how many requests a second an instance may make, 0 for no limit. It is called before there are any.
func (s *Server) Limit(rate int) { s.limit = newThrottle(rate) }

// Ready is nil: sockets come and go with VPCs, and there may be none.
func (s *Server) Ready() <-chan struct{} { return nil }
func (s *Server) String() string         { return "server" }

// Health says which bundle cannot be read.
func (s *Server) Health() error { return s.index.Health() }

// Run waits for ctx to end, and then for the requests that are being answered.
func (s *Server) Run(ctx context.Context) error {
	<-ctx.Done()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if err := s.http.Shutdown(grace); err != nil {
		s.http.Close()
	}
	s.serving.Wait()
	return nil
}

// Add begins to answer the guests of a VPC on a socket that the agent handed over, until somebody closes it.
func (s *Server) Add(from handover.Socket) {
	if from.Listener == nil {
		s.log.Error("the agent gave a socket that does not listen", "vpc", from.VPC)
		return
	}
	s.serve(from.VPC, from.Listener)
}

func (s *Server) serve(vpc cloud.VPCID, l net.Listener) {
	s.log.Info("serving", "vpc", vpc, "address", l.Addr().String())
	s.serving.Go(func() {
		err := s.http.Serve(&listener{Listener: l, vpc: vpc, server: s})
		if !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("serving ended", "vpc", vpc, "err", err)
		}
	})
}

// Remove is told that a socket is closed.
func (s *Server) Remove(from handover.Socket) { s.log.Info("serving ended", "vpc", from.VPC) }

// answer is what goes back.
type answer struct {
	code    int
	body    string
	binary  bool
	allow   string        // methods, with 405
	ttl     time.Duration // of the token that was used or made
	changed time.Time
	hops    int // set on the connection for this reply, 0 leaves it
}

func refuse(code int) answer { return answer{code: code} }

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := s.now()
	c, _ := r.Context().Value(connKey{}).(*conn)
	a, class := s.answer(c, r)
	if a.hops > 0 {
		if err := c.setHops(a.hops); err != nil {
			// Without the limit the token could leave the instance, so there is no token.
			s.log.Error("hop limit not set", "err", err)
			a = refuse(http.StatusInternalServerError)
		}
	}
	a.write(w)
	s.metrics.count(r, class, a.code, s.now().Sub(start))
}

// answer decides. The class of the path is for counting.
func (s *Server) answer(c *conn, r *http.Request) (a answer, class string) {
	path, err := tree.Split(r.URL.EscapedPath())
	if err != nil {
		return refuse(http.StatusBadRequest), "malformed"
	}
	class = classOf(path)
	found, err := s.index.Behind(c.caller.vpc, c.caller.addr)
	if err != nil {
		// A client may come before its bundle: 503 is what clients retry.
		s.metrics.unknown.Inc()
		s.log.Debug("unknown caller", "err", err)
		return refuse(http.StatusServiceUnavailable), class
	}
	if !s.limit.take(found.ID, s.now()) {
		s.metrics.throttled.Inc()
		return refuse(http.StatusServiceUnavailable), class
	}
	if found.Metadata.Options.HTTPEndpoint == "disabled" {
		return refuse(http.StatusForbidden), class
	}
	if class == "token" {
		return s.token(found, path, r), class
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return answer{code: http.StatusMethodNotAllowed, allow: "GET, HEAD"}, class
	}
	left, ok := s.authorize(found, r)
	if !ok {
		return refuse(http.StatusUnauthorized), class
	}
	if class == "jwt" {
		return s.jwt(found, r, left), class
	}
	a = s.get(found, path)
	a.ttl = left
	return a, class
}

// authorize checks the request's token, and returns how long it is still good for; 0 without one.
func (s *Server) authorize(found bundle.Found, r *http.Request) (time.Duration, bool) {
	token := r.Header.Get(tokenHeader)
	if token == "" {
		if found.Metadata.Options.HTTPTokens == "required" {
			s.metrics.noToken.Inc()
			return 0, false
		}
		return 0, true
	}
	left, err := s.tokens.Open(token, found.ID, s.now())
	if err != nil {
		// EC2 refuses a bad token even where none is needed.
		s.metrics.invalidToken.Inc()
		return 0, false
	}
	return left, true
}

// token answers on paths that end in api/token.
func (s *Server) token(found bundle.Found, path []string, r *http.Request) answer {
	switch {
	case r.Method == http.MethodPut && path[0] != "latest":
		return refuse(http.StatusForbidden) // EC2 makes tokens under latest only
	case r.Method == http.MethodOptions:
		return answer{code: http.StatusOK, allow: "OPTIONS, PUT"}
	case r.Method != http.MethodPut:
		return answer{code: http.StatusMethodNotAllowed, allow: "OPTIONS, PUT"}
	case len(r.Header["X-Forwarded-For"]) > 0:
		// Whoever asks is behind a proxy in the instance. 400 and not 403: clients take that for an invitation
		// to go on without tokens.
		return refuse(http.StatusBadRequest)
	}
	ttl, err := strconv.ParseUint(r.Header.Get(ttlHeader), 10, 16)
	if err != nil || ttl < 1 || ttl > maxTTL {
		return refuse(http.StatusBadRequest)
	}
	life := time.Duration(ttl) * time.Second
	return answer{
		code: http.StatusOK,
		body: s.tokens.Seal(found.ID, s.now().Add(life)),
		ttl:  life,
		hops: max(found.Metadata.Options.HopLimit, 1),
	}
}

func (s *Server) get(found bundle.Found, path []string) answer {
	i := tree.Instance{Metadata: found.Metadata, Now: s.now()}
	changed := found.Metadata.Launched
	if i.Profile != nil && len(path) > 2 && path[2] == "iam" { // no other answer needs the secret in memory
		var err error
		i.Credentials, err = s.index.Credentials(found.ID)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Error("credentials not read", "instance", found.ID, "err", err)
			return refuse(http.StatusInternalServerError)
		}
		if i.Credentials != nil {
			changed = i.Credentials.LastUpdated
		}
	}
	content, ok := s.tree.Get(i, path)
	if !ok {
		return refuse(http.StatusNotFound)
	}
	return answer{code: http.StatusOK, body: content.Body, binary: content.Binary, changed: changed}
}

// classOf sorts paths for counting.
func classOf(path []string) string {
	switch {
	case len(path) == 3 && slices.Equal(path[1:], []string{"api", "token"}):
		return "token"
	case slices.Equal(path, []string{"latest", "ichiro", "token"}):
		return "jwt"
	case len(path) < 2:
		return "versions"
	}
	switch path[1] {
	case "meta-data", "dynamic", "user-data":
		return path[1]
	}
	return "other"
}

func (a answer) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Server", "EC2ws") // clients look for it
	h.Set("Connection", "close")
	if a.allow != "" {
		h.Set("Allow", a.allow)
	}
	if a.ttl > 0 {
		h.Set(ttlHeader, strconv.Itoa(int((a.ttl+time.Second-1)/time.Second)))
	}
	switch {
	case a.code == http.StatusOK && a.binary:
		h.Set("Content-Type", "application/octet-stream")
	case a.code == http.StatusOK:
		h.Set("Content-Type", "text/plain")
	case a.code == http.StatusMethodNotAllowed:
		// EC2 sends no page with it.
	default:
		h.Set("Content-Type", "text/html")
		a.body = page(a.code)
	}
	if a.code == http.StatusOK && a.allow == "" {
		h.Set("Accept-Ranges", "none")
		if !a.changed.IsZero() {
			h.Set("Last-Modified", a.changed.UTC().Format(http.TimeFormat))
		}
	}
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.code)
	io.WriteString(w, a.body)
}

// page is the body of an error: XHTML, of which clients read the title at most.
func page(code int) string {
	title := fmt.Sprintf("%d - %s", code, http.StatusText(code))
	return `<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
<head><title>` + title + `</title></head>
<body><h1>` + title + `</h1></body>
</html>
`
}
