package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

const (
	sent   = 200
	rounds = 10 // between which the guest's own time is measured
	shells = 20 // starts of a shell in one measurement
	pause  = 100 * time.Millisecond
)

// command measures Run Command from SendCommand's answer to a terminal state of the invocation, in
// the store, where the API reads it, and takes off only what the guest needs for `sh -c true` by itself.
// That is measured in the same guest between the commands, with the clock of the guest. Twice: with pauses, as people and
// their tools send commands, and without, when what a guest does between two commands counts too.
func (b *bench) command(ctx context.Context) error {
	h, err := b.running(ctx)
	if err != nil {
		return err
	}
	image, err := h.image(ctx)
	if err != nil {
		return err
	}
	g, err := h.start(ctx, image, userData)
	if err != nil {
		return err
	}
	if _, err := h.console(ctx, g.id, finishedLine); err != nil {
		return err
	}
	if err := h.agent(ctx, g.id); err != nil {
		return err
	}
	err = h.listen(ctx, g.id, func(ctx context.Context, r *results) error {
		return errors.Join(b.commands(ctx, h, r, "send-command of true to terminal state, less the guest's own sh -c true", pause),
			b.commands(ctx, h, r, "the same, each at the end of the one before", 0))
	})
	return errors.Join(err, h.terminate(ctx, g.id))
}

func (b *bench) commands(ctx context.Context, h *host, r *results, name string, pause time.Duration) error {
	for range 5 { // what only the first ones pay
		if _, _, err := h.send(ctx, r, "true"); err != nil {
			return err
		}
	}
	r.stages = [3][]float64{}
	f := figure{Name: name, Unit: "ms", Target: 10}
	var all, own []float64
	before, err := h.used()
	if err != nil {
		return err
	}
	for range rounds {
		t, err := h.shell(ctx, r)
		if err != nil {
			return err
		}
		own = append(own, t)
		for range sent / rounds {
			took, _, err := h.send(ctx, r, "true")
			if err != nil {
				return err
			}
			all = append(all, took.Seconds()*1e3)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	f.Ours = median(all) - median(own)
	f.OursRaw, f.RefRaw = all, own
	f.Note = fmt.Sprintf("p50 %s ms of %d runs, of which the guest's own %s ms; raw: whole commands, and the guest's own", number(median(all)), len(all), number(median(own)))
	f.Note += fmt.Sprintf("; p50 of the stages: %s ms until the request is in the guest's directory, %s ms until the result is, %s ms until it is known",
		number(median(r.stages[0])), number(median(r.stages[1])), number(median(r.stages[2])))
	after, err := h.used()
	if err != nil {
		return err
	}
	f.Note += "; ms of processor time for each:"
	for _, name := range []string{"control", "agent", "gateway"} {
		f.Note += fmt.Sprintf(" %s %s", name, number((after[name]-before[name]).Seconds()*1e3/sent))
	}
	b.bound(f)
	return nil
}

// agent waits until the instance's agent is known.
func (h *host) agent(ctx context.Context, id cloud.InstanceID) error {
	return until(ctx, h, 20*time.Millisecond, func() (bool, error) {
		out, err := h.ssm.DescribeInstanceInformation(ctx, &ssm.DescribeInstanceInformationInput{})
		if err != nil {
			return false, err
		}
		return slices.ContainsFunc(out.InstanceInformationList, func(i types.InstanceInformation) bool {
			return aws.ToString(i.InstanceId) == string(id) && i.PingStatus == types.PingStatusOnline
		}), nil
	})
}

// results is where ends of commands are heard of: asking the API again and again would take the time
// from the guest. The API is asked when they are there, and must agree.
type results struct {
	mirror *store.Mirror
	kind   store.Kind[cloud.Invocation]
	dir    bundle.Dir
	id     cloud.InstanceID
	stages [3][]float64 // ms: until the request is in the guest's directory, until the result is, until it is known
}

// listen runs f with the results of an instance's commands.
func (h *host) listen(ctx context.Context, id cloud.InstanceID, f func(context.Context, *results) error) error {
	c, err := h.store(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	hosts, err := store.List(ctx, c, store.Hosts, store.Range{})
	if err != nil {
		return err
	}
	if len(hosts.Objects) != 1 {
		return fmt.Errorf("there are %d hosts, want 1", len(hosts.Objects))
	}
	r := &results{kind: store.Invocations(hosts.Objects[0].Value.ID), id: id, dir: bundle.Root(h.run).Instance(id)}
	r.mirror = store.NewMirror(c, r.kind.Prefix())
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.mirror.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	select {
	case <-r.mirror.Ready():
	case err := <-ended:
		ended <- err
		return err
	}
	return f(ctx, r)
}

// await returns when the store has the end of a command, and notes when the command was where.
func (r *results) await(ctx context.Context, command cloud.CommandID, accepted time.Time) (time.Duration, error) {
	for {
		o, err := store.MirroredGet(r.mirror, r.kind, store.InvocationID(command, r.id))
		if err == nil && o.Value.Status.Terminal() {
			break
		}
		select {
		case <-r.mirror.Changed():
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	now := time.Now()
	last := accepted
	for n, name := range []string{string(command) + "/request.json", string(command) + ".json"} {
		info, err := os.Stat(r.dir.Path("commands", name))
		if err != nil {
			return 0, err
		}
		r.stages[n] = append(r.stages[n], info.ModTime().Sub(last).Seconds()*1e3)
		last = info.ModTime()
	}
	r.stages[2] = append(r.stages[2], now.Sub(last).Seconds()*1e3)
	return now.Sub(accepted), nil
}

// send runs a command and returns the time from SendCommand's answer to its end, and its output.
func (h *host) send(ctx context.Context, r *results, lines ...string) (time.Duration, string, error) {
	out, err := h.ssm.SendCommand(ctx, &ssm.SendCommandInput{
		DocumentName: aws.String("AWS-RunShellScript"), InstanceIds: []string{string(r.id)},
		Parameters: map[string][]string{"commands": lines},
	})
	accepted := time.Now()
	if err != nil {
		return 0, "", err
	}
	id := aws.ToString(out.Command.CommandId)
	took, err := r.await(ctx, cloud.CommandID(id), accepted)
	if err != nil {
		return 0, "", err
	}
	for { // at most a few times: the API hears of it when we do
		got, err := h.ssm.GetCommandInvocation(ctx, &ssm.GetCommandInvocationInput{CommandId: &id, InstanceId: aws.String(string(r.id))})
		switch {
		case err != nil:
			return 0, "", err
		case got.Status == types.CommandInvocationStatusSuccess:
			return took, aws.ToString(got.StandardOutputContent), nil
		case got.Status == types.CommandInvocationStatusPending, got.Status == types.CommandInvocationStatusInProgress:
			continue
		}
		return 0, "", fmt.Errorf("command %q ended as %s: %s", lines, got.Status, aws.ToString(got.StandardErrorContent))
	}
}

// shell returns the milliseconds that `sh -c true` takes in the guest, by the guest's clock.
func (h *host) shell(ctx context.Context, r *results) (float64, error) {
	loop := "for i in " + strings.TrimSpace(strings.Repeat("1 ", shells)) + "; do sh -c true; done"
	_, text, err := h.send(ctx, r, "cat /proc/uptime", loop, "cat /proc/uptime")
	if err != nil {
		return 0, err
	}
	f := strings.Fields(text)
	if len(f) != 4 {
		return 0, fmt.Errorf("the guest says %q, want /proc/uptime twice", text)
	}
	from, err := strconv.ParseFloat(f[0], 64)
	if err != nil {
		return 0, err
	}
	to, err := strconv.ParseFloat(f[2], 64)
	return (to - from) * 1e3 / shells, err
}
