package delivery

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/serial"
)

// portPause is how long a port that does not answer is left alone: its virtual machine is being started, or is over. portAgain is that
// of one where an agent was: it may have been started again.
const (
	portPause = 2 * time.Second
	portAgain = 100 * time.Millisecond
)

// plug has an instance's serial port served from now on, if it has one. Whose it is the directory tells.
func (g *Gateway) plug(i *instance) {
	if _, err := os.Lstat(i.dir.Port()); err != nil {
		return // it is looked at again when it is made
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	id := i.dir.ID()
	if g.ports[id] != nil || g.instances[id] != i {
		return
	}
	ctx, unplug := context.WithCancel(g.ctx)
	g.ports[id] = unplug
	g.crew.Go(func() {
		for ctx.Err() == nil {
			pause := portAgain
			if err := g.servePort(ctx, i); err != nil {
				i.log().Debug("serial port", "err", err)
				pause = portPause
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	})
}

// servePort serves one connection to a port until that breaks; an error where no agent was there.
func (g *Gateway) servePort(ctx context.Context, i *instance) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", i.dir.Port())
	if err != nil {
		return err
	}
	line, err := serial.Gateway(ctx, conn)
	if err != nil {
		return err
	}
	defer line.Close()
	defer context.AfterFunc(ctx, func() { line.Close() })()
	i.log().Info("an agent comes by the serial port")
	err = g.server(func(http.ResponseWriter, *http.Request) (cloud.InstanceID, netip.Addr, bool) {
		return i.dir.ID(), netip.Addr{}, true
	}).Serve(line)
	i.log().Debug("the serial port's line has ended", "err", err)
	return nil
}
