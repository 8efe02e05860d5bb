package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// metadataMock is what the metadata service is compared with, besides a handler that answers one word.
const metadataMock = "github.com/aws/amazon-ec2-metadata-mock/cmd/ec2-metadata-mock@v1.13.0"

// imds is measured by the test binaries of imds/server, through the agent's rules, and of control, which makes the keys of roles.
func (b *bench) imds(ctx context.Context) error {
	install := exec.CommandContext(ctx, "go", "install", metadataMock)
	install.Env = append(os.Environ(), "GOBIN="+b.dir)
	if out, err := install.CombinedOutput(); err != nil {
		return fmt.Errorf("build the reference: %w\n%s", err, out)
	}
	if err := os.Setenv("ICHIRO_MOCK", filepath.Join(b.dir, "ec2-metadata-mock")); err != nil {
		return err
	}
	got, err := b.measure(ctx, "./imds/server", "^TestMeasureAnswers$")
	if err != nil {
		return err
	}
	made, err := b.measure(ctx, "./control", "^TestMeasureRotation$")
	if err != nil {
		return err
	}
	const note = "a connection for each request, 16 at a time, from a guest's namespace through all rules; rounds in turns; reference a bare net/http handler there"
	rate := func(name, ours, reference, note string, target float64) {
		b.compare(figure{Name: name, Unit: "/s", Target: target, Least: true, OursRaw: got[ours].Raw, RefRaw: got[reference].Raw, Note: note})
	}
	rate("metadata, a leaf", "get", "bare", note, 0.8)
	rate("metadata, a token", "put", "bare", note, 0.6)
	rate("metadata, a leaf against amazon-ec2-metadata-mock", "get", "mock", "the same, in the same rounds", 1.5)
	for _, k := range []string{"get", "put"} {
		b.compare(figure{Name: "metadata, p99 of " + k, Unit: "ms", Target: 3, OursRaw: got[k+" p99"].Raw, RefRaw: got["bare p99"].Raw, Note: "against the bare handler's"})
	}
	b.bound(figure{Name: "metadata, 200 crawls at once", Unit: "s", Target: 2, Ours: quantile(got["crawl of 200"].Raw, 1), OursRaw: got["crawl of 200"].Raw,
		Note: fmt.Sprintf("the longest; %s requests each, as cloud-init reads; whoever asks is on the same processors", number(median(got["requests of a crawl"].Raw)))})
	b.bound(figure{Name: "metadata, memory of 1,000 instances", Unit: "MB", Target: 20, OursRaw: got["resident MB of 1000"].Raw, Note: "resident, over the same process with one"})
	b.bound(figure{Name: "credentials of 1,000 roles made anew", Unit: "s", Target: 5, OursRaw: made["1000 roles"].Raw, Note: "all due at once; a real store and engine"})
	return nil
}
