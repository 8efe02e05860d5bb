//go:build vm

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ichiro-metal/ichiro/internal/bundle"
)

// TestLife takes one instance through all that an owner and a guest can do to it.
func TestLife(t *testing.T) {
	h := the(t)
	h.image(t)
	before := traces(t, h)
	key, err := h.ec2.CreateKeyPair(t.Context(), &ec2.CreateKeyPairInput{KeyName: aws.String("life"), KeyType: types.KeyTypeEd25519})
	if err != nil {
		t.Fatal(err)
	}
	defer h.ec2.DeleteKeyPair(noCancel(t), &ec2.DeleteKeyPairInput{KeyName: aws.String("life")})
	if !strings.Contains(*key.KeyMaterial, "PRIVATE KEY") {
		t.Errorf("key material is %.40q", *key.KeyMaterial)
	}
	i := h.guest(t, func(in *ec2.RunInstancesInput) {
		in.KeyName = aws.String("life")
		in.TagSpecifications = []types.TagSpecification{{ResourceType: "instance", Tags: []types.Tag{{Key: aws.String("Name"), Value: aws.String("one life")}}}}
	})
	id, ids := *i.InstanceId, []string{*i.InstanceId}
	was := h.memory(t, id)

	t.Run("the guest has the key, its name and its address", func(t *testing.T) {
		keys, err := h.ec2.DescribeKeyPairs(t.Context(), &ec2.DescribeKeyPairsInput{KeyNames: []string{"life"}, IncludePublicKey: aws.Bool(true)})
		if err != nil {
			t.Fatal(err)
		}
		line := strings.TrimSpace(*keys.KeyPairs[0].PublicKey)
		if got := h.sh(t, id, "cat /root/.ssh/authorized_keys"); got != line || !strings.HasPrefix(got, "ssh-ed25519 ") {
			t.Errorf("authorized_keys is %q, want %q", got, line)
		}
		name, _, _ := strings.Cut(*i.PrivateDnsName, ".")
		if got := h.sh(t, id, "hostname"); got != name && got != *i.PrivateDnsName {
			t.Errorf("host name is %q, want %q", got, name)
		}
		if got := h.sh(t, id, "ip addr"); !strings.Contains(got, *i.PrivateIpAddress+"/20") {
			t.Errorf("%s is not in %q", *i.PrivateIpAddress, got)
		}
		if got := h.sh(t, id, "cat /var/log/cloud-init-output.log"); !strings.Contains(got, "said by the script") {
			t.Errorf("the script's log is %q", got)
		}
	})
	t.Run("the console shows what the guest wrote", func(t *testing.T) {
		await(t, "console", func() error {
			out, err := h.ec2.GetConsoleOutput(t.Context(), &ec2.GetConsoleOutputInput{InstanceId: &id})
			if err != nil {
				return err
			}
			text, err := base64.StdEncoding.DecodeString(aws.ToString(out.Output))
			if err == nil && !strings.Contains(string(text), "said by the script") {
				err = errors.New("the script is not on it")
			}
			return err
		})
	})
	t.Run("tags come and go", func(t *testing.T) {
		tag := []types.Tag{{Key: aws.String("stage"), Value: aws.String("test")}}
		if _, err := h.ec2.CreateTags(t.Context(), &ec2.CreateTagsInput{Resources: ids, Tags: tag}); err != nil {
			t.Fatal(err)
		}
		out, err := h.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: append(filter("tag:stage", "te*"), filter("tag:Name", "one life")...)})
		if err != nil || len(out.Reservations) != 1 || len(out.Reservations[0].Instances[0].Tags) != 2 {
			t.Errorf("found %+v, %v", out, err)
		}
		if _, err := h.ec2.DeleteTags(t.Context(), &ec2.DeleteTagsInput{Resources: ids, Tags: tag}); err != nil {
			t.Fatal(err)
		}
		tags, err := h.ec2.DescribeTags(t.Context(), &ec2.DescribeTagsInput{Filters: filter("resource-id", id)})
		if err != nil || len(tags.Tags) != 1 || *tags.Tags[0].Key != "Name" {
			t.Errorf("left are %+v, %v", tags, err)
		}
	})
	t.Run("a reboot is another boot with the same address", func(t *testing.T) {
		if _, err := h.ec2.RebootInstances(t.Context(), &ec2.RebootInstancesInput{InstanceIds: ids}); err != nil {
			t.Fatal(err)
		}
		h.newBoot(t, id, was)
		if now := h.becomes(t, id, types.InstanceStateNameRunning); *now.PrivateIpAddress != *i.PrivateIpAddress || !now.LaunchTime.Equal(*i.LaunchTime) {
			t.Errorf("rebooted it is %s since %v, was %s since %v", *now.PrivateIpAddress, now.LaunchTime, *i.PrivateIpAddress, i.LaunchTime)
		}
	})
	t.Run("a command waits for the boot that follows a reset", func(t *testing.T) {
		was := h.memory(t, id)
		resets := h.send(t, id, "sleep 3; echo reset-now > /dev/console; echo b > /proc/sysrq-trigger")
		await(t, "the reset", func() error {
			out, err := h.ec2.GetConsoleOutput(t.Context(), &ec2.GetConsoleOutputInput{InstanceId: &id})
			if err != nil {
				return err
			}
			text, err := base64.StdEncoding.DecodeString(*out.Output)
			if _, after, _ := strings.Cut(string(text), "reset-now"); err != nil || !strings.Contains(after, "Resetting") {
				return errors.New("not yet") // the kernel's last word: nothing of the old boot takes a command after it
			}
			return nil
		})
		// The connection of the old boot still looks alive.
		out := h.result(t, id, h.send(t, id, "cat /proc/sys/kernel/random/boot_id"))
		if out.Status != "Success" || strings.HasPrefix(was, strings.TrimSpace(*out.StandardOutputContent)) {
			t.Errorf("the command is %s (%s) in boot %q, and before the reset it was %q", out.Status, *out.StatusDetails, *out.StandardOutputContent, was)
		}
		if out := h.result(t, id, resets); out.Status != "Failed" || *out.StatusDetails != "Interrupted" {
			t.Errorf("the command that reset its guest is %s (%s)", out.Status, *out.StatusDetails)
		}
	})
	t.Run("stopped, it can be changed and started", func(t *testing.T) {
		modify := func(in ec2.ModifyInstanceAttributeInput) error {
			in.InstanceId = &id
			_, err := h.ec2.ModifyInstanceAttribute(t.Context(), &in)
			return err
		}
		refused(t, modify(ec2.ModifyInstanceAttributeInput{InstanceType: &types.AttributeValue{Value: aws.String("t3.nano")}}), "IncorrectInstanceState")
		if err := modify(ec2.ModifyInstanceAttributeInput{DisableApiStop: &types.AttributeBooleanValue{Value: aws.Bool(true)}}); err != nil {
			t.Fatal(err)
		}
		_, err := h.ec2.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: ids})
		refused(t, err, "OperationNotPermitted")
		if err := modify(ec2.ModifyInstanceAttributeInput{DisableApiStop: &types.AttributeBooleanValue{Value: aws.Bool(false)}}); err != nil {
			t.Fatal(err)
		}
		out, err := h.ec2.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: ids})
		if err != nil || out.StoppingInstances[0].PreviousState.Name != "running" || out.StoppingInstances[0].CurrentState.Name != "stopping" {
			t.Fatalf("stop: %+v, %v", out, err)
		}
		stopped := h.becomes(t, id, types.InstanceStateNameStopped)
		if *stopped.StateReason.Code != "Client.UserInitiatedShutdown" || *stopped.PrivateIpAddress != *i.PrivateIpAddress {
			t.Errorf("stopped it is %+v at %s", stopped.StateReason, *stopped.PrivateIpAddress)
		}
		if p, err := h.qemu(id); err == nil {
			t.Errorf("its QEMU runs: %v", p)
		}
		if err := modify(ec2.ModifyInstanceAttributeInput{UserData: &types.SecureBlobAttributeValue{Value: []byte(remember + "# again\n")}}); err != nil {
			t.Error(err)
		}
		if _, err := h.ec2.StartInstances(t.Context(), &ec2.StartInstancesInput{InstanceIds: ids}); err != nil {
			t.Fatal(err)
		}
		h.becomes(t, id, types.InstanceStateNameRunning)
		h.online(t, id)
		if got := h.sh(t, id, "curl -s http://169.254.169.254/latest/user-data"); !strings.HasSuffix(got, "# again") {
			t.Errorf("user data are %q", got)
		}
	})
	t.Run("a guest that powers off is stopped, or terminated when it says so", func(t *testing.T) {
		h.send(t, id, "poweroff")
		stopped := h.becomes(t, id, types.InstanceStateNameStopped)
		if *stopped.StateReason.Code != "Client.InstanceInitiatedShutdown" {
			t.Errorf("reason is %s", *stopped.StateReason.Code)
		}
		if _, err := h.ec2.ModifyInstanceAttribute(t.Context(), &ec2.ModifyInstanceAttributeInput{InstanceId: &id,
			InstanceInitiatedShutdownBehavior: &types.AttributeValue{Value: aws.String("terminate")}}); err != nil {
			t.Fatal(err)
		}
		if _, err := h.ec2.ModifyInstanceAttribute(t.Context(), &ec2.ModifyInstanceAttributeInput{InstanceId: &id,
			DisableApiTermination: &types.AttributeBooleanValue{Value: aws.Bool(true)}}); err != nil {
			t.Fatal(err)
		}
		_, err := h.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: ids})
		refused(t, err, "OperationNotPermitted")
		if _, err := h.ec2.StartInstances(t.Context(), &ec2.StartInstancesInput{InstanceIds: ids}); err != nil {
			t.Fatal(err)
		}
		h.becomes(t, id, types.InstanceStateNameRunning)
		h.online(t, id)
		h.send(t, id, "poweroff")
		if gone := h.becomes(t, id, types.InstanceStateNameTerminated); *gone.StateReason.Code != "Client.InstanceInitiatedShutdown" {
			t.Errorf("reason is %s", *gone.StateReason.Code)
		}
		_, err = h.ec2.StartInstances(t.Context(), &ec2.StartInstancesInput{InstanceIds: ids})
		refused(t, err, "IncorrectInstanceState")
	})
	h.clean(t, before)
}

// newBoot waits until commands reach another boot than the one that is remembered.
func (h *host) newBoot(t *testing.T, id, was string) {
	t.Helper()
	await(t, "another boot", func() error {
		out := h.result(t, id, h.send(t, id, "cat /proc/sys/kernel/random/boot_id"))
		if out.Status != "Success" || strings.HasPrefix(was, strings.TrimSpace(*out.StandardOutputContent)) {
			return errors.New("not yet")
		}
		return nil
	})
}

// TestImages registers what the pool holds under another name, and forgets it.
func TestImages(t *testing.T) {
	h := the(t)
	out, err := h.ec2.DescribeImages(t.Context(), &ec2.DescribeImagesInput{ImageIds: []string{h.image(t)}})
	if err != nil {
		t.Fatal(err)
	}
	micro := out.Images[0]
	in := &ec2.RegisterImageInput{Name: aws.String("mine"), KernelId: micro.KernelId, RamdiskId: micro.RamdiskId, Architecture: "x86_64", DryRun: aws.Bool(true)}
	_, err = h.ec2.RegisterImage(t.Context(), in)
	refused(t, err, "DryRunOperation")
	in.DryRun = nil
	mine, err := h.ec2.RegisterImage(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.ec2.RegisterImage(t.Context(), in)
	refused(t, err, "InvalidAMIName.Duplicate")
	_, err = h.ec2.RunInstances(t.Context(), &ec2.RunInstancesInput{ImageId: mine.ImageId, InstanceType: "t2.nano", MinCount: aws.Int32(1), MaxCount: aws.Int32(1), DryRun: aws.Bool(true)})
	refused(t, err, "DryRunOperation")
	_, err = h.ec2.DeregisterImage(t.Context(), &ec2.DeregisterImageInput{ImageId: micro.KernelId})
	refused(t, err, "DependencyViolation")
	if _, err := h.ec2.DeregisterImage(t.Context(), &ec2.DeregisterImageInput{ImageId: mine.ImageId}); err != nil {
		t.Fatal(err)
	}
	_, err = h.ec2.DescribeImages(t.Context(), &ec2.DescribeImagesInput{ImageIds: []string{*mine.ImageId}})
	refused(t, err, "InvalidAMIID.NotFound")
	for _, kind := range []string{"../../etc/shadow", "missing.kernel", "/etc/shadow"} {
		_, err := h.ec2.RegisterImage(t.Context(), &ec2.RegisterImageInput{Name: aws.String("other"), ImageLocation: &kind})
		if code(err) == "" {
			t.Errorf("%s: got %v, want a refusal", kind, err)
		}
	}
	m, err := bundle.Read[map[string]json.RawMessage](h.state("images", "ichiro-micro.json"))
	names, _ := os.ReadDir(h.state("images"))
	if err != nil || slices.ContainsFunc(names, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), ".build") }) {
		t.Errorf("the pool holds %v and the manifest %v, %v", names, m, err)
	}
}
