// Package door is how the control plane reads what only a host has: consoles and command output.
//
// A host offers its door as HTTP on the socket that cloud.Host names and, where the cloud has several machines, by TLS at
// an address that it names too. It is for reading; wishes reach a host through the store alone. The paths are here, so that both sides say the same; the agent serves them.
//
//	GET /instances/ID/console?tail=N                  the last N bytes
//	GET /instances/ID/commands/ID/stdout?limit=N      the first N bytes; or stderr
package door

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// ConsolePath and OutputPath are the patterns of the two requests.
const (
	ConsolePath = "GET /instances/{instance}/console"
	OutputPath  = "GET /instances/{instance}/commands/{command}/{stream}"
)

// MaxRead bounds one answer. Systems Manager shows 24,000 characters, EC2 64 KiB of console.
const MaxRead = 128 << 10

// patience is how long a host may take: a client of the API is waiting.
const patience = 5 * time.Second

// Client reads at hosts' doors.
type Client struct{ Identity Identity } // none: only at those of this machine

// Console returns the last 64 KiB of an instance's console, and when it was written to last.
func (c Client) Console(ctx context.Context, h cloud.Host, id cloud.InstanceID) ([]byte, time.Time, error) {
	data, header, err := c.get(ctx, h, "/instances/"+url.PathEscape(string(id))+"/console", "tail", 64<<10)
	if err != nil {
		return nil, time.Time{}, err
	}
	at, err := http.ParseTime(header.Get("Last-Modified"))
	if err != nil {
		at = time.Now()
	}
	return data, at, nil
}

// Output returns up to limit bytes from the start of a command's stdout or stderr; none when there is no
// such output.
func (c Client) Output(ctx context.Context, h cloud.Host, i cloud.InstanceID, id cloud.CommandID, stream string, limit int) ([]byte, error) {
	path := "/instances/" + url.PathEscape(string(i)) + "/commands/" + url.PathEscape(string(id)) + "/" + url.PathEscape(stream)
	data, _, err := c.get(ctx, h, path, "limit", limit)
	return data, err
}

func (c Client) get(ctx context.Context, h cloud.Host, path, bound string, n int) ([]byte, http.Header, error) {
	client := http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return c.Dial(ctx, h)
		},
	}}
	u := url.URL{Scheme: "http", Host: "host", Opaque: "//host" + path, RawQuery: bound + "=" + strconv.Itoa(n)}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, fmt.Errorf("ask host %s: %w", h.ID, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil, resp.Header, nil
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, MaxRead))
	if err != nil {
		return nil, nil, fmt.Errorf("read from host %s: %w", h.ID, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("ask host %s: %s: %.200s", h.ID, resp.Status, data)
	}
	return data, resp.Header, nil
}
