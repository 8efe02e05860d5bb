package main_test

import (
	"fmt"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// BenchmarkTrue compares, in turns, a command from its request file to its result file with a plain
// `sh -c true` of this process.
func BenchmarkTrue(b *testing.B) {
	h := newHost(b)
	h.startGateway()
	h.startAgent()
	h.end(h.send("true"))
	var local, command []time.Duration
	for b.Loop() {
		start := time.Now()
		check(b, exec.Command("/bin/sh", "-c", "true").Run())
		local = append(local, time.Since(start))
		start = time.Now()
		inv := h.end(h.send("true"))
		command = append(command, time.Since(start))
		if inv.Status != cloud.InvocationSuccess {
			b.Fatalf("got %+v", inv)
		}
	}
	slices.Sort(local)
	slices.Sort(command)
	p := func(d []time.Duration, q float64) float64 {
		return float64(d[int(q*float64(len(d)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(p(local, 0.5), "local-p50-ms")
	b.ReportMetric(p(command, 0.5), "command-p50-ms")
	b.ReportMetric(p(command, 0.99), "command-p99-ms")
	b.ReportMetric(p(command, 0.5)-p(local, 0.5), "over-local-ms")
}

// BenchmarkOutput measures a command's output from its process into the file on the host.
func BenchmarkOutput(b *testing.B) {
	const size = 64 << 20
	h := newHost(b)
	h.startGateway("--output-limit", fmt.Sprint(size), "--output-quota", fmt.Sprint(1<<40))
	h.startAgent()
	h.end(h.send("true"))
	b.SetBytes(size)
	for b.Loop() {
		id := h.send(fmt.Sprintf("head -c %d /dev/zero", size))
		inv := h.end(id)
		if n := len(h.output(id, wire.Stdout)); inv.Status != cloud.InvocationSuccess || n != size {
			b.Fatalf("got %d bytes and %+v", n, inv)
		}
		check(b, h.dir.RemoveCommand(id))
	}
}
