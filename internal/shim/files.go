package shim

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// handing is a connection whose first write carries an open file.
type handing struct {
	*net.UnixConn
	file *os.File
}

func (h *handing) Write(b []byte) (int, error) {
	if h.file == nil {
		return h.UnixConn.Write(b)
	}
	raw, err := h.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	var sent error
	// Inside of Control the number is the file's; Fd would put the file into blocking mode.
	err = raw.Control(func(fd uintptr) { n, _, sent = h.WriteMsgUnix(b, unix.UnixRights(int(fd)), nil) })
	h.file = nil
	return n, errors.Join(err, sent)
}

// Taking is a connection that keeps the open files which come with what it reads.
type Taking struct {
	*net.UnixConn

	mu    sync.Mutex
	files []*os.File
}

func (t *Taking) Read(b []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, m, _, _, err := t.ReadMsgUnix(b, oob)
	if m > 0 {
		t.keep(oob[:m])
	}
	if n == 0 && err == nil && len(b) > 0 {
		return 0, net.ErrClosed // ReadMsgUnix has no word for the end
	}
	return n, err
}

func (t *Taking) keep(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			t.files = append(t.files, os.NewFile(uintptr(fd), "handed"))
		}
	}
}

// File takes the oldest file that came, or nil.
func (t *Taking) File() *os.File {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.files) == 0 {
		return nil
	}
	f := t.files[0]
	t.files = t.files[1:]
	return f
}

// Close closes the files that nobody has taken, too.
func (t *Taking) Close() error {
	for f := t.File(); f != nil; f = t.File() {
		f.Close()
	}
	return t.UnixConn.Close()
}

// TakingListener accepts connections that may bring files.
type TakingListener struct{ *net.UnixListener }

// Accept returns a *Taking.
func (l TakingListener) Accept() (net.Conn, error) {
	c, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return &Taking{UnixConn: c}, nil
}

type takingKey struct{}

// WithTaking is for http.Server.ConnContext: the handler finds the connection by TakingFrom.
func WithTaking(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, takingKey{}, c)
}

// TakingFrom returns the connection that a request came on, or nil.
func TakingFrom(ctx context.Context) *Taking {
	t, _ := ctx.Value(takingKey{}).(*Taking)
	return t
}
