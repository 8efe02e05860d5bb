// Program ichiro-imds answers a host's guests at their link-local addresses: metadata at 169.254.169.254 and fd00:ec2::254, names
// at 169.254.169.253 and the second address of their VPC, the time at 169.254.169.123; and it carries their requests to
// the API, which has no address in their networks.
//
// It runs unprivileged, and guests ask it at sockets that the agent opens in each VPC and hands over. Who asks and
// what to say it reads from files that the agent writes; names of the world it asks of the host's
// resolvers. When the agent, the control plane and the store are away it goes on answering.
package main

import (
	"context"
	"flag"
	"log/slog"
	"os"

	"github.com/ichiro-metal/ichiro/imds/dns"
	"github.com/ichiro-metal/ichiro/imds/ntp"
	"github.com/ichiro-metal/ichiro/imds/relay"
	"github.com/ichiro-metal/ichiro/imds/server"
	"github.com/ichiro-metal/ichiro/imds/tree"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/handover"
	"github.com/ichiro-metal/ichiro/internal/service"
)

func main() { os.Exit(service.Main("imds", run)) }

func run(ctx context.Context, args []string, log *slog.Logger) error {
	flags := flag.NewFlagSet("ichiro-imds", flag.ContinueOnError)
	dir := flags.String("run", "/run/ichiro", "the host's run `directory`")
	key := flags.String("token-key", "", "`file` of the key that session tokens are sealed with, made if absent")
	rate := flags.Int("rate", server.DefaultRate, "`requests` a second that an instance may make; 0 for no limit")
	upstream := flags.String("resolvers", "", "`addresses` of the host's resolvers, with commas between (default: those of /etc/resolv.conf)")
	api := flags.String("api", "", "`address` of the API on this host; guests' requests to it go by a socket in the run directory (default: guests have none)")
	trust := flags.Bool("trust-clock", false, "tell guests that the host's clock is right even when the kernel says that nothing keeps it")
	if err := service.Parse(flags, args); err != nil {
		return err
	}
	resolvers := dns.ResolversOf("/etc/resolv.conf")
	if *upstream != "" {
		at, err := cloud.ParseResolvers(*upstream)
		if err != nil {
			return service.Usage{Err: err}
		}
		resolvers = dns.ResolversAt(at...)
	}
	if *key == "" {
		return service.Usagef("--token-key is missing: name a file that only this user can read")
	}
	if *rate < 0 {
		return service.Usagef("--rate %d: a number of requests, or 0 for no limit", *rate)
	}
	tokens, err := server.OpenTokens(*key)
	if err != nil {
		return err
	}
	root := bundle.Root(*dir)
	index := bundle.NewIndex(root)
	defer index.Close()
	srv := server.New(index, tree.EC2(), tokens, log)
	srv.Limit(*rate)
	srv.Issue(*api)
	srv.Expose()
	names := dns.New(index, bundle.NewNetworks(root), resolvers, log)
	names.Expose()
	clock := ntp.New(*trust, log)
	clock.Expose()
	toAPI := ""
	if *api != "" {
		toAPI = root.GuestAPI()
	}
	way := relay.New(index, toAPI, log)
	way.Expose()
	sockets := func(of string, add func(context.Context, handover.Socket), remove func(handover.Socket)) service.Task {
		c := handover.NewClient(root.Handover(), of, log)
		return service.Func(of+" sockets", func(ctx context.Context) error {
			return c.Run(ctx, func(s handover.Socket) { add(ctx, s) }, remove)
		})
	}
	return service.Run(ctx,
		srv, names, clock, way,
		sockets("imds", func(_ context.Context, s handover.Socket) { srv.Add(s) }, srv.Remove),
		sockets("dns", names.Add, names.Remove),
		sockets("ntp", clock.Add, clock.Remove),
		sockets("api", way.Add, way.Remove),
		service.Admin(root.Admin("imds")))
}
