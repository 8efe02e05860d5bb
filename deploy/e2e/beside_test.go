//go:build vm

package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// TestTwoHosts runs a second host beside the shared one, with the same VPC and the same address in it, ends
// and brings back its supervisor, and takes it down. The guest of the other host must not notice.
func TestTwoHosts(t *testing.T) {
	h := the(t)
	same := func(in *ec2.RunInstancesInput) { in.PrivateIpAddress = aws.String("172.31.4.4") }
	a := *h.guest(t, same).InstanceId
	was := h.memory(t, a)

	other := another(t)
	b := *other.guest(t, same).InstanceId
	wasB := other.memory(t, b)
	if wasB == was {
		t.Fatal("both are the same guest")
	}
	for _, g := range []struct {
		h  *host
		id string
	}{{h, a}, {other, b}} {
		if got := g.h.sh(t, g.id, "curl -s http://169.254.169.254/latest/meta-data/instance-id; echo; curl -s http://169.254.169.254/latest/meta-data/local-ipv4"); got != g.id+"\n172.31.4.4" {
			t.Errorf("metadata of %s: %q", g.id, got)
		}
	}

	t.Run("up refuses a directory that is in use", func(t *testing.T) {
		out, err := exec.Command(filepath.Join(bin, "ichiro"), "up", "--state", other.state(), "--run", other.run(), "--listen", "127.0.0.1:0").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "already up") {
			t.Errorf("%v: %s", err, out)
		}
		if got := other.memory(t, b); got != wasB {
			t.Errorf("the guest remembers %q, want %q", got, wasB)
		}
	})
	t.Run("a supervisor that is told to stop leaves guests running, and another takes them over", func(t *testing.T) {
		if err := other.signal(syscall.SIGTERM); err != nil {
			t.Errorf("ichiro up ended with %v", err)
		}
		for _, p := range processes(other.dir) {
			if !strings.HasPrefix(p, "ichiro-shim") && !strings.HasPrefix(p, "qemu") {
				t.Errorf("%s still runs", p)
			}
		}
		if _, err := other.qemu(b); err != nil {
			t.Error(err)
		}
		if err := other.up(); err != nil {
			t.Fatal(err)
		}
		other.online(t, b)
		if got := other.memory(t, b); got != wasB {
			t.Errorf("the guest remembers %q, want %q", got, wasB)
		}
	})
	t.Run("a supervisor that is killed is followed by another", func(t *testing.T) {
		if err := other.signal(syscall.SIGKILL); err == nil {
			t.Error("killed, it ended well")
		}
		if err := other.up(); err != nil {
			t.Fatal(err)
		}
		other.online(t, b)
		if got := other.memory(t, b); got != wasB {
			t.Errorf("the guest remembers %q, want %q", got, wasB)
		}
		n := 0
		for _, p := range processes(other.dir) {
			if strings.HasPrefix(p, "ichiro-control") {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d control planes run", n)
		}
	})
	t.Run("down leaves nothing, and the other host alone", func(t *testing.T) {
		if err := other.down(); err != nil {
			t.Fatal(err)
		}
		<-other.ended
		if left := traces(t, other); len(left) > 0 {
			t.Errorf("left are %q", left)
		}
		if _, err := os.Stat(other.run()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the run directory: %v", err)
		}
		if err := other.down(); err != nil {
			t.Errorf("a second time: %v", err)
		}
		if got := h.memory(t, a); got != was {
			t.Errorf("the other host's guest remembers %q, want %q", got, was)
		}
	})
	t.Run("the state stays, and the instance can be started from it", func(t *testing.T) {
		if err := other.up(); err != nil {
			t.Fatal(err)
		}
		other.becomes(t, b, types.InstanceStateNameRunning) // as after a reboot of the machine
		other.online(t, b)
	})
	if got := h.memory(t, a); got != was {
		t.Errorf("the other host's guest remembers %q, want %q", got, was)
	}
}

// TestUpRefuses starts hosts that cannot be, and looks for what they leave.
func TestUpRefuses(t *testing.T) {
	h := the(t)
	for _, c := range []struct {
		name, says string
		flags      []string
	}{
		{"a port that is in use", "choose another address", []string{"--listen", strings.TrimPrefix(h.url, "http://")}},
		{"an address that others can reach", "loopback", []string{"--listen", "0.0.0.0:0"}},
		{"an account that is none", "12 digits", []string{"--account", "12"}},
		{"an accelerator that is none", "accel", []string{"--accel", "steam"}},
		{"a flag that is none", "flag", []string{"--frobnicate"}},
		{"a run directory that is too long", "shorter", []string{"--run", "/tmp/" + strings.Repeat("x", 90)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			other, err := newHost()
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(other.dir)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, filepath.Join(bin, "ichiro"), append([]string{"up", "--state", other.state(), "--run", other.run()}, c.flags...)...)
			cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it may have come up
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.says) {
				t.Errorf("%v: %s", err, out)
			}
			if left := traces(t, other); len(left) > 0 {
				t.Errorf("left are %q", left)
			}
			if _, err := os.Stat(other.run("up.json")); err == nil {
				t.Error("it still says that it is up")
			}
			if err := other.down(); err != nil {
				t.Error(err)
			}
		})
	}
}
