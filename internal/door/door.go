// Package door is how the control plane reads what only a host has: consoles and command output.
//
// A host offers its door as HTTP on the socket that cloud.Host names and, where the cloud has several machines, by TLS at
// an address that it names too. It is for reading; wishes reach a host through the store alone. The paths are here, so that both sides say the same; the agent serves them.
//
//	GET /instances/ID/console?tail=N                  the last N bytes
//	GET /instances/ID/commands/ID                     cloud.Invocation, as the gateway has written it last
//	GET /instances/ID/commands/ID/stdout?offset=M&limit=N   N bytes from M, fewer at the end; or stderr. 410 if trimmed away
package door

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// ConsolePath and the others are the patterns of the requests.
const (
	StatePath   = "GET /instances/{instance}/commands/{command}"
	ConsolePath = "GET /instances/{instance}/console"
	OutputPath  = "GET /instances/{instance}/commands/{command}/{stream}"
)

// LengthHeader has the length of a whole output, of which the answer is a part.
const LengthHeader = "Ichiro-Length"

// MaxRead bounds one answer. Systems Manager shows 24,000 characters, EC2 64 KiB of console.
const MaxRead = 128 << 10

// patience is how long a host may take: a client of the API is waiting.
const patience = 5 * time.Second

// restart is how long a host whose door is shut is asked again. Its agent is there anew a second after it was killed or upgraded,
// and what it was asked for just then has not gone.
const (
	restart = 3 * time.Second
	knock   = 50 * time.Millisecond
)

// Client reads at hosts' doors.
type Client struct {
	Identity Identity                    // none: only at those of this machine
	Latest   func(cloud.Host) cloud.Host // what is known of a host by now: a door over the network moves when its agent starts anew; nil for no more
}

// Console returns the last 64 KiB of an instance's console, and when it was written to last.
func (c Client) Console(ctx context.Context, h cloud.Host, id cloud.InstanceID) ([]byte, time.Time, error) {
	data, header, err := c.get(ctx, h, "/instances/"+url.PathEscape(string(id))+"/console", "tail="+strconv.Itoa(64<<10))
	if err != nil {
		return nil, time.Time{}, err
	}
	at, err := http.ParseTime(header.Get("Last-Modified"))
	if err != nil {
		at = time.Now()
	}
	return data, at, nil
}

// ErrTrimmed is returned for an output that was removed because later commands of the instance needed its room.
var ErrTrimmed = errors.New("the output was removed: later commands of the instance have needed its room")

// trimmed is what a user sees in the place of an output that was removed.
const trimmed = "--output removed: later commands of the instance have needed its room--\n"

// Output returns up to limit bytes from the start of a command's stdout or stderr; none when there is no
// such output, and in the place of one that was removed a line that says so.
func (c Client) Output(ctx context.Context, h cloud.Host, i cloud.InstanceID, id cloud.CommandID, stream string, limit int) ([]byte, error) {
	return c.Part(ctx, h, i, id, stream, 0, limit)
}

// Part is Output from an offset on.
func (c Client) Part(ctx context.Context, h cloud.Host, i cloud.InstanceID, id cloud.CommandID, stream string, offset int64, limit int) ([]byte, error) {
	data, err := c.Page(ctx, h, i, id, stream, offset, limit)
	if errors.Is(err, ErrTrimmed) {
		return []byte(trimmed), nil
	}
	return data, err
}

// Page returns up to limit bytes of a command's stdout or stderr from an offset on; none at its end.
func (c Client) Page(ctx context.Context, h cloud.Host, i cloud.InstanceID, id cloud.CommandID, stream string, offset int64, limit int) ([]byte, error) {
	query := "limit=" + strconv.Itoa(limit) + "&offset=" + strconv.FormatInt(offset, 10)
	data, _, err := c.get(ctx, h, commandPath(i, id)+"/"+url.PathEscape(stream), query)
	return data, err
}

// Length returns how many bytes of a command's stdout or stderr the host has; 0 when there is no such output.
func (c Client) Length(ctx context.Context, h cloud.Host, i cloud.InstanceID, id cloud.CommandID, stream string) (int64, error) {
	_, header, err := c.get(ctx, h, commandPath(i, id)+"/"+url.PathEscape(stream), "limit=0")
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(header.Get(LengthHeader), 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("host %s says that an output has %.40q bytes", h.ID, header.Get(LengthHeader))
	}
	return n, nil
}

// Invocation returns what the host's gateway has written last of a command.
func (c Client) Invocation(ctx context.Context, h cloud.Host, i cloud.InstanceID, id cloud.CommandID) (cloud.Invocation, error) {
	var inv cloud.Invocation
	data, _, err := c.get(ctx, h, commandPath(i, id), "")
	if err != nil {
		return inv, err
	}
	if len(data) == 0 {
		return inv, fmt.Errorf("host %s: %w", h.ID, fs.ErrNotExist)
	}
	if err := json.Unmarshal(data, &inv); err != nil {
		return inv, fmt.Errorf("read the state of command %s: %v", id, err)
	}
	return inv, nil
}

func commandPath(i cloud.InstanceID, id cloud.CommandID) string {
	return "/instances/" + url.PathEscape(string(i)) + "/commands/" + url.PathEscape(string(id))
}

// get asks for what may be asked for twice.
func (c Client) get(ctx context.Context, h cloud.Host, path, query string) (data []byte, header http.Header, err error) {
	err = c.again(ctx, h, func(h cloud.Host) (err error) {
		data, header, err = c.once(ctx, h, path, query)
		return err
	})
	return data, header, err
}

// again does something at a host's door, and once more as long as it is shut and restart is not over.
func (c Client) again(ctx context.Context, h cloud.Host, f func(cloud.Host) error) error {
	for began := time.Now(); ; {
		err := f(h)
		if !shut(err) || time.Since(began) > restart {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(knock):
		}
		if c.Latest != nil {
			h = c.Latest(h)
		}
	}
}

// shut reports whether a host's machine is there and nobody at its door, or nobody any more.
func shut(err error) bool {
	return slices.ContainsFunc([]error{syscall.ECONNREFUSED, syscall.ENOENT, syscall.ECONNRESET, syscall.EPIPE, io.EOF, io.ErrUnexpectedEOF},
		func(is error) bool { return errors.Is(err, is) })
}

func (c Client) once(ctx context.Context, h cloud.Host, path, query string) ([]byte, http.Header, error) {
	client := http.Client{Timeout: patience, Transport: c.transport(h)}
	u := url.URL{Scheme: "http", Host: "host", Opaque: "//host" + path, RawQuery: query}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, fmt.Errorf("ask host %s: %w", h.ID, err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNotFound:
		resp.Header.Set(LengthHeader, "0") // what is not there is empty; a host of before the header says nothing, which is not the same
		return nil, resp.Header, nil
	case http.StatusGone:
		return nil, resp.Header, ErrTrimmed
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
