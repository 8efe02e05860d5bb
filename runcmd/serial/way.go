package serial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

const (
	// patience is how long the network must have failed before the port is tried: a guest that boots has it within moments.
	patience = 3 * time.Second
	// lookAgain is how often the network is tried while the port is used.
	lookAgain = 10 * time.Second
	// networkWait and portWait bound one try of each: together no more than a websocket's dialler waits.
	networkWait = 2 * time.Second
	portWait    = 2 * time.Second
)

// Way dials the gateway over the network, and over the port while that does not work.
type Way struct {
	log     *slog.Logger
	network wire.Dialer
	port    func() (io.ReadWriteCloser, error)

	patience, lookAgain time.Duration

	mu     sync.Mutex // held while a line is made: those who come meanwhile want the same one
	failed time.Time  // since when the network has; zero if it works
	line   *Line
}

// NewWay returns the ways of the guest that this runs in, whose network has the given dialer.
func NewWay(network wire.Dialer, log *slog.Logger) *Way {
	return &Way{log: log, network: network, port: open,
		patience: patience, lookAgain: lookAgain}
}

// open opens the guest's port. fs.ErrNotExist if it has none.
func open() (io.ReadWriteCloser, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, file := range names {
		if name, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(name)) == Name {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(file)), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("port %s: %w", Name, os.ErrNotExist)
}

// DialContext is a net.Dialer's.
func (w *Way) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if line := w.current(); line != nil {
		return line.Dial()
	}
	conn, err := w.try(ctx, network, address)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.failed = time.Time{}
		return conn, nil
	}
	if w.failed.IsZero() {
		w.failed = time.Now()
	}
	if time.Since(w.failed) < w.patience {
		return nil, err
	}
	if w.line == nil {
		line, lineErr := w.connect(ctx)
		if lineErr != nil {
			return nil, errors.Join(err, lineErr)
		}
		w.log.Info("connected by the serial port", "network", err)
		w.line = line
		go w.keep(line, network, address)
	}
	return w.line.Dial()
}

// try tries the network. A host is at most one hop away.
func (w *Way) try(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, networkWait)
	defer cancel()
	return w.network(ctx, network, address)
}

func (w *Way) current() *Line {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.line
}

func (w *Way) connect(ctx context.Context) (*Line, error) {
	port, err := w.port()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, portWait)
	defer cancel()
	return Agent(ctx, port)
}

// keep ends a line as soon as the network works again: what it carried is dialled anew, there.
func (w *Way) keep(line *Line, network, address string) {
	defer func() {
		line.Close()
		w.mu.Lock()
		w.line = nil
		w.mu.Unlock()
	}()
	t := time.NewTicker(w.lookAgain)
	defer t.Stop()
	for {
		select {
		case <-line.Done():
			return
		case <-t.C:
		}
		if conn, err := w.try(context.Background(), network, address); err == nil {
			conn.Close()
			w.log.Info("the network works again")
			return
		}
	}
}
