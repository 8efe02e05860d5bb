package ec2

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/cluster"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

var start = time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)

const (
	ami = "ami-00000000000000001"
	aki = "aki-00000000000000001"
	ari = "ari-00000000000000001"
)

// nobody has one profile, good, whose role it may pass.
type nobody struct{}

func (nobody) ResolveProfile(_ context.Context, name string) (cloud.ProfileRef, error) {
	if name != "good" && name != "theirs" {
		return cloud.ProfileRef{}, cloud.Errorf("InvalidParameterValue", "no profile %s", name)
	}
	return cloud.ProfileRef{Name: name, RoleName: "r"}, nil
}

func (nobody) MayPassRole(_ context.Context, p cloud.ProfileRef) error {
	if p.Name == "theirs" {
		return cloud.Errorf("UnauthorizedOperation", "no")
	}
	return nil
}

// rig is the service over a real store with one host, a default VPC and one image.
type rig struct {
	*Service
	*testing.T
	ctx context.Context
}

func newRig(t *testing.T) *rig {
	c := storetest.New(t)
	m := storetest.Mirror(t, c, store.All("spec"), store.All("status"), store.All("host"))
	pager, err := api.NewPager(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	s := &Service{Config{Store: c, Mirror: m, Profiles: nobody{}, Pager: pager, Region: "r-1", Zone: "r-1a", Types: cloud.Types,
		Now: func() time.Time { return start }, Rand: rand.Reader, Log: slog.New(slog.DiscardHandler)}}
	r := &rig{Service: s, T: t, ctx: api.WithCaller(t.Context(), api.Identity{Account: "000000000000"})}
	if err := cluster.Bootstrap(t.Context(), c, cluster.Default{Account: "000000000000", Zones: []string{s.Zone}}); err != nil {
		t.Fatal(err)
	}
	r.write(func(t *store.Txn) {
		store.Create(t, store.Hosts, "h-1", cloud.Host{ID: "h-1", Zone: s.Zone, VCPUs: 4, MemoryMiB: 20 * 512})
		for _, i := range []cloud.Image{{ID: aki, Kind: cloud.ImageKernel}, {ID: ari, Kind: cloud.ImageRamdisk},
			{ID: ami, Kind: cloud.ImageMachine, Name: "small", Kernel: aki, Ramdisk: ari, Virtualization: "paravirtual", RootDeviceType: "ebs"}} {
			i.Account = "000000000000"
			store.Create(t, store.Images, i.ID, i)
		}
	})
	return r
}

func (r *rig) write(f func(t *store.Txn)) {
	r.Helper()
	storetest.Write(r.T, r.Store, r.Mirror, f)
}

func (r *rig) head() int64 {
	rev, err := r.Store.Head(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	return rev
}

func small() *shape.RunInstancesInput {
	return &shape.RunInstancesInput{ImageId: ami, InstanceType: "t2.nano", MinCount: ptr(int64(1)), MaxCount: ptr(int64(1))}
}

func (r *rig) run(in *shape.RunInstancesInput) *shape.RunInstancesOutput {
	r.Helper()
	out, err := r.RunInstances(r.ctx, in)
	if err != nil {
		r.Fatal(err)
	}
	return out
}

// says places the instance and has its host report a state.
func (r *rig) says(id string, s cloud.State) {
	r.Helper()
	o, err := store.Get(r.Context(), r.Store, store.Instances, id)
	if err != nil {
		r.Fatal(err)
	}
	i := o.Value
	i.Host = "h-1"
	r.write(func(t *store.Txn) {
		store.Update(t, store.Instances, o, i)
		store.Put(t, store.InstanceStatuses("h-1"), id, cloud.InstanceStatus{ID: i.ID, Host: "h-1", Generation: i.Generation, Boot: i.Boot, State: s})
	})
}

func TestRefusedLaunches(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]struct {
		code string
		edit func(in *shape.RunInstancesInput)
	}{
		"no count":           {"MissingParameter", func(in *shape.RunInstancesInput) { in.MinCount = nil }},
		"none":               {"InvalidParameterValue", func(in *shape.RunInstancesInput) { in.MinCount = ptr(int64(0)) }},
		"more than at most":  {"InvalidParameterValue", func(in *shape.RunInstancesInput) { in.MinCount = ptr(int64(2)) }},
		"too many at once":   {"InstanceLimitExceeded", func(in *shape.RunInstancesInput) { in.MaxCount = ptr(int64(101)) }},
		"more than there is": {"InsufficientInstanceCapacity", func(in *shape.RunInstancesInput) { in.MinCount, in.MaxCount = ptr(int64(21)), ptr(int64(21)) }},
		"unknown type":       {"InvalidParameterValue", func(in *shape.RunInstancesInput) { in.InstanceType = "x" }},
		"type without PV":    {"InvalidParameterCombination", func(in *shape.RunInstancesInput) { in.InstanceType = "c5.large" }},
		"no image":           {"MissingParameter", func(in *shape.RunInstancesInput) { in.ImageId = "" }},
		"malformed image":    {"InvalidAMIID.Malformed", func(in *shape.RunInstancesInput) { in.ImageId = "../x" }},
		"unknown image":      {"InvalidAMIID.NotFound", func(in *shape.RunInstancesInput) { in.ImageId = "ami-12345678" }},
		"kernel as image":    {"InvalidParameterValue", func(in *shape.RunInstancesInput) { in.ImageId = aki }},
		"ramdisk as kernel":  {"InvalidParameterValue", func(in *shape.RunInstancesInput) { in.KernelId = ari }},
		"unknown key":        {"InvalidKeyPair.NotFound", func(in *shape.RunInstancesInput) { in.KeyName = "x" }},
		"malformed subnet":   {"InvalidSubnetID.Malformed", func(in *shape.RunInstancesInput) { in.SubnetId = "x" }},
		"unknown subnet":     {"InvalidSubnetID.NotFound", func(in *shape.RunInstancesInput) { in.SubnetId = "subnet-12345678" }},
		"unknown group":      {"InvalidGroup.NotFound", func(in *shape.RunInstancesInput) { in.SecurityGroupIds = []string{"sg-12345678"} }},
		"other zone":         {"InvalidParameterValue", func(in *shape.RunInstancesInput) { in.Placement = &shape.Placement{AvailabilityZone: "x"} }},
		"unknown profile": {"InvalidParameterValue", func(in *shape.RunInstancesInput) {
			in.IamInstanceProfile = &shape.IamInstanceProfileSpecification{Name: "x"}
		}},
		"profile not to pass": {"UnauthorizedOperation", func(in *shape.RunInstancesInput) {
			in.IamInstanceProfile = &shape.IamInstanceProfileSpecification{Name: "theirs"}
		}},
		"bad base64": {"InvalidUserData.Malformed", func(in *shape.RunInstancesInput) { in.UserData = "%" }},
		"much user data": {"InvalidParameterValue", func(in *shape.RunInstancesInput) {
			in.UserData = base64.StdEncoding.EncodeToString(make([]byte, 16<<10+1))
		}},
		"reserved address":    {"InvalidParameterValue", func(in *shape.RunInstancesInput) { in.PrivateIpAddress = "172.31.0.1" }},
		"address elsewhere":   {"InvalidParameterValue", func(in *shape.RunInstancesInput) { in.PrivateIpAddress = "10.0.0.9" }},
		"no address":          {"InvalidParameterValue", func(in *shape.RunInstancesInput) { in.PrivateIpAddress = "::1" }},
		"one address for two": {"InvalidParameterCombination", func(in *shape.RunInstancesInput) { in.PrivateIpAddress, in.MaxCount = "172.31.0.9", ptr(int64(2)) }},
		"tags of something": {"InvalidParameterValue", func(in *shape.RunInstancesInput) {
			in.TagSpecifications = []shape.TagSpecification{{ResourceType: "vpc"}}
		}},
		"reserved tag": {"InvalidParameterValue", func(in *shape.RunInstancesInput) {
			in.TagSpecifications = []shape.TagSpecification{{ResourceType: "instance", Tags: []shape.Tag{{Key: "aws:x"}}}}
		}},
		"hop limit": {"InvalidParameterValue", func(in *shape.RunInstancesInput) {
			in.MetadataOptions = &shape.InstanceMetadataOptionsRequest{HttpPutResponseHopLimit: ptr(int64(65))}
		}},
		"what a shutdown does": {"InvalidParameterValue", func(in *shape.RunInstancesInput) { in.InstanceInitiatedShutdownBehavior = "hibernate" }},
		"volumes":              {"UnsupportedOperation", func(in *shape.RunInstancesInput) { in.BlockDeviceMappings = make([]shape.BlockDeviceMapping, 1) }},
		"long token":           {"InvalidParameterValue", func(in *shape.RunInstancesInput) { in.ClientToken = strings.Repeat("x", 65) }},
	} {
		in, was := small(), r.head()
		c.edit(in)
		if _, err := r.RunInstances(r.ctx, in); cloud.Code(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
		if r.head() != was {
			t.Errorf("%s: it was refused, and something was written", name)
		}
	}
	in, was := small(), r.head()
	in.DryRun, in.ClientToken = ptr(true), "t"
	if _, err := r.RunInstances(r.ctx, in); err != nil || r.head() != was {
		t.Errorf("a dry run: %v, or something was written", err)
	}
}

func TestLaunchesThatRaceShareNoAddress(t *testing.T) {
	r := newRig(t)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := r.RunInstances(r.ctx, small()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	all, err := store.Mirrored(r.Mirror, store.Interfaces)
	owner := map[netip.Addr]cloud.InterfaceID{}
	for _, n := range all {
		if was, twice := owner[n.Value.Primary()]; twice {
			t.Errorf("%s and %s have %s", was, n.ID, n.Value.Primary())
		}
		owner[n.Value.Primary()] = n.Value.ID
	}
	if err != nil || len(owner) != 16 {
		t.Errorf("got %d addresses, %v, want 16", len(owner), err)
	}
	in := small() // 4 are left
	in.MaxCount = ptr(int64(9))
	if out := r.run(in); len(out.Instances) != 4 {
		t.Errorf("got %d instances, want the 4 that there is room for", len(out.Instances))
	}
}

func TestAClientTokenLaunchesOnce(t *testing.T) {
	r := newRig(t)
	in := small()
	in.ClientToken, in.SecurityGroupIds = "tok/en", nil
	got := make([]string, 8)
	var wg sync.WaitGroup
	for k := range got {
		wg.Go(func() {
			if out, err := r.RunInstances(r.ctx, in); err != nil {
				t.Error(err)
			} else {
				got[k] = out.Instances[0].InstanceId
			}
		})
	}
	wg.Wait()
	for _, id := range got {
		if id != got[0] {
			t.Fatalf("got %v, want one instance", got)
		}
	}
	other := *in
	other.InstanceType = "t2.micro"
	if _, err := r.RunInstances(r.ctx, &other); cloud.Code(err) != "IdempotentParameterMismatch" {
		t.Errorf("another request: got %v", err)
	}
	they := api.WithCaller(t.Context(), api.Identity{Account: "111111111111"})
	if _, err := r.RunInstances(they, in); cloud.Code(err) != "InvalidAMIID.NotFound" {
		t.Errorf("another account: got %v", err)
	}
}

func TestAGroupNamedTwiceIsOneGroup(t *testing.T) {
	r := newRig(t)
	groups, _ := store.Mirrored(r.Mirror, store.Groups)
	in := small()
	in.SecurityGroupIds, in.SecurityGroups = []string{groups[0].ID, groups[0].ID}, []string{"default"}
	if out := r.run(in); len(out.Instances[0].SecurityGroups) != 1 {
		t.Errorf("got %v", out.Instances[0].SecurityGroups)
	}
}

func TestPower(t *testing.T) {
	r := newRig(t)
	id := r.run(small()).Instances[0].InstanceId
	ids := []string{id, id}
	show := func(c []shape.InstanceStateChange, err error) string {
		if err != nil {
			return cloud.Code(err)
		}
		return fmt.Sprint(len(c), " ", c[0].PreviousState.Name, " > ", c[0].CurrentState.Name)
	}
	begin := func() string {
		out, err := r.StartInstances(r.ctx, &shape.StartInstancesInput{InstanceIds: ids})
		return show(out.StartingInstances, err)
	}
	stop := func() string {
		out, err := r.StopInstances(r.ctx, &shape.StopInstancesInput{InstanceIds: ids})
		return show(out.StoppingInstances, err)
	}
	end := func() string {
		out, err := r.TerminateInstances(r.ctx, &shape.TerminateInstancesInput{InstanceIds: ids})
		return show(out.TerminatingInstances, err)
	}
	reboot := func() string {
		_, err := r.RebootInstances(r.ctx, &shape.RebootInstancesInput{InstanceIds: ids})
		return cloud.Code(err)
	}
	protect := func(v bool) string {
		_, err := r.ModifyInstanceAttribute(r.ctx, &shape.ModifyInstanceAttributeInput{InstanceId: id, DisableApiTermination: &shape.AttributeBooleanValue{Value: &v}})
		return cloud.Code(err)
	}
	for k, step := range []struct {
		seen cloud.State
		do   func() string
		want string
	}{
		{cloud.StateRunning, begin, "1 running > running"},
		{cloud.StateRunning, reboot, ""},
		{cloud.StateRunning, stop, "1 running > stopping"},
		{cloud.StateStopping, begin, "IncorrectInstanceState"},
		{cloud.StateStopped, stop, "1 stopped > stopped"},
		{cloud.StateStopped, reboot, "IncorrectInstanceState"},
		{cloud.StateStopped, begin, "1 stopped > pending"},
		{cloud.StateRunning, func() string { return protect(true) }, ""},
		{cloud.StateRunning, end, "OperationNotPermitted"},
		{cloud.StateRunning, func() string { return protect(false) }, ""},
		{cloud.StateRunning, end, "1 running > shutting-down"},
		{cloud.StateShuttingDown, stop, "IncorrectInstanceState"},
		{cloud.StateTerminated, end, "1 terminated > terminated"},
		{cloud.StateTerminated, begin, "IncorrectInstanceState"},
	} {
		r.says(id, step.seen)
		if got := step.do(); got != step.want {
			t.Errorf("step %d, %s: got %q, want %q", k, step.seen, got, step.want)
		}
	}
	other := r.run(small()).Instances[0].InstanceId
	if _, err := r.StopInstances(r.ctx, &shape.StopInstancesInput{InstanceIds: []string{other, "i-12345678"}}); cloud.Code(err) != "InvalidInstanceID.NotFound" {
		t.Errorf("got %v", err)
	}
	if i, _ := store.Get(t.Context(), r.Store, store.Instances, other); i.Value.Power != cloud.PowerRunning {
		t.Error("one of two was stopped though the other does not exist: want both or none")
	}
}

// A stopped instance that becomes larger leaves its host: the next start looks for one with room.
func TestALargerTypeIsPlacedAnew(t *testing.T) {
	r := newRig(t)
	id := r.run(small()).Instances[0].InstanceId
	in := &shape.ModifyInstanceAttributeInput{InstanceId: id, InstanceType: &shape.AttributeValue{Value: "t2.medium"}}
	r.says(id, cloud.StateRunning)
	if _, err := r.ModifyInstanceAttribute(r.ctx, in); cloud.Code(err) != "IncorrectInstanceState" {
		t.Errorf("while it runs: got %v", err)
	}
	if _, err := r.StopInstances(r.ctx, &shape.StopInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	r.says(id, cloud.StateStopped)
	r.write(func(t *store.Txn) { store.Put(t, store.Assignments("h-1"), id, cloud.Assignment{}) })
	if _, err := r.ModifyInstanceAttribute(r.ctx, in); err != nil {
		t.Fatal(err)
	}
	i, _ := store.Get(t.Context(), r.Store, store.Instances, id)
	_, err := store.Get(t.Context(), r.Store, store.Assignments("h-1"), id)
	if i.Value.Host != "" || err == nil || i.Value.State(nil) != cloud.StateStopped {
		t.Errorf("it is on %q, %s, and its host still knows it: %v", i.Value.Host, i.Value.State(nil), err == nil)
	}
}

func TestPagesShowOneMoment(t *testing.T) {
	r := newRig(t)
	in := small()
	in.MinCount, in.MaxCount = ptr(int64(7)), ptr(int64(7))
	r.run(in)
	ask := &shape.DescribeInstancesInput{MaxResults: ptr(int64(5)), Filters: []shape.Filter{{Name: "instance-type", Values: []string{"t2.*"}}}}
	seen := map[string]bool{}
	for page := 0; page == 0 || ask.NextToken != ""; page++ {
		out, err := r.DescribeInstances(r.ctx, ask)
		if err != nil {
			t.Fatal(err)
		}
		for _, res := range out.Reservations {
			for _, i := range res.Instances {
				if seen[i.InstanceId] {
					t.Errorf("%s is shown twice", i.InstanceId)
				}
				seen[i.InstanceId] = true
			}
		}
		ask.NextToken = out.NextToken
		r.run(small()) // must not show
	}
	if len(seen) != 7 {
		t.Errorf("got %d instances, want the 7 of the first moment", len(seen))
	}
	if _, err := r.DescribeInstances(r.ctx, &shape.DescribeInstancesInput{Filters: []shape.Filter{{Name: "x", Values: []string{"y"}}}}); cloud.Code(err) != "InvalidParameterValue" {
		t.Errorf("unknown filter: got %v", err)
	}
}

func TestEveryKindHasTags(t *testing.T) {
	r := newRig(t)
	r.run(small())
	if _, err := r.CreateKeyPair(r.ctx, &shape.CreateKeyPairInput{KeyName: "k", KeyType: "ed25519"}); err != nil {
		t.Fatal(err)
	}
	err := r.commit(r.ctx, nil, func(_ *store.Snapshot, t *store.Txn) error {
		store.Create(t, store.NATGateways, "nat-0123456789abcdef0", cloud.NATGateway{ID: "nat-0123456789abcdef0", Account: "000000000000"})
		store.Create(t, store.Addresses, "eipalloc-0123456789abcdef0", cloud.Address{ID: "eipalloc-0123456789abcdef0", Account: "000000000000"})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, k := range taggables() {
		n := 0
		k.each(r.Mirror.Snapshot(), "000000000000", func(id string, _ cloud.Tags) { ids, n = append(ids, id), n+1 })
		if n == 0 {
			t.Errorf("there is no %s to tag", k.name)
		}
	}
	if _, err := r.CreateTags(r.ctx, &shape.CreateTagsInput{Resources: ids, Tags: []shape.Tag{{Key: "a", Value: "1"}, {Key: "b"}}}); err != nil {
		t.Fatal(err)
	}
	count := func() int {
		out, err := r.DescribeTags(r.ctx, &shape.DescribeTagsInput{})
		if err != nil {
			t.Fatal(err)
		}
		return len(out.Tags)
	}
	if got := count(); got != 2*len(ids) {
		t.Errorf("got %d tags, want %d", got, 2*len(ids))
	}
	for _, c := range []struct {
		tags []shape.TagCriterion
		left int
	}{{[]shape.TagCriterion{{Key: "a", Value: ptr("other")}}, 2}, {[]shape.TagCriterion{{Key: "a"}}, 1}, {nil, 0}} {
		if _, err := r.DeleteTags(r.ctx, &shape.DeleteTagsInput{Resources: ids, Tags: c.tags}); err != nil || count() != c.left*len(ids) {
			t.Errorf("%v: %v, %d tags left, want %d", c.tags, err, count(), c.left*len(ids))
		}
	}
	was := r.head()
	if _, err := r.CreateTags(r.ctx, &shape.CreateTagsInput{Resources: append(ids, "i-12345678"), Tags: []shape.Tag{{Key: "a"}}}); cloud.Code(err) != "InvalidInstanceID.NotFound" || r.head() != was {
		t.Errorf("one that does not exist: got %v, and all or none is to be tagged", err)
	}
}

// Fingerprints are what the tools of an owner print for the same key.
func TestFingerprints(t *testing.T) {
	r := newRig(t)
	tool := func(script, in string) string {
		cmd := exec.Command("sh", "-c", script)
		cmd.Stdin = strings.NewReader(in)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", script, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	for _, name := range []string{"openssl", "ssh-keygen"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not there to compare with", name)
		}
	}
	made, err := r.CreateKeyPair(r.ctx, &shape.CreateKeyPairInput{KeyName: "rsa"})
	if err != nil {
		t.Fatal(err)
	}
	if want := tool("openssl pkcs8 -topk8 -nocrypt -outform DER | openssl sha1 -c | sed 's/.*= //'", made.KeyMaterial); made.KeyFingerprint != want {
		t.Errorf("rsa: got %s, openssl says %s", made.KeyFingerprint, want)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(made.KeyMaterial), 0o600); err != nil {
		t.Fatal(err)
	}
	public := tool("ssh-keygen -y -f "+file, "")
	imported, err := r.ImportKeyPair(r.ctx, &shape.ImportKeyPairInput{KeyName: "again", PublicKeyMaterial: []byte(public)})
	if err != nil {
		t.Fatal(err)
	}
	if want := tool("openssl rsa -pubout -outform DER 2>/dev/null | openssl md5 -c | sed 's/.*= //'", made.KeyMaterial); imported.KeyFingerprint != want {
		t.Errorf("imported rsa: got %s, openssl says %s", imported.KeyFingerprint, want)
	}
	made, err = r.CreateKeyPair(r.ctx, &shape.CreateKeyPairInput{KeyName: "ed", KeyType: "ed25519"})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePrivateKey([]byte(made.KeyMaterial))
	if err != nil {
		t.Fatal(err)
	}
	line := string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key.PublicKey())))
	if got, says := "SHA256:"+strings.TrimRight(made.KeyFingerprint, "="), tool("ssh-keygen -l -f -", line); !strings.Contains(says, got) {
		t.Errorf("ed25519: got %s, ssh-keygen says %s", got, says)
	}
	for name, c := range map[string]struct{ key, material, code string }{
		"the name is taken": {"ed", line, "InvalidKeyPair.Duplicate"},
		"no key":            {"x", "hello", "InvalidKey.Format"},
		"a private key":     {"x", made.KeyMaterial, "InvalidKey.Format"},
		"too long":          {"x", strings.Repeat("ssh-rsa ", 9999), "InvalidKey.Format"},
		"no name":           {"", line, "InvalidParameterValue"},
	} {
		if _, err := r.ImportKeyPair(r.ctx, &shape.ImportKeyPairInput{KeyName: c.key, PublicKeyMaterial: []byte(c.material)}); cloud.Code(err) != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
		}
	}
	for range 2 {
		if _, err := r.DeleteKeyPair(r.ctx, &shape.DeleteKeyPairInput{KeyName: "ed"}); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if _, err := r.ImportKeyPair(r.ctx, &shape.ImportKeyPairInput{KeyName: "ed", PublicKeyMaterial: []byte(line)}); err != nil {
		t.Errorf("the name is free again: %v", err)
	}
}

func TestImages(t *testing.T) {
	r := newRig(t)
	register := func(in shape.RegisterImageInput) (string, string) {
		out, err := r.RegisterImage(r.ctx, &in)
		if err != nil {
			return "", cloud.Code(err)
		}
		return out.ImageId, ""
	}
	for name, c := range map[string]struct {
		in   shape.RegisterImageInput
		code string
	}{
		"name":       {shape.RegisterImageInput{Name: "x"}, "InvalidAMIName.Malformed"},
		"nothing":    {shape.RegisterImageInput{Name: "xyz"}, "MissingParameter"},
		"a path":     {shape.RegisterImageInput{Name: "xyz", ImageLocation: "/etc/shadow"}, "InvalidParameterValue"},
		"hvm":        {shape.RegisterImageInput{Name: "xyz", VirtualizationType: "hvm"}, "UnsupportedOperation"},
		"swapped":    {shape.RegisterImageInput{Name: "xyz", KernelId: ari, RamdiskId: aki}, "InvalidParameterValue"},
		"no kernel":  {shape.RegisterImageInput{Name: "xyz", KernelId: "aki-12345678", RamdiskId: ari}, "InvalidAMIID.NotFound"},
		"other arch": {shape.RegisterImageInput{Name: "xyz", Architecture: "arm64"}, "InvalidParameterValue"},
	} {
		if _, code := register(c.in); code != c.code {
			t.Errorf("%s: got %q, want %q", name, code, c.code)
		}
	}
	id, code := register(shape.RegisterImageInput{Name: "mine", KernelId: aki, RamdiskId: ari})
	if code != "" {
		t.Fatal(code)
	}
	if _, code := register(shape.RegisterImageInput{Name: "mine", KernelId: aki, RamdiskId: ari}); code != "InvalidAMIName.Duplicate" {
		t.Errorf("the same name: got %q", code)
	}
	gone := func(id string) string {
		_, err := r.DeregisterImage(r.ctx, &shape.DeregisterImageInput{ImageId: id})
		return cloud.Code(err)
	}
	// The pool's kernel may be called as somebody else's image is: it holds no name.
	o, _ := store.Get(t.Context(), r.Store, store.Images, aki)
	named := o.Value
	named.Name = "mine"
	r.write(func(t *store.Txn) { store.Update(t, store.Images, o, named) })
	if got := gone(aki); got != "DependencyViolation" {
		t.Errorf("a kernel in use: got %q", got)
	}
	if got := gone(ami); got != "" {
		t.Errorf("got %q", got)
	}
	if got := gone(id); got != "" {
		t.Errorf("got %q", got)
	}
	id, _ = register(shape.RegisterImageInput{Name: "mine", ImageLocation: strings.Repeat("0", 64) + ".ramdisk"})
	if !strings.HasPrefix(id, "ari-") || gone(aki) != "" {
		t.Errorf("got %q, or the kernel that nobody uses could not go", id)
	}
	if _, code := register(shape.RegisterImageInput{Name: "mine", KernelId: aki, RamdiskId: ari}); code != "InvalidAMIName.Duplicate" {
		t.Errorf("the kernel took the name of another with it: got %q", code)
	}
}

func TestOtherAccountsSeeNothing(t *testing.T) {
	r := newRig(t)
	id := r.run(small()).Instances[0].InstanceId
	they := api.WithCaller(t.Context(), api.Identity{Account: "111111111111"})
	if out, err := r.DescribeInstances(they, &shape.DescribeInstancesInput{}); err != nil || len(out.Reservations) != 0 {
		t.Errorf("got %v, %v", out, err)
	}
	if _, err := r.DescribeInstances(they, &shape.DescribeInstancesInput{InstanceIds: []string{id}}); cloud.Code(err) != "InvalidInstanceID.NotFound" {
		t.Errorf("got %v", err)
	}
	if _, err := r.TerminateInstances(they, &shape.TerminateInstancesInput{InstanceIds: []string{id}}); cloud.Code(err) != "InvalidInstanceID.NotFound" {
		t.Errorf("got %v", err)
	}
	if out, err := r.DescribeImages(they, &shape.DescribeImagesInput{}); err != nil || len(out.Images) != 0 {
		t.Errorf("got %v, %v", out, err)
	}
	if out, err := r.DescribeSecurityGroupRules(r.ctx, &shape.DescribeSecurityGroupRulesInput{}); err != nil || len(out.SecurityGroupRules) != 2 {
		t.Errorf("the owner's rules: got %v, %v", out, err)
	}
}
