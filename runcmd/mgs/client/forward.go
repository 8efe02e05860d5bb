package client

import (
	"io"
	"net"
	"sync"

	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/mux"
)

// Forward multiplexes a listener's connections over a port session, until either ends. Nobody else may read or write.
func (c *Client) Forward(l net.Listener) error {
	all, err := mux.Client(&carrier{c: c})
	if err != nil {
		return err
	}
	defer all.Close()
	for {
		in, err := l.Accept()
		if err != nil {
			return err
		}
		out, err := all.OpenStream()
		if err != nil {
			in.Close()
			return err
		}
		go join(in, out)
	}
}

// join copies both ways, until both have said all.
func join(in net.Conn, out *mux.Stream) {
	defer in.Close()
	defer out.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, mux.FrameSize))
		out.Close()
	})
	wg.Go(func() {
		io.CopyBuffer(struct{ io.Writer }{in}, struct{ io.Reader }{out}, make([]byte, 64<<10))
		in.Close()
	})
	wg.Wait()
}

// carrier is a session as smux wants to see it.
type carrier struct {
	c    *Client
	rest []byte
}

func (c *carrier) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		kind, b, err := c.c.Read()
		if err != nil {
			return 0, err
		}
		if kind == frame.Data {
			c.rest = b
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *carrier) Write(p []byte) (int, error) {
	if err := c.c.Write(frame.Data, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *carrier) Close() error { return nil } // Run ends with the session
