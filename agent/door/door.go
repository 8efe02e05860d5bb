// Package door serves what the control plane reads from this host: consoles and command output.
//
// It is a unix socket that only the control plane's user may open and, on a machine that is one of several, a TLS address
// on their network where only the control plane is answered, known by its key (internal/door). It gives out bytes of files in the
// instance directories and nothing else: names are checked against the form of identifiers, files are
// opened below their directory (os.Root) so that no link leads out, and every answer is bounded.
package door

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	wire "github.com/ichiro-metal/ichiro/internal/door"
	"github.com/ichiro-metal/ichiro/internal/service"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// Door is the task that serves.
type Door struct {
	root  bundle.Root
	far   net.Listener // nil: none
	uid   int
	log   *slog.Logger
	ready chan struct{}
}

// New returns a door that opens to one user besides root.
func New(root bundle.Root, uid int, log *slog.Logger) *Door {
	return &Door{root: root, uid: uid, log: log.With("component", "door"), ready: make(chan struct{})}
}

// Also serves the door at a listener, which it then owns.
func (d *Door) Also(l net.Listener) { d.far = l }

// Ready is closed when the door can be opened.
func (d *Door) Ready() <-chan struct{} { return d.ready }

func (d *Door) String() string { return "door" }

// Run serves until ctx ends.
func (d *Door) Run(ctx context.Context) error {
	l, err := service.Listen(d.root.Door(), 0o600)
	if err != nil {
		return err
	}
	if err := os.Chown(d.root.Door(), d.uid, -1); err != nil {
		l.Close()
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc(wire.ConsolePath, d.console)
	mux.HandleFunc(wire.StatePath, d.state)
	mux.HandleFunc(wire.OutputPath, d.output)
	for _, path := range []string{wire.ChannelPath, wire.TerminatePath, wire.SessionPath} {
		mux.Handle(path, d.sessions())
	}
	srv := d.server(mux)
	context.AfterFunc(ctx, func() { srv.Close() })
	close(d.ready)
	if d.far != nil {
		far := d.server(mux)
		far.ConnState = bound(maxFar)
		context.AfterFunc(ctx, func() { far.Close() })
		var group sync.WaitGroup
		defer group.Wait()
		group.Go(func() {
			if err := far.Serve(d.far); !errors.Is(err, http.ErrServerClosed) {
				d.log.Error("the door on the network is shut", "err", err)
			}
		})
	}
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", d.root.Door(), err)
	}
	return nil
}

func (d *Door) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second,
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug), // whoever knocks could fill the log
	}
}

// maxFar bounds the connections over the network: until its key has been seen, anybody may have made one.
const maxFar = 128

// bound closes connections that are more than so many at a time.
func bound(most int64) func(net.Conn, http.ConnState) {
	var open atomic.Int64
	return func(c net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			if open.Add(1) > most {
				c.Close()
			}
		case http.StateClosed, http.StateHijacked:
			open.Add(-1)
		}
	}
}

// sessions hands what is about sessions to the gateway, which knows them.
func (d *Door) sessions() http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) { p.Out.URL.Scheme, p.Out.URL.Host = "http", "gateway" },
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var dialer net.Dialer
				return dialer.DialContext(ctx, "unix", d.root.Sessions())
			},
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			d.log.Warn("the gateway was not reached", "err", err)
			http.Error(w, "the gateway is not there", http.StatusBadGateway)
		},
	}
}

func (d *Door) instance(w http.ResponseWriter, r *http.Request) (bundle.Dir, bool) {
	id := cloud.InstanceID(r.PathValue("instance"))
	if !cloud.WellFormed(id, "i", cloud.ManagedPrefix) {
		http.Error(w, "not an instance", http.StatusBadRequest)
		return "", false
	}
	return d.root.Instance(id), true
}

func (d *Door) console(w http.ResponseWriter, r *http.Request) {
	dir, ok := d.instance(w, r)
	if !ok {
		return
	}
	text, err := shim.ConsoleTail(string(dir), int64(size(r, "tail")))
	if err != nil {
		d.refuse(w, err)
		return
	}
	if info, err := os.Stat(dir.Path("console.log")); err == nil {
		w.Header().Set("Last-Modified", info.ModTime().UTC().Format(http.TimeFormat))
	}
	w.Write(text)
}

// state gives what the gateway has written, read and written again: it may not be what it should be.
func (d *Door) state(w http.ResponseWriter, r *http.Request) {
	dir, ok := d.instance(w, r)
	if !ok {
		return
	}
	id, kind := bundle.ParseCommandFile(r.PathValue("command"))
	if kind != bundle.CommandAsked {
		http.Error(w, "not a command", http.StatusBadRequest)
		return
	}
	inv, err := dir.Invocation(id)
	if err != nil {
		d.refuse(w, err)
		return
	}
	json.NewEncoder(w).Encode(inv)
}

func (d *Door) output(w http.ResponseWriter, r *http.Request) {
	dir, ok := d.instance(w, r)
	if !ok {
		return
	}
	id, kind := bundle.ParseCommandFile(r.PathValue("command"))
	stream := r.PathValue("stream")
	if kind != bundle.CommandAsked || stream != "stdout" && stream != "stderr" {
		http.Error(w, "not the output of a command", http.StatusBadRequest)
		return
	}
	root, err := os.OpenRoot(dir.Commands())
	if err != nil {
		d.refuse(w, err)
		return
	}
	defer root.Close()
	// Not to wait, should the gateway have been made to plant a pipe there.
	f, err := root.OpenFile(string(id)+"/"+stream, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if _, gone := root.Lstat(string(id) + "/" + bundle.Trimmed); gone == nil && errors.Is(err, fs.ErrNotExist) {
		http.Error(w, "it was removed to make room", http.StatusGone)
		return
	}
	if err != nil {
		d.refuse(w, err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		http.Error(w, "not a file", http.StatusNotFound)
		return
	}
	w.Header().Set(wire.LengthHeader, strconv.FormatInt(info.Size(), 10))
	if at, err := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64); err == nil && at > 0 {
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			d.refuse(w, err)
			return
		}
	}
	io.Copy(w, io.LimitReader(f, int64(size(r, "limit"))))
}

// size returns how many bytes are asked for, at most what one answer holds.
func size(r *http.Request, name string) int {
	n, err := strconv.Atoi(r.URL.Query().Get(name))
	if err != nil || n < 0 || n > wire.MaxRead {
		return wire.MaxRead
	}
	return n
}

func (d *Door) refuse(w http.ResponseWriter, err error) {
	if errors.Is(err, fs.ErrNotExist) {
		http.Error(w, "there is none", http.StatusNotFound)
		return
	}
	d.log.Warn("not read", "err", err)
	http.Error(w, "it cannot be read", http.StatusInternalServerError)
}
