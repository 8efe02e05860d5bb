//go:build vm

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"

	"github.com/ichiro-metal/ichiro/internal/store"
)

// keys lists what the store holds, by name.
func (h *host) keys(t *testing.T, families ...string) []string {
	t.Helper()
	c, err := store.Open(t.Context(), store.Config{Endpoints: []string{"unix://" + h.run("control", "etcd.sock")}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var out []string
	for _, f := range families {
		l, err := store.List(t.Context(), c, store.NewKind[json.RawMessage](store.All(f)), store.Range{})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range l.Objects {
			out = append(out, o.Key)
		}
	}
	return out
}

// private returns the keys of private addresses that somebody has.
func (h *host) private(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(h.keys(t, "ipam"), func(k string) bool { return strings.HasPrefix(k, string(store.IPAMPrefix(store.PublicPool))) })
}

// everything is all that a launch could leave in the store.
var everything = []string{"spec", "wish", "status", "ipam", "token", "name", "host", "cluster"}

// TestRefusals asks for launches that cannot be. Each is refused in EC2's words, and afterwards the machine
// and the store hold exactly what they held before.
func TestRefusals(t *testing.T) {
	h := the(t)
	image := h.image(t)
	taken := h.launch(t, func(in *ec2.RunInstancesInput) { in.PrivateIpAddress = aws.String("172.31.7.7") })
	h.becomes(t, *taken.InstanceId, types.InstanceStateNameRunning)
	described, err := h.ec2.DescribeImages(t.Context(), &ec2.DescribeImagesInput{ImageIds: []string{image}})
	if err != nil {
		t.Fatal(err)
	}
	kernel := *described.Images[0].KernelId
	nobody := h.user(t, "nobody", "")
	keys, left := h.keys(t, everything...), traces(t, h)

	for _, c := range []struct {
		name, code string
		change     func(*ec2.RunInstancesInput)
	}{
		{"an address that is taken", "InvalidIPAddress.InUse", func(in *ec2.RunInstancesInput) { in.PrivateIpAddress = aws.String("172.31.7.7") }},
		{"the router's address", "InvalidParameterValue", func(in *ec2.RunInstancesInput) { in.PrivateIpAddress = aws.String("172.31.0.1") }},
		{"the subnet's last address", "InvalidParameterValue", func(in *ec2.RunInstancesInput) { in.PrivateIpAddress = aws.String("172.31.15.255") }},
		{"an address of another subnet", "InvalidParameterValue", func(in *ec2.RunInstancesInput) { in.PrivateIpAddress = aws.String("10.9.8.7") }},
		{"an address that is none", "InvalidParameterValue", func(in *ec2.RunInstancesInput) { in.PrivateIpAddress = aws.String("172.31.7") }},
		{"an address of version 6", "InvalidParameterValue", func(in *ec2.RunInstancesInput) { in.PrivateIpAddress = aws.String("fd00::1") }},
		{"one address for two", "InvalidParameterCombination", func(in *ec2.RunInstancesInput) {
			in.PrivateIpAddress, in.MaxCount = aws.String("172.31.7.8"), aws.Int32(2)
		}},
		{"an image that is not there", "InvalidAMIID.NotFound", func(in *ec2.RunInstancesInput) { in.ImageId = aws.String("ami-0123456789abcdef0") }},
		{"an image that cannot be", "InvalidAMIID.Malformed", func(in *ec2.RunInstancesInput) { in.ImageId = aws.String("ami-../../x") }},
		{"a kernel as image", "InvalidParameterValue", func(in *ec2.RunInstancesInput) { in.ImageId = &kernel }},
		{"a kernel as ramdisk", "InvalidParameterValue", func(in *ec2.RunInstancesInput) { in.RamdiskId = &kernel }},
		{"no image", "MissingParameter", func(in *ec2.RunInstancesInput) { in.ImageId = nil }},
		{"a subnet that is not there", "InvalidSubnetID.NotFound", func(in *ec2.RunInstancesInput) { in.SubnetId = aws.String("subnet-0123456789abcdef0") }},
		{"a group that is not there", "InvalidGroup.NotFound", func(in *ec2.RunInstancesInput) { in.SecurityGroupIds = []string{"sg-0123456789abcdef0"} }},
		{"a key that is not there", "InvalidKeyPair.NotFound", func(in *ec2.RunInstancesInput) { in.KeyName = aws.String("lost") }},
		{"a type that is not there", "InvalidParameterValue", func(in *ec2.RunInstancesInput) { in.InstanceType = "t9.huge" }},
		{"a profile that is not there", "InvalidParameterValue", func(in *ec2.RunInstancesInput) {
			in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: aws.String("lost")}
		}},
		{"more than the host has", "InsufficientInstanceCapacity", func(in *ec2.RunInstancesInput) {
			in.InstanceType, in.MinCount, in.MaxCount = "t3.large", aws.Int32(90), aws.Int32(90)
		}},
		{"more than one request may", "InstanceLimitExceeded", func(in *ec2.RunInstancesInput) { in.MaxCount = aws.Int32(1000) }},
		{"none at all", "InvalidParameterValue", func(in *ec2.RunInstancesInput) { in.MinCount, in.MaxCount = aws.Int32(0), aws.Int32(0) }},
		{"less than none", "InvalidParameterValue", func(in *ec2.RunInstancesInput) { in.MinCount, in.MaxCount = aws.Int32(-1), aws.Int32(-1) }},
		{"user data of 16 KiB and one byte", "InvalidParameterValue", func(in *ec2.RunInstancesInput) {
			in.UserData = aws.String(base64Of(strings.Repeat("x", 16<<10+1)))
		}},
		{"user data that are not base64", "InvalidUserData.Malformed", func(in *ec2.RunInstancesInput) { in.UserData = aws.String("%%%") }},
		{"a volume", "UnsupportedOperation", func(in *ec2.RunInstancesInput) {
			in.BlockDeviceMappings = []types.BlockDeviceMapping{{DeviceName: aws.String("/dev/sdb"), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(1)}}}
		}},
		{"another zone", "InvalidParameterValue", func(in *ec2.RunInstancesInput) {
			in.Placement = &types.Placement{AvailabilityZone: aws.String("us-east-1a")}
		}},
		{"a behavior that is none", "InvalidParameterValue", func(in *ec2.RunInstancesInput) { in.InstanceInitiatedShutdownBehavior = "explode" }},
		{"a token that is too long", "InvalidParameterValue", func(in *ec2.RunInstancesInput) { in.ClientToken = aws.String(strings.Repeat("x", 65)) }},
		{"only to see whether it would do", "DryRunOperation", func(in *ec2.RunInstancesInput) { in.DryRun = aws.Bool(true) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := &ec2.RunInstancesInput{ImageId: &image, InstanceType: "t2.nano", MinCount: aws.Int32(1), MaxCount: aws.Int32(1)}
			c.change(in)
			out, err := h.ec2.RunInstances(t.Context(), in)
			refused(t, err, c.code)
			if err == nil {
				h.terminate(t, *out.Instances[0].InstanceId)
			}
			_, err = nobody.ec2.RunInstances(t.Context(), in)
			if code(err) != "UnauthorizedOperation" && code(err) != c.code {
				t.Errorf("somebody without rights gets %v", err)
			}
		})
	}
	_, err = nobody.ec2.RunInstances(t.Context(), &ec2.RunInstancesInput{ImageId: &image, InstanceType: "t2.nano", MinCount: aws.Int32(1), MaxCount: aws.Int32(1)})
	refused(t, err, "UnauthorizedOperation")
	_, err = nobody.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{*taken.InstanceId}})
	refused(t, err, "UnauthorizedOperation")

	if d := differ(keys, h.keys(t, everything...)); d != "" {
		t.Errorf("the store has changed:%s", d)
	}
	if d := differ(left, traces(t, h)); d != "" {
		t.Errorf("the machine has changed:%s", d)
	}
	h.becomes(t, *taken.InstanceId, types.InstanceStateNameRunning)
	for _, p := range []string{"../x", "i-", "i-0123456789abcdef0"} {
		_, err := h.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{p}})
		if !strings.HasPrefix(code(err), "InvalidInstanceID.") {
			t.Errorf("terminate %q: %v", p, err)
		}
	}
}

// user makes a user with an inline policy ("" for none) and returns its clients.
func (h *host) user(t *testing.T, name, policy string) clients {
	t.Helper()
	ctx := noCancel(t)
	if _, err := h.iam.CreateUser(ctx, &iam.CreateUserInput{UserName: &name}); err != nil {
		t.Fatal(err)
	}
	key, err := h.iam.CreateAccessKey(ctx, &iam.CreateAccessKeyInput{UserName: &name})
	if err != nil {
		t.Fatal(err)
	}
	k := key.AccessKey
	t.Cleanup(func() {
		h.iam.DeleteUserPolicy(ctx, &iam.DeleteUserPolicyInput{UserName: &name, PolicyName: aws.String("own")})
		h.iam.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: &name, AccessKeyId: k.AccessKeyId})
		if _, err := h.iam.DeleteUser(ctx, &iam.DeleteUserInput{UserName: &name}); err != nil {
			t.Error(err)
		}
	})
	if policy != "" {
		if _, err := h.iam.PutUserPolicy(ctx, &iam.PutUserPolicyInput{UserName: &name, PolicyName: aws.String("own"), PolicyDocument: &policy}); err != nil {
			t.Fatal(err)
		}
	}
	c := h.as(*k.AccessKeyId, *k.SecretAccessKey, "")
	await(t, "key of "+name, func() error { // another process's mirror may be a moment behind
		_, err := c.ec2.DescribeRegions(ctx, &ec2.DescribeRegionsInput{})
		if got := code(err); got == "AuthFailure" {
			return fmt.Errorf("not known yet: %w", err)
		}
		return nil
	})
	return c
}

// TestNothingStays launches with all that a launch can make, and terminates.
func TestNothingStays(t *testing.T) {
	h := the(t)
	h.image(t)
	// What is kept for an hour, as EC2 does: the instance itself, that its ClientToken was used. For ten minutes: that
	// its address should rest.
	kept := func(list []string) (out []string) {
		for _, k := range list {
			if !strings.HasPrefix(k, "spec/instance/") && !strings.HasPrefix(k, "token/") && !strings.HasPrefix(k, "spec/plan/") && !strings.HasPrefix(k, "spec/resting/") {
				out = append(out, k)
			}
		}
		return out
	}
	keys, left := kept(h.keys(t, everything...)), traces(t, h)
	i := h.launch(t, func(in *ec2.RunInstancesInput) {
		in.UserData, in.ClientToken = aws.String(base64Of("#!/bin/sh\n")), aws.String(unique("stays-not"))
	})
	h.becomes(t, *i.InstanceId, types.InstanceStateNameRunning)
	h.terminate(t, *i.InstanceId)
	await(t, "nothing left in the store", func() error {
		if d := differ(keys, kept(h.keys(t, everything...))); d != "" {
			return fmt.Errorf("%s", d)
		}
		return nil
	})
	h.clean(t, left)
}
