// Ichiro-gateway brings commands to the agents in this host's guests, and people into them.
//
// It runs without privileges. Its listening sockets come from the host's agent (package handover), two for
// each VPC: one for our own agents and one for stock ones (package mgs); machines that are no guests come where the
// operator says (package managed). Its orders and its results are files in the instances' directories (package
// bundle); the clients of sessions come through the host's door. It keeps the records of sessions and the keys by
// which stock agents and machines know it, and may be killed at any time.
package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/handover"
	"github.com/ichiro-metal/ichiro/internal/heap"
	"github.com/ichiro-metal/ichiro/internal/service"
	"github.com/ichiro-metal/ichiro/runcmd/gateway/delivery"
	"github.com/ichiro-metal/ichiro/runcmd/gateway/managed"
	"github.com/ichiro-metal/ichiro/runcmd/gateway/sessions"
	"github.com/ichiro-metal/ichiro/runcmd/mgs"
)

// stockConnections bounds those of a guest's stock agent: two processes have a few each, and each of 64 sessions one.
const stockConnections = 24 + 64

// heapPercent is how much garbage may lie beside what is known of the agents, while there is something to do: with 25 a fifth of the
// processor time of a command to nine thousand was the collector's. When it is over package heap gives it back. heapRoom may always
// lie there: a session has some hundred messages of 64 KiB under way.
const (
	heapPercent = 100
	heapRoom    = 16 << 20
)

func main() { os.Exit(service.Main("gateway", run)) }

func run(ctx context.Context, args []string, log *slog.Logger) error {
	flags := flag.NewFlagSet("ichiro-gateway", flag.ContinueOnError)
	dir := flags.String("run", "/run/ichiro", "run `directory`")
	limit := flags.Int64("output-limit", 256<<20, "`bytes` kept of each output of a command")
	quota := flags.Int64("output-quota", 512<<20, "`bytes` kept of all outputs of an instance; the oldest make room")
	records := flags.String("sessions", "/var/lib/ichiro/sessions", "`directory` of the sessions' records")
	recording := flags.Int64("recording-limit", 64<<20, "`bytes` kept of one session's recording")
	recordings := flags.Int64("recording-quota", 2<<30, "`bytes` kept of all sessions' records, of 30 days at most")
	machines := flags.String("machines", "", "`HOST:PORT` where machines that are no guests come; none when empty")
	identity := flags.String("identity", "/var/lib/ichiro/gateway", "`directory` of the key by which they know this gateway")
	host := flags.String("host", "/var/lib/ichiro/host-id", "`file` with this host's ID")
	if err := service.Parse(flags, args); err != nil {
		return err
	}
	if _, _, err := net.SplitHostPort(*machines); *machines != "" && err != nil {
		return service.Usagef("--machines: %v", err)
	}
	heap.Keep(heapRoom, heapPercent)
	root := bundle.Root(*dir)
	index := bundle.NewOwners(root)
	defer index.Close()
	gateway := delivery.New(root, index, delivery.Limits{Output: *limit, Quota: *quota, Quiet: time.Second, Patience: 3 * time.Second}, log)
	hub := sessions.New(sessions.Config{Dir: *records, Limit: *recording, Quota: *recordings, Guests: gateway, Log: log})
	gateway.Sessions(hub.Guest)
	own := filepath.Dir(root.Admin("gateway")) // on a host it is there
	if err := os.MkdirAll(own, 0o750); err != nil {
		return err
	}
	authority, err := mgs.LoadAuthority(own)
	if err != nil {
		return err
	}
	gateway.Authority(authority)
	stock := mgs.New(mgs.Config{
		Find: index, TLS: authority.TLS(), Log: log, Session: hub.Join,
		Join: func(id cloud.InstanceID, c *mgs.Channel, addr netip.Addr) { gateway.Join(id, c, addr) },
	})
	sockets := handover.NewClient(root.Handover(), "runcmd", log)

	add := func(s handover.Socket) {
		if s.Listener == nil {
			log.Error("the agent gave a socket that does not listen", "vpc", s.VPC)
			return
		}
		log.Info("serving", "vpc", s.VPC, "addr", s.Addr())
		if s.Name != "" { // the second one, for stock agents
			go stock.Serve(s.VPC, delivery.Bound(s.Listener, stockConnections))
			return
		}
		go gateway.Serve(s.VPC, s.Listener) // until the client closes it
	}
	remove := func(s handover.Socket) { log.Info("not serving any more", "vpc", s.VPC) }
	tasks := []service.Task{
		gateway,
		service.Func("sessions", hub.Run),
		service.Func("heap", func(ctx context.Context) error { return heap.Rest(ctx, heap.RestEvery) }),
		service.Func("stock agents", func(ctx context.Context) error {
			<-ctx.Done()
			stock.Close()
			return nil
		}),
		service.Func("channels", func(ctx context.Context) error { return serve(ctx, root.Sessions(), hub.Handler()) }),
		service.Func("sockets", func(ctx context.Context) error { return sockets.Run(ctx, add, remove) }),
		service.Admin(root.Admin("gateway")),
	}
	if *machines != "" {
		cfg := managed.Config{Listen: *machines, Dir: *identity, Host: *host, API: root.GuestAPI(), Log: log}
		tasks = append(tasks, service.Func("machines", func(ctx context.Context) error { return managed.Run(ctx, cfg, gateway) }))
	}
	return service.Run(ctx, tasks...)
}

// serve answers what comes through the host's door: only the agent, which is root, may open the socket.
func serve(ctx context.Context, path string, h http.Handler) error {
	l, err := service.Listen(path, 0o600)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
