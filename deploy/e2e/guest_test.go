//go:build vm || walk

package e2e

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/smithy-go"
)

// remember is a script that leaves in the guest's memory what no other boot of it could have.
const remember = "#!/bin/sh\nhead -c 16 /dev/urandom | base64 > /tmp/nonce\necho said by the script\n"

// image returns the small image, which is registered when it is built.
func (h *host) image(t *testing.T) string {
	t.Helper()
	var id string
	await(t, "image ichiro-micro", func() error {
		out, err := h.ec2.DescribeImages(t.Context(), &ec2.DescribeImagesInput{Owners: []string{"self"}, Filters: filter("name", "ichiro-micro")})
		if err != nil {
			return err
		}
		if len(out.Images) != 1 {
			return fmt.Errorf("%d images", len(out.Images))
		}
		id = *out.Images[0].ImageId
		return nil
	})
	return id
}

func filter(name string, values ...string) []types.Filter {
	return []types.Filter{{Name: &name, Values: values}}
}

// launch asks for one instance and returns it as the answer has it. It is terminated when the test ends.
func (h *host) launch(t *testing.T, change func(*ec2.RunInstancesInput)) types.Instance {
	t.Helper()
	in := &ec2.RunInstancesInput{ImageId: aws.String(h.image(t)), InstanceType: types.InstanceTypeT2Nano, MinCount: aws.Int32(1), MaxCount: aws.Int32(1)}
	if change != nil {
		change(in)
	}
	out, err := h.ec2.RunInstances(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	i := out.Instances[0]
	t.Cleanup(func() { h.terminate(t, *i.InstanceId) })
	return i
}

// guest launches an instance that remembers its boot and returns it when it takes commands.
func (h *host) guest(t *testing.T, change func(*ec2.RunInstancesInput)) types.Instance {
	t.Helper()
	i := h.launch(t, func(in *ec2.RunInstancesInput) {
		in.UserData = aws.String(base64Of(remember))
		if change != nil {
			change(in)
		}
	})
	h.online(t, *i.InstanceId)
	return i
}

// terminate ends instances and waits until the API says that they are gone.
func (h *host) terminate(t *testing.T, ids ...string) {
	t.Helper()
	await(t, fmt.Sprint("termination of ", ids), func() error {
		_, err := h.ec2.TerminateInstances(noCancel(t), &ec2.TerminateInstancesInput{InstanceIds: ids})
		if code(err) == "InvalidInstanceID.NotFound" {
			return nil
		}
		return err
	})
	for _, id := range ids {
		h.becomes(t, id, types.InstanceStateNameTerminated)
	}
}

// look returns what the API says of an instance.
func (h *host) look(t *testing.T, id string) (types.Instance, error) {
	out, err := h.ec2.DescribeInstances(noCancel(t), &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
	if err != nil {
		return types.Instance{}, err
	}
	return out.Reservations[0].Instances[0], nil
}

// becomes waits for a state and says how long it took.
func (h *host) becomes(t *testing.T, id string, want types.InstanceStateName) types.Instance {
	t.Helper()
	var i types.Instance
	took := await(t, id+" "+string(want), func() (err error) {
		if i, err = h.look(t, id); err == nil && i.State.Name != want {
			err = fmt.Errorf("it is %s", i.State.Name)
			if i.State.Name == types.InstanceStateNameTerminated {
				err = fatal{fmt.Errorf("it is terminated: %s", aws.ToString(i.StateTransitionReason))}
			}
		}
		return err
	})
	t.Logf("%s is %s after %v", id, want, took.Round(10*time.Millisecond))
	return i
}

// online waits until the agent in a guest takes commands, and says how long it took.
func (h *host) online(t *testing.T, id string) time.Duration {
	t.Helper()
	return await(t, id+" online", func() error {
		out, err := h.ssm.DescribeInstanceInformation(t.Context(), &ssm.DescribeInstanceInformationInput{})
		if err != nil {
			return err
		}
		for _, v := range out.InstanceInformationList {
			if *v.InstanceId == id && v.PingStatus == "Online" {
				return nil
			}
		}
		return errors.New("no agent")
	})
}

// send asks for a command and returns its ID.
func (h *host) send(t *testing.T, id, script string) string {
	t.Helper()
	var command string
	await(t, "sending a command", func() error {
		out, err := h.ssm.SendCommand(t.Context(), &ssm.SendCommandInput{InstanceIds: []string{id}, DocumentName: aws.String("AWS-RunShellScript"),
			Parameters: map[string][]string{"commands": {script}}})
		if err != nil {
			if code(err) != "" {
				return fatal{err}
			}
			return err
		}
		command = *out.Command.CommandId
		return nil
	})
	return command
}

// result waits for the end of a command.
func (h *host) result(t *testing.T, id, command string) *ssm.GetCommandInvocationOutput {
	t.Helper()
	var out *ssm.GetCommandInvocationOutput
	await(t, "result of a command", func() (err error) {
		out, err = h.ssm.GetCommandInvocation(t.Context(), &ssm.GetCommandInvocationInput{InstanceId: &id, CommandId: &command})
		if err == nil {
			switch out.Status {
			case "Pending", "InProgress", "Delayed", "Cancelling":
				err = fmt.Errorf("it is %s", out.Status)
			}
		}
		return err
	})
	return out
}

// sh runs a script in a guest, which must succeed, and returns what it wrote.
func (h *host) sh(t *testing.T, id, script string) string {
	t.Helper()
	out := h.result(t, id, h.send(t, id, script))
	if out.Status != "Success" {
		t.Fatalf("%q is %s with code %d\n%s\n%s", script, out.Status, out.ResponseCode, aws.ToString(out.StandardOutputContent), aws.ToString(out.StandardErrorContent))
	}
	return strings.TrimSpace(aws.ToString(out.StandardOutputContent))
}

// memory is what only this boot of this guest knows: the kernel's own number of the boot, and random bytes
// that a script left in memory at boot.
func (h *host) memory(t *testing.T, id string) string {
	t.Helper()
	text := h.sh(t, id, "until test -s /tmp/nonce; do sleep 0.1; done; cat /proc/sys/kernel/random/boot_id /tmp/nonce")
	if len(strings.Fields(text)) != 2 {
		t.Fatalf("the guest remembers %q", text)
	}
	return text
}

// code returns the code of an error that the API has answered, "" for any other.
func code(err error) string {
	var e smithy.APIError
	if errors.As(err, &e) {
		return e.ErrorCode()
	}
	return ""
}

// refused checks that an error is the API's and says something.
func refused(t *testing.T, err error, want string) {
	t.Helper()
	var e smithy.APIError
	if !errors.As(err, &e) || e.ErrorCode() != want {
		t.Errorf("got %v, want %s", err, want)
		return
	}
	if text := e.ErrorMessage(); len(strings.Fields(text)) < 3 {
		t.Errorf("%s says only %q", want, text)
	}
}

// noCancel is for what must be done at the end of a test too.
func noCancel(t *testing.T) context.Context { return context.WithoutCancel(t.Context()) }

func base64Of(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// clean waits until a machine has what it had before, and nothing else.
func (h *host) clean(t *testing.T, before []string) {
	t.Helper()
	ours := func(list []string) (out []string) {
		for _, s := range list {
			if !strings.HasPrefix(s, "process ") || strings.Contains(s, "qemu") || strings.Contains(s, "shim") {
				out = append(out, s)
			}
		}
		return out
	}
	await(t, "nothing left", func() error {
		if d := differ(ours(before), ours(traces(t, h))); d != "" {
			return errors.New(d)
		}
		return nil
	})
}

// all returns the instances that are not over, with their addresses.
func (h *host) all(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	pages := ec2.NewDescribeInstancesPaginator(h.ec2, &ec2.DescribeInstancesInput{Filters: filter("instance-state-name", "pending", "running", "stopping", "stopped")})
	for pages.HasMorePages() {
		page, err := pages.NextPage(noCancel(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Reservations {
			for _, i := range r.Instances {
				out[*i.InstanceId] = aws.ToString(i.PrivateIpAddress)
			}
		}
	}
	return out
}

// unique makes a name that no earlier run has used.
func unique(name string) string { return fmt.Sprintf("%s-%x", name, time.Now().UnixNano()) }
