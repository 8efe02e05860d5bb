//go:build net

package link

import (
	"fmt"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/nstest"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

// The network takes packets and says nothing for a while: neither side is told. However long it was, a command that the
// gateway has sent into it has ended within moments of the network's return.
func TestOutage(t *testing.T) {
	for _, outage := range []time.Duration{300 * time.Millisecond, time.Second, 1450 * time.Millisecond, 3 * time.Second, 8 * time.Second} {
		t.Run(outage.String(), func(t *testing.T) {
			t.Parallel()
			g := serve(t)
			conn := g.welcome(t)
			u, err := url.Parse(g.url)
			if err != nil {
				t.Fatal(err)
			}
			table := "outage" + u.Port()
			nstest.Run(t, "nft", fmt.Sprintf("add table inet %s; add chain inet %s c { type filter hook input priority 0; };"+
				"add rule inet %s c tcp dport %s drop; add rule inet %s c tcp sport %s drop", table, table, table, u.Port(), table, u.Port()))
			req := &wire.Request{ID: command, Steps: []wire.Step{{Name: "a", Script: "true", Timeout: time.Minute}}}
			ended := make(chan bool, 2) // whether it was on the first connection
			ask := func(conn *wire.Conn, first bool) {
				for err := conn.Send(req); err == nil; {
					var f wire.Frame
					if f, err = conn.Receive(); err == nil {
						if _, ok := f.(*wire.Result); ok {
							ended <- first
							return
						}
					}
				}
			}
			go ask(conn, true)
			<-time.After(outage) // the test's subject
			nstest.Run(t, "nft", "delete table inet "+table)
			back := time.Now()
			for {
				select {
				case first := <-ended:
					took := time.Since(back)
					t.Logf("after %v: %v, on the first connection: %t", outage, took.Round(time.Millisecond), first)
					if took > 2*time.Second { // the connection within one, the command within the other

						t.Errorf("the result came %v after the network", took)
					}
					return
				case conn := <-g.conns:
					go func() {
						if _, err := conn.Receive(); err == nil && conn.Send(&wire.Welcome{Version: wire.Version, Epoch: 2, Instance: "i-1"}) == nil {
							ask(conn, false)
						}
					}()
				case <-time.After(30 * time.Second):
					t.Fatal("the agent has not come back")
				}
			}
		})
	}
}
