// Package mux is many connections over one: smux version 1, which the stock plugin speaks for ports.
//
// It is the door of the library. Both ends have no keepalive, because a session's idle time goes by its bytes, and
// frames that fill a message of the session together with their header.
package mux

import (
	"io"

	"github.com/xtaci/smux"

	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// FrameSize is the largest payload of a frame: the fewer the frames, the more bytes a second.
const FrameSize = wire.MaxData - 8

// Session and Stream are the library's.
type (
	Session = smux.Session
	Stream  = smux.Stream
)

func config() *smux.Config {
	c := smux.DefaultConfig()
	c.KeepAliveDisabled = true
	c.MaxFrameSize = FrameSize
	// Version 1 knows no window of a stream: what nobody reads fills the session's buffer, and then all wait.
	c.MaxReceiveBuffer, c.MaxStreamBuffer = 4<<20, 1<<20
	return c
}

// Server is the end that accepts streams.
func Server(rw io.ReadWriteCloser) (*Session, error) { return smux.Server(rw, config()) }

// Client is the end that opens them.
func Client(rw io.ReadWriteCloser) (*Session, error) { return smux.Client(rw, config()) }
