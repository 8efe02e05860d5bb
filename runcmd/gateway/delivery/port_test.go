package delivery

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/runcmd/serial"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// An agent that was started again greets at its port, which the gateway has to take anew: at once, as an agent was there.
func TestPortIsTakenAgain(t *testing.T) {
	s := newSite(t)
	dir := s.root.Instance(mine)
	l, err := net.Listen("unix", dir.Port())
	check(t, err)
	defer l.Close()
	var last time.Time
	for n := range 3 {
		rw, err := l.Accept()
		check(t, err)
		if took := time.Since(last); n > 0 && took > time.Second {
			t.Errorf("the port was taken again after %v", took)
		}
		line, err := serial.Agent(t.Context(), rw)
		check(t, err)
		by := wire.Dialer(func(context.Context, string, string) (net.Conn, error) { return line.Dial() })
		conn, err := by.Dial(t.Context(), s.url)
		check(t, err)
		check(t, conn.Send(&wire.Hello{Version: wire.Version, Boot: "boot"}))
		until[*wire.Welcome](t, conn)
		line.Close()
		last = time.Now()
	}
}
