//go:build vm

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// TestKill ends each daemon without warning at every step of an instance's life. The guest must not
// notice, nothing that was asked for may be lost or done twice, and the API must come to agree.
func TestKill(t *testing.T) {
	h := the(t)
	h.image(t)
	before := traces(t, h)
	for _, daemon := range []string{"control", "agent", "imds", "gateway", "shim"} {
		t.Run(daemon, func(t *testing.T) {
			id := *h.launch(t, func(in *ec2.RunInstancesInput) { in.UserData = aws.String(base64Of(remember)) }).InstanceId
			kill := func() {
				t.Helper()
				if daemon == "shim" {
					h.killShim(t, id)
				} else {
					h.kill(t, daemon)
				}
			}
			kill() // pending
			h.becomes(t, id, types.InstanceStateNameRunning)
			h.online(t, id)
			was := h.memory(t, id)

			kill() // running
			if got := h.memory(t, id); got != was {
				t.Errorf("the guest remembers %q, want %q", got, was)
			}
			if got := h.sh(t, id, "curl -s http://169.254.169.254/latest/meta-data/instance-id"); got != id {
				t.Errorf("its metadata say that it is %q, want %s", got, id)
			}

			// While a command runs: it goes on, runs once, and its result and output are whole.
			command := h.send(t, id, "echo begun >> /tmp/runs; until test -f /tmp/go; do sleep 0.1; done; wc -l < /tmp/runs; echo done")
			h.inProgress(t, id, command)
			kill()
			h.sh(t, id, "touch /tmp/go")
			if out := h.result(t, id, command); out.Status != "Success" || strings.Join(strings.Fields(*out.StandardOutputContent), " ") != "1 done" {
				t.Errorf("the command is %s: %q %q", out.Status, *out.StandardOutputContent, *out.StandardErrorContent)
			}
			if got := h.memory(t, id); got != was {
				t.Errorf("the guest remembers %q, want %q", got, was)
			}

			h.must(t, "stop", func() error {
				_, err := h.ec2.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{id}})
				return err
			})
			kill() // stopping
			h.becomes(t, id, types.InstanceStateNameStopped)
			if p, err := h.qemu(id); err == nil {
				t.Errorf("QEMU of a stopped instance runs: %v", p)
			}

			h.must(t, "start", func() error {
				_, err := h.ec2.StartInstances(t.Context(), &ec2.StartInstancesInput{InstanceIds: []string{id}})
				return err
			})
			kill() // pending again
			h.becomes(t, id, types.InstanceStateNameRunning)
			h.must(t, "terminate", func() error {
				_, err := h.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}})
				return err
			})
			kill() // shutting down
			h.becomes(t, id, types.InstanceStateNameTerminated)
			h.clean(t, before)
		})
	}
}

// TestKillAll ends everything but the guest at once, also while another is being launched.
func TestKillAll(t *testing.T) {
	h := the(t)
	id := *h.guest(t, nil).InstanceId
	was := h.memory(t, id)
	command := h.send(t, id, "until test -f /tmp/go; do sleep 0.1; done; echo done")
	h.inProgress(t, id, command)
	next := *h.launch(t, nil).InstanceId
	keeper, err := shim.Keeper(t.Context(), h.run("instances", id))
	if err != nil {
		t.Fatal(err)
	}
	victims := []shim.Process{keeper}
	for _, name := range []string{"control", "agent", "imds", "gateway", "s3"} {
		p, err := h.daemon(name)
		if err != nil {
			t.Fatal(err)
		}
		victims = append(victims, p)
	}
	for _, p := range victims {
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	// The API answers again at the port where it was, which it was asked at in the meantime.
	h.becomes(t, next, types.InstanceStateNameRunning)
	h.sh(t, id, "touch /tmp/go")
	if out := h.result(t, id, command); out.Status != "Success" || strings.TrimSpace(*out.StandardOutputContent) != "done" {
		t.Errorf("the command is %s: %q", out.Status, *out.StandardOutputContent)
	}
	if got := h.memory(t, id); got != was {
		t.Errorf("the guest remembers %q, want %q", got, was)
	}
	if got := h.sh(t, id, "curl -s http://169.254.169.254/latest/meta-data/instance-id"); got != id {
		t.Errorf("its metadata say that it is %q, want %s", got, id)
	}
	h.online(t, next)
}

// TestCommandsWhileTheHostAgentIsKilled kills the host's agent at any moment of commands' lives, between the store and the
// gateway's files both ways: each runs once, and its end and its output come to the API.
func TestCommandsWhileTheHostAgentIsKilled(t *testing.T) {
	h := the(t)
	id := *h.guest(t, nil).InstanceId
	rounds, slowest := 12, time.Duration(0) // make faults has 60
	if n, err := strconv.Atoi(os.Getenv("ICHIRO_FAULTS")); err == nil {
		rounds = n
	}
	for n := range rounds {
		command := h.send(t, id, fmt.Sprintf("echo %d >>/tmp/runs; echo out %d", n, n))
		<-time.After(rand.N(150 * time.Millisecond)) // the moment is the test's subject
		h.kill(t, "agent")
		back := time.Now()
		out := h.result(t, id, command)
		slowest = max(slowest, time.Since(back))
		if out.Status != "Success" || *out.StandardOutputContent != fmt.Sprintf("out %d\n", n) {
			t.Errorf("round %d: the command is %s: %q", n, *out.StatusDetails, *out.StandardOutputContent)
		}
	}
	if got := strings.Fields(h.sh(t, id, "cat /tmp/runs")); len(got) != rounds {
		t.Errorf("%d commands ran %d times: %v", rounds, len(got), got)
	}
	t.Logf("the slowest ended %v after the agent was there again", slowest.Round(time.Millisecond))
}

// TestHostIsBooted takes away all that a boot of the host takes: the guests and the run directory. The instance boots again, and a
// command that had begun in it does not.
func TestHostIsBooted(t *testing.T) {
	h := another(t)
	id := *h.guest(t, nil).InstanceId
	command := h.send(t, id, "echo begun; sleep 1000")
	h.inProgress(t, id, command)
	if err := h.end(); err != nil {
		t.Fatal(err)
	}
	if err := h.up(); err != nil {
		t.Fatal(err)
	}
	h.becomes(t, id, types.InstanceStateNameRunning)
	h.online(t, id)
	if out := h.result(t, id, command); *out.StatusDetails != "Interrupted" {
		t.Errorf("the command is %s, want Interrupted", *out.StatusDetails)
	}
}

// TestKillQEMU takes the machine away from under its shim: the API says so, and the instance can be
// started again.
func TestKillQEMU(t *testing.T) {
	h := the(t)
	id := *h.guest(t, nil).InstanceId
	was := h.memory(t, id)
	p, err := h.qemu(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	i := h.becomes(t, id, types.InstanceStateNameStopped)
	if i.StateReason == nil || *i.StateReason.Code != "Server.InternalError" {
		t.Errorf("reason is %+v, want Server.InternalError", i.StateReason)
	}
	if _, err := h.ec2.StartInstances(t.Context(), &ec2.StartInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	h.becomes(t, id, types.InstanceStateNameRunning)
	h.online(t, id)
	if got := h.sh(t, id, "cat /proc/sys/kernel/random/boot_id"); strings.HasPrefix(was, got) {
		t.Errorf("boot %s is the one that was killed", got)
	}
}

// must does something that the API may not be there for at the moment.
func (h *host) must(t *testing.T, what string, f func() error) {
	t.Helper()
	await(t, what, func() error {
		err := f()
		if code(err) != "" {
			return fatal{err}
		}
		return err
	})
}

// inProgress waits until a command has begun in the guest.
func (h *host) inProgress(t *testing.T, id, command string) {
	t.Helper()
	await(t, "command in progress", func() error {
		out, err := h.ssm.GetCommandInvocation(t.Context(), &ssm.GetCommandInvocationInput{InstanceId: &id, CommandId: &command})
		if err == nil && out.Status != "InProgress" {
			err = fmt.Errorf("it is %s", out.Status)
		}
		return err
	})
}

// qemu returns the process of an instance's virtual machine.
func (h *host) qemu(id string) (shim.Process, error) {
	st, err := shim.ReadStatus(h.run("instances", id))
	if err == nil && !st.QEMU.Alive() {
		err = errors.New("no QEMU")
	}
	return st.QEMU, err
}

// killShim ends the shim of an instance, if there is one, and returns when there is another or its
// instance is gone.
func (h *host) killShim(t *testing.T, id string) {
	t.Helper()
	var old shim.Process
	ended := func() bool {
		st, err := shim.ReadStatus(h.run("instances", id))
		return err != nil || st.State.Ended()
	}
	await(t, "a shim", func() (err error) {
		if old, err = shim.Keeper(t.Context(), h.run("instances", id)); err != nil && h.goneOrEnded(t, id) {
			err = nil
		}
		return err
	})
	if old == (shim.Process{}) {
		return
	}
	began := time.Now()
	if err := syscall.Kill(old.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
	await(t, "a shim again", func() error {
		now, err := shim.Keeper(t.Context(), h.run("instances", id))
		if err == nil && now == old {
			err = errors.New("still the old one")
		}
		if err != nil && ended() {
			return nil
		}
		return err
	})
	t.Logf("the shim was there again after %v", time.Since(began).Round(time.Millisecond))
}

func (h *host) goneOrEnded(t *testing.T, id string) bool {
	i, err := h.look(t, id)
	return err == nil && (i.State.Name == types.InstanceStateNameTerminated || i.State.Name == types.InstanceStateNameStopped)
}

// TestStoreForgets takes the store's content away under a running host: no guest is ended for it, the host says
// why it does nothing, and when the content is back all goes on.
func TestStoreForgets(t *testing.T) {
	h := another(t)
	id := *h.guest(t, nil).InstanceId
	was := h.memory(t, id)
	machine, err := h.qemu(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(h.state("etcd", "data"), h.state("etcd", "away")); err != nil {
		t.Fatal(err)
	}
	h.kill(t, "control")
	await(t, "the agent's refusal", func() error {
		said, err := h.health(t, "agent")
		if err == nil && !strings.Contains(said, "these are not the wishes of this host's cloud: the store is of c-") {
			err = fmt.Errorf("it says %q", said)
		}
		return err
	})
	if _, err := h.look(t, id); code(err) != "InvalidInstanceID.NotFound" {
		t.Errorf("the empty store's API answers %v", err)
	}
	if err := os.Rename(h.state("etcd", "data"), h.state("etcd", "new")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(h.state("etcd", "away"), h.state("etcd", "data")); err != nil {
		t.Fatal(err)
	}
	h.kill(t, "control")
	h.becomes(t, id, types.InstanceStateNameRunning)
	if got := h.memory(t, id); got != was {
		t.Errorf("the guest remembers %q, want %q", got, was)
	}
	if now, err := h.qemu(id); err != nil || now != machine {
		t.Errorf("its machine is %v, %v, and was %v", now, err, machine)
	}
}

// health returns what a daemon says of its own.
func (h *host) health(t *testing.T, daemon string) (string, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", bundle.Root(h.run()).Admin(daemon))
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://admin/healthz", nil)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}
