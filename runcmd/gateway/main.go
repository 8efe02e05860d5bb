// Ichiro-gateway brings commands to the agents in this host's guests.
//
// It runs without privileges. Its listening sockets come from the host's agent, one for each VPC
// (package handover); its orders and its results are files in the instances' directories (package
// bundle); it keeps nothing else and may be killed at any time.
package main

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/handover"
	"github.com/ichiro-metal/ichiro/internal/service"
	"github.com/ichiro-metal/ichiro/runcmd/gateway/delivery"
)

func main() { os.Exit(service.Main("gateway", run)) }

func run(ctx context.Context, args []string, log *slog.Logger) error {
	flags := flag.NewFlagSet("ichiro-gateway", flag.ContinueOnError)
	dir := flags.String("run", "/run/ichiro", "run `directory`")
	limit := flags.Int64("output-limit", 256<<20, "`bytes` kept of each output of a command")
	quota := flags.Int64("output-quota", 512<<20, "`bytes` kept of all outputs of an instance; the oldest make room")
	if err := service.Parse(flags, args); err != nil {
		return err
	}
	root := bundle.Root(*dir)
	index := bundle.NewIndex(root)
	defer index.Close()
	gateway := delivery.New(root, index, delivery.Limits{Output: *limit, Quota: *quota, Quiet: time.Second, Patience: 3 * time.Second}, log)
	sockets := handover.NewClient(root.Handover(), "runcmd", log)

	add := func(s handover.Socket) {
		if s.Listener == nil {
			log.Error("the agent gave a socket that does not listen", "vpc", s.VPC)
			return
		}
		log.Info("serving", "vpc", s.VPC, "addr", s.Addr())
		go gateway.Serve(s.VPC, s.Listener) // until the client closes it
	}
	remove := func(s handover.Socket) { log.Info("not serving any more", "vpc", s.VPC) }
	return service.Run(ctx,
		gateway,
		service.Func("sockets", func(ctx context.Context) error { return sockets.Run(ctx, add, remove) }),
		service.Admin(root.Admin("gateway")),
	)
}
