//go:build vm

package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// ip runs ip(8).
func ip(t *testing.T, words string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(words)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", words, err, out)
	}
}

// second brings up another machine of the host's cloud: a network namespace that a link joins to this one.
func (h *host) second(t *testing.T) *host {
	t.Helper()
	o, err := newHost()
	if err != nil {
		t.Fatal(err)
	}
	o.space = filepath.Base(o.dir)
	ip(t, "netns add "+o.space)
	t.Cleanup(func() {
		err := errors.Join(o.end(), exec.Command("ip", "netns", "del", o.space).Run())
		if t.Failed() || err != nil {
			o.tell(t)
		}
		if err := errors.Join(err, os.RemoveAll(o.dir)); err != nil {
			t.Error(err)
		}
	})
	ip(t, "link add icunder type veth peer name under netns "+o.space)
	ip(t, "addr add 198.18.53.1/24 dev icunder")
	ip(t, "link set icunder up")
	for _, words := range []string{"link set lo up", "addr add 198.18.53.2/24 dev under", "link set under up"} {
		ip(t, "-n "+o.space+" "+words)
	}
	if err := h.up("--underlay", "198.18.53.1"); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(o.state("keys"), os.DirFS(h.state("keys"))); err != nil {
		t.Fatal(err)
	}
	if err := o.up("--underlay", "198.18.53.2", "--etcd", "unix://"+h.run("control", "etcd.sock")); err != nil {
		t.Fatal(err)
	}
	return o
}

// Two machines, one cloud and one VPC: guests meet by their private addresses as far as their groups allow, wherever they
// run, and the API is one.
func TestAVPCOnTwoMachines(t *testing.T) {
	h, err := newHost()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := h.end()
		if t.Failed() || err != nil {
			h.tell(t)
		}
		if err := errors.Join(err, os.RemoveAll(h.dir)); err != nil {
			t.Error(err)
		}
	})
	other := h.second(t)
	if err := os.Remove(other.run("door.sock")); err != nil { // on a machine of its own nobody here could open it
		t.Fatal(err)
	}
	a := h.guest(t, nil) // each is placed where more memory is free
	group, err := h.ec2.CreateSecurityGroup(t.Context(), &ec2.CreateSecurityGroupInput{GroupName: aws.String("apart"), Description: aws.String("of the second machine"), VpcId: a.VpcId})
	if err != nil {
		t.Fatal(err)
	}
	b := h.guest(t, func(in *ec2.RunInstancesInput) { in.SecurityGroupIds = []string{*group.GroupId} })
	if _, err := os.Stat(other.run("instances", *b.InstanceId)); err != nil {
		if _, err := os.Stat(other.run("instances", *a.InstanceId)); err != nil {
			t.Fatal("no guest is on the second machine")
		}
	}
	ping := func(from, to types.Instance) string {
		return h.sh(t, *from.InstanceId, "ping -c 1 "+*to.PrivateIpAddress+" >/dev/null 2>&1 && echo reached || echo lost")
	}
	if got := ping(a, b); got != "lost" {
		t.Errorf("a group that lets nobody in: %s", got)
	}
	if _, err := h.ec2.AuthorizeSecurityGroupIngress(t.Context(), &ec2.AuthorizeSecurityGroupIngressInput{GroupId: group.GroupId, IpPermissions: []types.IpPermission{{
		IpProtocol: aws.String("-1"), UserIdGroupPairs: []types.UserIdGroupPair{{GroupId: a.SecurityGroups[0].GroupId}}}}}); err != nil {
		t.Fatal(err)
	}
	await(t, "the group of the one machine in the rules of the other", func() error {
		if got := ping(a, b); got != "reached" {
			return errors.New(got)
		}
		return nil
	})
	if got := ping(b, a); got != "lost" {
		t.Errorf("the way back is not in the rule: %s", got)
	}
	// An underlay of 1,500 bytes has room for 1,450.
	if got := h.sh(t, *a.InstanceId, "cat /sys/class/net/eth0/mtu"); got != "1450" {
		t.Errorf("the guest's MTU is %s, want 1450", got)
	}
	h.terminate(t, *a.InstanceId, *b.InstanceId)
}
