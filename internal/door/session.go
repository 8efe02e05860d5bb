package door

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// The requests about sessions, which the door hands to the gateway. What the control plane knows of the session is in
// SessionHeader: the gateway keeps nothing of its own that it could be out of date with.
const (
	ChannelPath   = "GET /sessions/{session}/channel"    // a client's websocket
	TerminatePath = "POST /sessions/{session}/terminate" // 204, or 404
	SessionPath   = "GET /sessions/{session}"            // 200 with cloud.SessionEnd, 204 while it goes on, 404
	SessionHeader = "Ichiro-Session"                     // base64 of the JSON of cloud.Session
)

// Relay hands a client's request for a data channel to the session's host, and then carries bytes both ways until one
// of them hangs up.
func (c Client) Relay(h cloud.Host, s cloud.Session, w http.ResponseWriter, r *http.Request) error {
	header, err := sessionHeader(s)
	if err != nil {
		return err
	}
	transport := c.transport(h)
	transport.DialContext = func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
		err = c.again(ctx, h, func(h cloud.Host) (err error) {
			conn, err = c.Dial(ctx, h)
			return err
		})
		return conn, err
	}
	proxy := httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL = &url.URL{Scheme: "http", Host: "host", Path: "/sessions/" + string(s.ID) + "/channel"}
			p.Out.Host = "host"
			for _, name := range []string{"Authorization", "X-Amz-Security-Token", "Cookie", SessionHeader} {
				p.Out.Header.Del(name)
			}
			p.Out.Header.Set(SessionHeader, header)
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			http.Error(w, "The instance's host cannot be reached", http.StatusBadGateway)
		},
	}
	proxy.ServeHTTP(w, r)
	return nil
}

// Terminate asks a host to end a session. It reports whether the host knows it.
func (c Client) Terminate(ctx context.Context, h cloud.Host, s cloud.Session) (bool, error) {
	code, _, err := c.ask(ctx, http.MethodPost, h, s, "/terminate")
	return code == http.StatusNoContent, err
}

// Session asks a host how a session is: its end, or nil, and whether the host knows it at all.
func (c Client) Session(ctx context.Context, h cloud.Host, s cloud.Session) (end *cloud.SessionEnd, known bool, err error) {
	code, body, err := c.ask(ctx, http.MethodGet, h, s, "")
	if err != nil || code != http.StatusOK {
		return nil, code == http.StatusNoContent, err
	}
	end = &cloud.SessionEnd{}
	return end, true, json.NewDecoder(bytes.NewReader(body)).Decode(end)
}

func (c Client) ask(ctx context.Context, method string, h cloud.Host, s cloud.Session, what string) (int, []byte, error) {
	header, err := sessionHeader(s)
	if err != nil {
		return 0, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://host/sessions/"+url.PathEscape(string(s.ID))+what, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set(SessionHeader, header)
	resp, err := (&http.Client{Timeout: patience, Transport: c.transport(h)}).Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("ask host %s: %w", h.ID, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxRead))
	switch {
	case err != nil:
		return 0, nil, fmt.Errorf("read from host %s: %w", h.ID, err)
	case resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotFound:
		return resp.StatusCode, body, nil
	}
	return 0, nil, fmt.Errorf("ask host %s: %s", h.ID, resp.Status)
}

func sessionHeader(s cloud.Session) (string, error) {
	data, err := json.Marshal(s)
	return base64.StdEncoding.EncodeToString(data), err
}

// transport reaches a host's door, with a connection for each request.
func (c Client) transport(h cloud.Host) *http.Transport {
	return &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Dial(ctx, h) },
	}
}
