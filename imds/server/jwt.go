package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/ticket"
)

// Tokens for other systems are the one answer that files do not hold: the control plane signs them when they are asked for.
// While it is away there are those that were asked for before, until a quarter of their life is left, and else 503.
//
// What one guest asks costs others nothing: a second brings it a few signatures, so many are under way on the host, and
// so many are remembered of each.
const (
	asksRate    = 5 // a second, of an instance
	asksAtOnce  = 16
	asksTimeout = 3 * time.Second
	kept        = 8 // audiences of an instance
	maxToken    = 16 << 10
)

// authority asks the control plane.
type authority struct {
	api   string // address; "" for none
	http  *http.Client
	limit *throttle
	slots chan struct{}

	mu     sync.Mutex
	tokens map[cloud.InstanceID][]issued // oldest first
}

type issued struct {
	of   string // all that was asked for, and who the instance was
	text string
	at   time.Time
	life time.Duration
}

func newAuthority(api string) *authority {
	return &authority{
		api: api, limit: newThrottle(asksRate), slots: make(chan struct{}, asksAtOnce), tokens: map[cloud.InstanceID][]issued{},
		http: &http.Client{
			Timeout:       asksTimeout,
			Transport:     &http.Transport{MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute}, // and no proxy
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Issue lets the server ask the API at an address for tokens; without it every request for one is answered 503.
func (s *Server) Issue(api string) { s.authority = newAuthority(api) }

// errAsked is wrong with the request and not with the way.
var errAsked = errors.New("the request is malformed")

// jwt answers GET /latest/ichiro/token?audience=...&nonce=...&ttl=... A session token is a must, whatever the instance's
// options say: nobody knew this path before, so no client needs it without.
func (s *Server) jwt(found bundle.Found, r *http.Request, left time.Duration) answer {
	if left == 0 {
		s.metrics.noToken.Inc()
		return refuse(http.StatusUnauthorized)
	}
	if len(r.Header["X-Forwarded-For"]) > 0 {
		return refuse(http.StatusBadRequest)
	}
	ask, err := wanted(found.ID, r.URL.RawQuery)
	if err != nil {
		return refuse(http.StatusBadRequest)
	}
	text, err := s.authority.token(r.Context(), found, ask, s.now())
	switch {
	case errors.Is(err, errAsked):
		return refuse(http.StatusBadRequest)
	case err != nil:
		s.log.Warn("no token for a guest", "instance", found.ID, "err", err)
		return refuse(http.StatusServiceUnavailable)
	}
	return answer{code: http.StatusOK, body: text, ttl: left}
}

// wanted reads a guest's query.
func wanted(id cloud.InstanceID, query string) (ticket.Request, error) {
	v, err := url.ParseQuery(query)
	if err != nil {
		return ticket.Request{}, err
	}
	for name, values := range v {
		if len(values) != 1 || name != "audience" && name != "nonce" && name != "ttl" {
			return ticket.Request{}, fmt.Errorf("%q is unknown, or there twice", name)
		}
	}
	ask := ticket.Request{Instance: id, Audience: v.Get("audience"), Nonce: v.Get("nonce"), Life: ticket.DefaultLife}
	if v.Has("ttl") {
		seconds, err := strconv.ParseUint(v.Get("ttl"), 10, 31)
		if err != nil {
			return ticket.Request{}, err
		}
		ask.Life = time.Duration(seconds) * time.Second
	}
	return ask, ask.Check()
}

// token returns one that was asked for before, if no nonce makes it a new one, or asks.
func (a *authority) token(ctx context.Context, found bundle.Found, ask ticket.Request, now time.Time) (string, error) {
	m := found.Metadata
	of := fmt.Sprintf("%q %d %q %q", ask.Audience, ask.Life, m.Identity.Key, m.Identity.Document)
	if m.Profile != nil {
		of += fmt.Sprintf(" %q %q", m.Profile.ID, m.Profile.RoleName)
	}
	if text := a.had(found.ID, of, now); text != "" && ask.Nonce == "" {
		return text, nil
	}
	if !a.limit.take(found.ID, now) {
		return "", errors.New("the instance asks too often")
	}
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	default:
		return "", errors.New("too many are asking")
	}
	ask.At = now
	text, err := a.ask(ctx, found, ask)
	if err == nil && ask.Nonce == "" {
		a.keep(found.ID, issued{of, text, now, ask.Life})
	}
	return text, err
}

func (a *authority) ask(ctx context.Context, found bundle.Found, ask ticket.Request) (string, error) {
	if a.api == "" {
		return "", errors.New("this host knows no API")
	}
	t, err := bundle.Read[ticket.Ticket](found.Dir.Path(bundle.TicketFile))
	if err != nil {
		return "", err
	}
	query, authorization := ask.Sign(t)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.api+ticket.Path+"?"+query, nil)
	if err != nil {
		return "", err
	}
	r.Header.Set("Authorization", authorization)
	reply, err := a.http.Do(r)
	if err != nil {
		var wrapped *url.Error // it says the whole URL, with the nonce
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return "", fmt.Errorf("ask the control plane: %w", err)
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(io.LimitReader(reply.Body, maxToken))
	switch {
	case err != nil:
		return "", fmt.Errorf("ask the control plane: %w", err)
	case reply.StatusCode == http.StatusBadRequest:
		return "", errAsked
	case reply.StatusCode != http.StatusOK || strings.Count(string(body), ".") != 2:
		return "", fmt.Errorf("the control plane answers %s", reply.Status)
	}
	return string(body), nil
}

// had returns a token with a quarter of its life left at least.
func (a *authority) had(id cloud.InstanceID, of string, now time.Time) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.tokens[id] {
		if age := now.Sub(t.at); t.of == of && age >= 0 && age < t.life*3/4 {
			return t.text
		}
	}
	return ""
}

// keep remembers a token in the place of one for the same, or of the oldest; and forgets instances whose tokens are all over.
func (a *authority) keep(id cloud.InstanceID, next issued) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for other, list := range a.tokens {
		if last := list[len(list)-1]; next.at.Sub(last.at) > ticket.MaxLife {
			delete(a.tokens, other)
		}
	}
	list := a.tokens[id][:0:0]
	for _, t := range a.tokens[id] {
		if t.of != next.of {
			list = append(list, t)
		}
	}
	list = append(list, next)
	a.tokens[id] = list[max(0, len(list)-kept):]
}
