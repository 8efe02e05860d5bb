// Package shim is what the outside knows of an ichiro-shim: the process that keeps one virtual
// machine. It holds the wire types of its control socket and a client for it, the format of
// status.json, and the identity of a process that survives the reuse of its number.
//
// The control socket is shim.sock in the instance directory and speaks HTTP:
//
//	GET  /status                     Status, as status.json has it
//	POST /stop?force_after=90s       press the power button; force after that time
//	POST /reboot                     reset the machine
//	POST /kill                       end QEMU now
//	POST /plug?id=ID&mac=MAC&mtu=N   a further network card on the tap that comes with the request
//	POST /unplug?id=ID&force=1       take it out again; answers when the guest has let go, or at once by force or wait=0
//	GET  /console?offset=N&follow=1  bytes of the console from N; X-Console-Offset tells from where
//
// A request that the machine's state does not allow is answered 409 with a sentence. When no shim
// answers, status.json and console.log can still be read (ReadStatus, ConsoleTail); they are right
// but for what happened since the shim went away, and agent/unit brings it back.
package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrState is wrapped by the answer to a request that the machine's state does not allow.
var ErrState = errors.New("not in this state")

// ErrGone is wrapped when no shim answers.
var ErrGone = errors.New("no shim answers")

const socketName = "shim.sock"

// Client talks to the shim of one instance directory.
type Client struct {
	dir  string
	http *http.Client
}

// NewClient returns a client for the shim of the instance directory dir. It connects when asked
// something.
func NewClient(dir string) *Client {
	c := &Client{dir: dir}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return Dial(ctx, dir, socketName) },
		// A restarted shim has a new socket: an idle connection is of no use.
		DisableKeepAlives: true,
	}}
	return c
}

// Status asks for the machine's status.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	body, _, err := c.do(ctx, http.MethodGet, "/status", nil)
	if err != nil {
		return s, err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(&s); err != nil {
		return s, fmt.Errorf("read the shim's status: %w", err)
	}
	return s, nil
}

// Stop presses the guest's power button, and ends QEMU if the guest is still there after the given
// time. It returns at once. Asking again changes the deadline only if the new one is earlier.
func (c *Client) Stop(ctx context.Context, forceAfter time.Duration) error {
	return c.post(ctx, "/stop", url.Values{"force_after": {forceAfter.String()}})
}

// Reboot resets the machine.
func (c *Client) Reboot(ctx context.Context) error { return c.post(ctx, "/reboot", nil) }

// Kill ends QEMU now, as pulling the plug would.
func (c *Client) Kill(ctx context.Context) error { return c.post(ctx, "/kill", nil) }

// Plug puts a network card into the running machine, on the tap given. A card that is there already is left as it is.
func (c *Client) Plug(ctx context.Context, n Card, tap *os.File) error {
	q := url.Values{"id": {n.ID}, "mac": {n.MAC}, "mtu": {strconv.Itoa(n.MTU)}}
	with := &Client{dir: c.dir, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := Dial(ctx, c.dir, socketName)
			if err != nil {
				return nil, err
			}
			return &handing{conn, tap}, nil
		},
		DisableKeepAlives: true,
	}}}
	return with.post(ctx, "/plug", q)
}

// Card is a network card that is plugged while the machine runs.
type Card struct {
	ID  string
	MAC string
	MTU int // told to the guest; 0 tells nothing
}

// Unplug takes a network card out of the running machine and returns when the guest has let go of it. By force it is cut
// off at once, and stays in the guest, dead, until that lets go. One that is not there is no error.
func (c *Client) Unplug(ctx context.Context, id string, force bool) error {
	q := url.Values{"id": {id}}
	if force {
		q.Set("force", "1")
	}
	return c.post(ctx, "/unplug", q)
}

// LetGo asks the guest to let go of a network card, and does not wait: Status.Cards tells when it has.
func (c *Client) LetGo(ctx context.Context, id string) error {
	return c.post(ctx, "/unplug", url.Values{"id": {id}, "wait": {"0"}})
}

// Console returns the console's bytes from offset on, and the offset of the first byte returned,
// which is later than asked for when older output is no longer kept. A negative offset counts from
// the end.
func (c *Client) Console(ctx context.Context, offset int64) (io.ReadCloser, int64, error) {
	return c.console(ctx, url.Values{"offset": {strconv.FormatInt(offset, 10)}})
}

// Follow is Console which goes on as the guest writes, until ctx ends or the shim does.
func (c *Client) Follow(ctx context.Context, offset int64) (io.ReadCloser, int64, error) {
	return c.console(ctx, url.Values{"offset": {strconv.FormatInt(offset, 10)}, "follow": {"1"}})
}

func (c *Client) console(ctx context.Context, q url.Values) (io.ReadCloser, int64, error) {
	body, h, err := c.do(ctx, http.MethodGet, "/console", q)
	if err != nil {
		return nil, 0, err
	}
	from, err := strconv.ParseInt(h.Get("X-Console-Offset"), 10, 64)
	if err != nil {
		body.Close()
		return nil, 0, fmt.Errorf("read the console's offset: %w", err)
	}
	return body, from, nil
}

func (c *Client) post(ctx context.Context, path string, q url.Values) error {
	body, _, err := c.do(ctx, http.MethodPost, path, q)
	if err != nil {
		return err
	}
	return body.Close()
}

func (c *Client) do(ctx context.Context, method, path string, q url.Values) (io.ReadCloser, http.Header, error) {
	u := url.URL{Scheme: "http", Host: "shim", Path: path, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		return nil, nil, fmt.Errorf("ask shim in %s: %w: %v", c.dir, ErrGone, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp.Body, resp.Header, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	sentence := strings.TrimSpace(string(text))
	if resp.StatusCode == http.StatusConflict {
		return nil, nil, fmt.Errorf("%w: %s", ErrState, sentence)
	}
	return nil, nil, fmt.Errorf("ask shim in %s: %s: %s", c.dir, resp.Status, sentence)
}

// Dial connects to the unix socket name in the directory dir, however long the path to it is: an
// address has room for 107 bytes only, so the path goes through an open directory.
func Dial(ctx context.Context, dir, name string) (*net.UnixConn, error) {
	var conn *net.UnixConn
	err := inDir(dir, func(short string) error {
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", short+name)
		if err != nil {
			return fmt.Errorf("connect to %s/%s: %w", dir, name, plain(err))
		}
		conn = c.(*net.UnixConn)
		return nil
	})
	return conn, err
}

// Listen makes the unix socket name in dir, in place of one that was left there, for this user
// only.
func Listen(dir, name string) (*net.UnixListener, error) {
	var l *net.UnixListener
	err := inDir(dir, func(short string) error {
		if err := os.Remove(short + name); err != nil && !os.IsNotExist(err) {
			return err
		}
		made, err := net.Listen("unix", short+name)
		if err != nil {
			return fmt.Errorf("listen on %s/%s: %w", dir, name, plain(err))
		}
		l = made.(*net.UnixListener)
		l.SetUnlinkOnClose(false) // the name it knows is of an open directory that is closed by now
		return os.Chmod(short+name, 0o600)
	})
	return l, err
}

func inDir(dir string, do func(short string) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return do(fmt.Sprintf("/proc/self/fd/%d/", d.Fd()))
}

// plain removes the address from a network error, where it is the number of a file descriptor.
func plain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// Keeper returns the process that listens at the control socket of the instance directory dir.
func Keeper(ctx context.Context, dir string) (Process, error) {
	conn, err := Dial(ctx, dir, socketName)
	if err != nil {
		return Process{}, fmt.Errorf("%w: %v", ErrGone, err)
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return Process{}, err
	}
	var cred *unix.Ucred
	var credErr error
	// The kernel noted it when the other side began to listen.
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, credErr); err != nil {
		return Process{}, err
	}
	return FindProcess(int(cred.Pid))
}
