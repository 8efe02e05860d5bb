package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// measured is one line of what a test says that measures: what the clock says, and what the processor was used for.
type measured struct {
	Name      string    `json:"name"`
	Raw       []float64 `json:"raw"`
	Processor []float64 `json:"processor"`
	Of        int       `json:"of"`
}

// network is measured by the test binaries of the packages that make it: they bring namespaces of their own, so that
// neither the machine's network nor other hosts on it are touched.
func (b *bench) network(ctx context.Context) error {
	packets, err := b.measure(ctx, "./agent/firewall", "^TestMeasurePackets$")
	if err != nil {
		return err
	}
	applies, err := b.measure(ctx, "./agent/eni", "^(TestMeasureApply|TestMeasureRepair|TestNoPacketIsLostWhileAgentsComeAndGo)$")
	if err != nil {
		return err
	}
	b.packetFigures(packets)
	b.applyFigures(applies)
	return nil
}

// measure builds a package's tests, runs those that measure, and returns what they say by name.
func (b *bench) measure(ctx context.Context, pkg, tests string) (map[string]measured, error) {
	binary := filepath.Join(b.dir, filepath.Base(pkg)+".test")
	if out, err := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "net", "-o", binary, pkg).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the tests of %s: %w\n%s", pkg, err, out)
	}
	cmd := exec.CommandContext(ctx, binary, "-test.run", tests, "-test.v")
	cmd.Dir = pkg // as go test does
	cmd.Env = append(os.Environ(), "ICHIRO_MEASURE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("measure by %s: %w\n%s", pkg, err, out)
	}
	got := map[string]measured{}
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line, ok := bytes.CutPrefix(lines.Bytes(), []byte("MEASURED "))
		if !ok {
			continue
		}
		var m measured
		if err := json.Unmarshal(line, &m); err != nil {
			return nil, fmt.Errorf("read %q: %w", line, err)
		}
		got[m.Name] = m
	}
	return got, lines.Err()
}

func (b *bench) packetFigures(got map[string]measured) {
	const unit = "ns"
	note := "processor time of a 60-byte UDP packet that nobody answers, softirqs too; rounds in turns"
	b.compare(figure{Name: "packet under all rules, 4,000 interfaces, against no rules", Unit: unit, Target: 1.6, Note: note,
		OursRaw: got["4000"].Raw, RefRaw: got["none"].Raw})
	least, most := got["1"], got["1"]
	for _, n := range []string{"100", "4000", "16000"} {
		if median(got[n].Raw) < median(least.Raw) {
			least = got[n]
		}
		if median(got[n].Raw) > median(most.Raw) {
			most = got[n]
		}
	}
	b.compare(figure{Name: "packet, dearest against cheapest of 1 to 16,000 interfaces", Unit: unit, Target: 1.1,
		Note: fmt.Sprintf("%s interfaces against %s", most.Name, least.Name), OursRaw: most.Raw, RefRaw: least.Raw})
	b.compare(figure{Name: "packet, 5,000 rules of a group against none", Unit: unit, Target: 1.1,
		Note: "addresses and ports of their own, before the one that lets it in", OursRaw: got["5000 rules"].Raw, RefRaw: got["100"].Raw})
}

func (b *bench) applyFigures(got map[string]measured) {
	for _, f := range []struct {
		name, key string
		target    float64 // milliseconds
		quantile  float64
	}{
		{"one address more beside 4,000 interfaces, p99", "one address at 4000", 3, .99},
		{"one interface more beside 4,000, with its tap, p99", "one interface at 4000", 3, .99},
		{"one interface more beside 4,000, of an instance with a bandwidth, p99", "one bounded interface at 4000", 3, .99},
		{"1,000 interfaces from nothing", "1000 from nothing", 1000, .5},
		{"500 of 1,000 interfaces removed", "remove 500", 1000, .5},
		{"a new agent finds 4,000 interfaces as wished", "cold start of 4000", 500, .5},
	} {
		m := got[f.key]
		b.bound(figure{Name: f.name, Unit: "ms", Target: f.target, Ours: quantile(m.Raw, f.quantile), OursRaw: m.Raw,
			Note: fmt.Sprintf("p50 %s ms by the clock, %s ms of processor time (p99 %s)", number(median(m.Raw)), number(median(m.Processor)), number(quantile(m.Processor, .99)))})
	}
	flush := got["foreign flush at 1000"]
	b.bound(figure{Name: "foreign flush repaired", Unit: "ms", Target: 1000, Ours: quantile(flush.Raw, 1), OursRaw: flush.Raw,
		Note: fmt.Sprintf("the longest of %d, of a VPC with 1,000 interfaces, from the start of nft(8) to our transaction; p50 %s ms", len(flush.Raw), number(median(flush.Raw)))})
	b.bound(figure{Name: "packets lost while agents were replaced", Unit: "packets", Target: 0, OursRaw: got["lost by restarts"].Raw,
		Note: fmt.Sprintf("of %d, 1,000 a second", got["lost by restarts"].Of)})
	b.bound(figure{Name: "packets lost while agents were killed at work", Unit: "packets", Target: 0, OursRaw: got["lost by kills"].Raw,
		Note: fmt.Sprintf("of %d, 1,000 a second", got["lost by kills"].Of)})
	b.bound(figure{Name: "memory of a process with 4,000 interfaces", Unit: "MB", Target: 150, OursRaw: got["resident MB at 4000"].Raw,
		Note: "resident, the test's own lists of interfaces too"})
}
