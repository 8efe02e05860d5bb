package main

import (
	"context"
	"fmt"
)

// runcmd measures Run Command without a guest, by the test binary of runcmd: the real agent and the real gateway meet over
// loopback, so that what the processor of a guest takes is not in it.
func (b *bench) runcmd(ctx context.Context) error {
	got, err := b.measure(ctx, "./runcmd", "^TestMeasure(True|Output|Agent|Crowd|Machines|Sessions)$")
	if err != nil {
		return err
	}
	b.compare(figure{Name: "a command of true, from its request to its result", Unit: "ms", Target: 4,
		OursRaw: got["command true"].Raw, RefRaw: got["local true"].Raw, Note: "agent and gateway as processes, the run directory on a tmpfs as /run is, the agent's journal on the disk; reference sh -c true, in turns"})
	b.compare(figure{Name: "the same with the run directory on a disk", Unit: "ms", Target: 4,
		OursRaw: got["command true on disk"].Raw, RefRaw: got["local true"].Raw, Note: "in the same turns; --run is on a tmpfs where nobody says otherwise, and a synced file costs nothing there"})
	const copied = "300 MB of a command's stdout into the host's file, synced; reference a copy from a pipe into a file, synced, in turns"
	b.compare(figure{Name: "output of a command", Unit: "MB/s", Target: 0.5, Least: true,
		OursRaw: got["command output"].Raw, RefRaw: got["plain output"].Raw, Note: copied})
	// A bound from below, as a ratio to what is asked for.
	b.compare(figure{Name: "output of a command, against 100 MB/s", Unit: "MB/s", Target: 1, Least: true,
		OursRaw: got["command output"].Raw, RefRaw: []float64{100}, Note: "the same runs"})
	b.bound(figure{Name: "the agent's program", Unit: "MB", Target: 10, Ours: median(got["agent bytes"].Raw) / 1e6})
	own, shared := median(got["agent own MB"].Raw), median(got["agent shared MB"].Raw)
	b.bound(figure{Name: "an idle agent, resident", Unit: "MB", Target: 12, Ours: own + shared,
		Note: fmt.Sprintf("both its processes: %s MB of their own, and %s MB of the program, which they share", number(own), number(shared))})
	n := number(median(got["agents"].Raw))
	b.bound(figure{Name: "an agent on a gateway", Unit: "KB", Target: 8, OursRaw: got["agent of a gateway KB"].Raw,
		Note: "resident of a gateway with " + n + " agents over one with one; plain websockets, all that is known of an instance included"})
	b.bound(figure{Name: "a machine on a gateway, by TLS", Unit: "KB", Target: 18, OursRaw: got["machine of a gateway KB"].Raw,
		Note: "resident of a gateway with 3,000 machines that are no guests over one with none, each known by its own certificate"})
	b.compare(figure{Name: "a command to all agents of a gateway and their results", Unit: "ms", Target: 2,
		OursRaw: got["command to all ms"].Raw, RefRaw: got["echo to all ms"].Raw,
		Note: n + " agents, from the first request file to the last result file; reference a bare websocket server that sends 600 bytes to as many and gets 300 from each"})
	b.bound(figure{Name: "all agents of a gateway connect after its restart", Unit: "ms", Target: 12000, OursRaw: got["storm ms"].Raw, Note: n + " agents at once"})
	port := "128 MB through a forwarded port, against 100 MB/s; client, source, sink, gateway and agent take " + number(median(got["port down cpu s/GB"].Raw)) + " s of processor time for a GB down"
	for _, f := range []struct{ name, key string }{{"a port of a guest, down", "port down MB/s"}, {"a port of a guest, up", "port up MB/s"}, {"a port of a guest, down by the stock plugin", "port down by the plugin MB/s"}} {
		if raw := got[f.key].Raw; len(raw) > 0 { // the plugin is measured where ICHIRO_SESSION_PLUGIN names it
			b.compare(figure{Name: f.name, Unit: "MB/s", Target: 1, Least: true, OursRaw: raw, RefRaw: []float64{100}, Note: port})
		}
	}
	return nil
}
