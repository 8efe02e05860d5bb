// Program ichiro-imds is the metadata service of a host: it answers guests on 169.254.169.254.
//
// It runs unprivileged and opens no network socket of its own. The agent hands it one listening socket
// for each VPC; who asks and what to say it reads from the instances' bundles. When the agent, the
// control plane and the store are away it goes on answering.
package main

import (
	"context"
	"flag"
	"log/slog"
	"os"

	"github.com/ichiro-metal/ichiro/imds/server"
	"github.com/ichiro-metal/ichiro/imds/tree"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/handover"
	"github.com/ichiro-metal/ichiro/internal/service"
)

func main() { os.Exit(service.Main("imds", run)) }

func run(ctx context.Context, args []string, log *slog.Logger) error {
	flags := flag.NewFlagSet("ichiro-imds", flag.ContinueOnError)
	dir := flags.String("run", "/run/ichiro", "the host's run `directory`")
	key := flags.String("token-key", "", "`file` of the key that session tokens are sealed with, made if absent")
	if err := service.Parse(flags, args); err != nil {
		return err
	}
	if *key == "" {
		return service.Usagef("--token-key is missing: name a file that only this user can read")
	}
	tokens, err := server.OpenTokens(*key)
	if err != nil {
		return err
	}
	root := bundle.Root(*dir)
	index := bundle.NewIndex(root)
	defer index.Close()
	srv := server.New(index, tree.EC2(), tokens, log)
	srv.Expose()
	sockets := handover.NewClient(root.Handover(), "imds", log)
	return service.Run(ctx,
		srv,
		service.Func("handover", func(ctx context.Context) error { return sockets.Run(ctx, srv.Add, srv.Remove) }),
		service.Admin(root.Admin("imds")))
}
