package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

const (
	commands = 200
	rounds   = 10 // between which the guest's own time is measured
	shells   = 20 // starts of a shell in one measurement
)

// command measures Run Command from SendCommand's answer to a terminal state of the invocation, seen by a
// client that asks again and again, and takes off only what the guest needs for `sh -c true` by itself.
// That is measured in the same guest between the commands, with the clock of the guest.
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
	for range 5 { // what only the first ones pay
		if _, _, err := h.send(ctx, g.id, "true"); err != nil {
			return err
		}
	}
	f := figure{Name: "send-command of true to terminal state, less the guest's own sh -c true", Unit: "ms", Target: 10}
	var all, own []float64
	for range rounds {
		t, err := h.shell(ctx, g.id)
		if err != nil {
			return err
		}
		own = append(own, t)
		for range commands / rounds {
			took, _, err := h.send(ctx, g.id, "true")
			if err != nil {
				return err
			}
			all = append(all, took.Seconds()*1e3)
		}
	}
	f.Ours = median(all) - median(own)
	f.OursRaw, f.RefRaw = all, own
	f.Note = fmt.Sprintf("p50 %s ms of %d runs, of which the guest's own %s ms; raw: whole commands, and the guest's own", number(median(all)), len(all), number(median(own)))
	b.bound(f)
	return h.terminate(ctx, g.id)
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

// send runs a command and returns the time from SendCommand's answer to a terminal state, and its output.
func (h *host) send(ctx context.Context, id cloud.InstanceID, lines ...string) (time.Duration, string, error) {
	out, err := h.ssm.SendCommand(ctx, &ssm.SendCommandInput{
		DocumentName: aws.String("AWS-RunShellScript"), InstanceIds: []string{string(id)},
		Parameters: map[string][]string{"commands": lines},
	})
	accepted := time.Now()
	if err != nil {
		return 0, "", err
	}
	in := &ssm.GetCommandInvocationInput{CommandId: out.Command.CommandId, InstanceId: aws.String(string(id))}
	var took time.Duration
	var text string
	err = until(ctx, h, tick, func() (bool, error) {
		got, err := h.ssm.GetCommandInvocation(ctx, in)
		var early *types.InvocationDoesNotExist
		if errors.As(err, &early) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		took = time.Since(accepted)
		switch got.Status {
		case types.CommandInvocationStatusPending, types.CommandInvocationStatusInProgress, types.CommandInvocationStatusDelayed:
			return false, nil
		case types.CommandInvocationStatusSuccess:
			text = aws.ToString(got.StandardOutputContent)
			return true, nil
		}
		return false, fmt.Errorf("command %q ended as %s: %s", lines, got.Status, aws.ToString(got.StandardErrorContent))
	})
	return took, text, err
}

// shell returns the milliseconds that `sh -c true` takes in the guest, by the guest's clock.
func (h *host) shell(ctx context.Context, id cloud.InstanceID) (float64, error) {
	loop := "for i in " + strings.TrimSpace(strings.Repeat("1 ", shells)) + "; do sh -c true; done"
	_, text, err := h.send(ctx, id, "cat /proc/uptime", loop, "cat /proc/uptime")
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
