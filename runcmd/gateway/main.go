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
	"net"
	"os"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/handover"
	"github.com/ichiro-metal/ichiro/internal/service"
	"github.com/ichiro-metal/ichiro/runcmd/gateway/delivery"
)

func main() { os.Exit(service.Main("gateway", run)) }

func run(ctx context.Context, args []string, log *slog.Logger) error {
	flags := flag.NewFlagSet("ichiro-gateway", flag.ContinueOnError)
	dir := flags.String("run", "/run/ichiro", "run `directory`")
	limit := flags.Int64("output-limit", 16<<20, "`bytes` kept of each output of a command")
	quota := flags.Int64("output-quota", 512<<20, "`bytes` kept of all outputs of an instance")
	if err := service.Parse(flags, args); err != nil {
		return err
	}
	root := bundle.Root(*dir)
	index := bundle.NewIndex(root)
	defer index.Close()
	gateway := delivery.New(root, index, delivery.Limits{Output: *limit, Quota: *quota, Quiet: time.Second, Patience: 3 * time.Second}, log)
	sockets := handover.NewClient(root.Handover(), "runcmd", log)

	add := func(vpc cloud.VPCID, l net.Listener) {
		log.Info("serving", "vpc", vpc, "addr", l.Addr())
		go gateway.Serve(vpc, l) // until the client closes l
	}
	remove := func(vpc cloud.VPCID) { log.Info("not serving any more", "vpc", vpc) }
	return service.Run(ctx,
		gateway,
		service.Func("sockets", func(ctx context.Context) error { return sockets.Run(ctx, add, remove) }),
		service.Admin(root.Admin("gateway")),
	)
}
