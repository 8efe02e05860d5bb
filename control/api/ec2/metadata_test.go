package ec2

import (
	"cmp"
	"testing"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

type metadataChange = shape.ModifyInstanceMetadataOptionsInput

func TestMetadataOptionsChangeAndTheRestStays(t *testing.T) {
	r := newRig(t)
	id := r.run(small()).Instances[0].InstanceId
	for _, c := range []struct {
		name   string
		change metadataChange
		want   string
	}{
		{"tokens become required", metadataChange{HttpTokens: "required"}, "enabled disabled 1 required disabled"},
		{"the hop limit grows", metadataChange{HttpPutResponseHopLimit: ptr(int64(64))}, "enabled disabled 64 required disabled"},
		{"tags are shown, and IPv6 stays off", metadataChange{InstanceMetadataTags: "enabled", HttpProtocolIpv6: "disabled"}, "enabled disabled 64 required enabled"},
		{"IPv6 is there", metadataChange{HttpProtocolIpv6: "enabled"}, "enabled enabled 64 required enabled"},
		{"and is not any more", metadataChange{HttpProtocolIpv6: "disabled"}, "enabled disabled 64 required enabled"},
		{"the endpoint goes", metadataChange{HttpEndpoint: "disabled"}, "disabled disabled 64 required enabled"},
		{"all come back at once", metadataChange{HttpEndpoint: "enabled", HttpTokens: "optional", HttpPutResponseHopLimit: ptr(int64(1)), InstanceMetadataTags: "disabled"}, "enabled disabled 1 optional disabled"},
	} {
		c.change.InstanceId = id
		answered := optionsLine(do(r, r.ModifyInstanceMetadataOptions, c.change).InstanceMetadataOptions)
		described := optionsLine(do(r, r.DescribeInstances, shape.DescribeInstancesInput{InstanceIds: []string{id}}).Reservations[0].Instances[0].MetadataOptions)
		if answered != c.want || described != c.want {
			t.Errorf("%s: answered %s, described %s, want %s", c.name, answered, described, c.want)
		}
	}
}

func optionsLine(o *shape.InstanceMetadataOptionsResponse) string {
	return o.HttpEndpoint + " " + o.HttpProtocolIpv6 + " " + text(*o.HttpPutResponseHopLimit) + " " + o.HttpTokens + " " + o.InstanceMetadataTags
}

func TestMetadataOptionsThatAreRefusedChangeNothing(t *testing.T) {
	r := newRig(t)
	id := r.run(small()).Instances[0].InstanceId
	was := r.head()
	for name, c := range map[string]struct {
		code   string
		change metadataChange
	}{
		"nothing to change":       {"MissingParameter", metadataChange{InstanceId: id}},
		"unknown instance":        {"InvalidInstanceID.NotFound", metadataChange{InstanceId: "i-00000000000000001", HttpTokens: "required"}},
		"malformed instance":      {"InvalidInstanceID.Malformed", metadataChange{InstanceId: "x", HttpTokens: "required"}},
		"unknown value of tokens": {"InvalidParameterValue", metadataChange{InstanceId: id, HttpTokens: "Required"}},
		"no hop at all":           {"InvalidParameterValue", metadataChange{InstanceId: id, HttpPutResponseHopLimit: ptr(int64(0))}},
		"too many hops":           {"InvalidParameterValue", metadataChange{InstanceId: id, HttpPutResponseHopLimit: ptr(int64(65))}},
		"unknown value for IPv6":  {"InvalidParameterValue", metadataChange{InstanceId: id, HttpProtocolIpv6: "on"}},
		"one of two is bad":       {"InvalidParameterValue", metadataChange{InstanceId: id, HttpTokens: "required", HttpEndpoint: "x"}},
		"a dry run":               {"", metadataChange{InstanceId: id, HttpTokens: "required", DryRun: ptr(true)}},
	} {
		if _, code := try(r, r.ModifyInstanceMetadataOptions, c.change); code != c.code {
			t.Errorf("%s: got %q, want %q", name, code, c.code)
		}
		if r.head() != was {
			t.Errorf("%s: something was written", name)
			was = r.head()
		}
	}
	do(r, r.TerminateInstances, shape.TerminateInstancesInput{InstanceIds: []string{id}})
	if _, code := try(r, r.ModifyInstanceMetadataOptions, metadataChange{InstanceId: id, HttpTokens: "required"}); code != "IncorrectInstanceState" {
		t.Errorf("of a terminated instance: got %q", code)
	}
}

func TestTagsThatMetadataCannotShowAreRefusedWhileItShowsTags(t *testing.T) {
	r := newRig(t)
	shown := small()
	shown.MetadataOptions = &shape.InstanceMetadataOptionsRequest{InstanceMetadataTags: "enabled"}
	hidden := r.run(small()).Instances[0].InstanceId
	open := r.run(shown).Instances[0].InstanceId
	tag := func(id, key string) string {
		_, code := try(r, r.CreateTags, shape.CreateTagsInput{Resources: []string{id}, Tags: []shape.Tag{{Key: key, Value: "any value / at all"}}})
		return code
	}
	launch := func(key string) string {
		in := *shown
		in.TagSpecifications = []shape.TagSpecification{{ResourceType: "instance", Tags: []shape.Tag{{Key: key}}}}
		in.DryRun = ptr(true)
		_, code := try(r, r.RunInstances, in)
		return code
	}
	for key, good := range map[string]bool{
		"Name": true, "a-b+c=d.e,f_g:h@i": true, "with space": false, "kubernetes.io/cluster": false, ".": false, "..": false, "_index": false, "_indexes": true, "größe": false,
	} {
		want := "InvalidParameterValue"
		if good {
			want = ""
		}
		was := r.head()
		if got := tag(open, key); got != want {
			t.Errorf("%q on an instance that shows its tags: got %q, want %q", key, got, want)
		}
		if !good && r.head() != was {
			t.Errorf("%q: it was refused, and something was written", key)
		}
		if got := launch(key); got != want {
			t.Errorf("%q at launch: got %q, want %q", key, got, want)
		}
	}
	if got := tag(hidden, "with space"); got != "" {
		t.Errorf("an instance that hides its tags: got %q", got)
	}
	enable := func() string {
		_, code := try(r, r.ModifyInstanceMetadataOptions, metadataChange{InstanceId: hidden, InstanceMetadataTags: "enabled"})
		return code
	}
	if got := enable(); got != "InvalidParameterValue" {
		t.Errorf("tags that cannot be shown are to be shown: got %q", got)
	}
	do(r, r.DeleteTags, shape.DeleteTagsInput{Resources: []string{hidden}, Tags: []shape.TagCriterion{{Key: "with space"}}})
	if got := enable(); got != "" {
		t.Errorf("when they are gone: got %q", got)
	}
}

func TestAccountsDefaultsStandBetweenLaunchAndImage(t *testing.T) {
	r := newRig(t)
	const modern = "ami-00000000000000002"
	r.write(func(t *store.Txn) {
		i := cloud.Image{ID: modern, Account: "000000000000", Kind: cloud.ImageMachine, Name: "modern", Kernel: aki, Ramdisk: ari, Virtualization: "paravirtual", RootDeviceType: "ebs", IMDSSupport: "v2.0"}
		store.Create(t, store.Images, i.ID, i)
	})
	type change = shape.ModifyInstanceMetadataDefaultsInput
	type ask = shape.InstanceMetadataOptionsRequest
	none := change{HttpTokens: "no-preference", HttpEndpoint: "no-preference", InstanceMetadataTags: "no-preference", HttpPutResponseHopLimit: ptr(int64(-1))}
	first := r.run(small()).Instances[0].InstanceId
	for _, c := range []struct {
		name   string
		change change
		image  string
		ask    *ask
		shown  string // the account's
		want   string // the instance's
	}{
		{"nobody says anything", none, ami, nil, "- - - -", "enabled disabled 1 optional disabled"},
		{"the image wants tokens", none, modern, nil, "- - - -", "enabled disabled 2 required disabled"},
		{"the account wants tokens", change{HttpTokens: "required"}, ami, nil, "- - required -", "enabled disabled 1 required disabled"},
		{"the account wants none, over the image", change{HttpTokens: "optional", HttpPutResponseHopLimit: ptr(int64(3))}, modern, nil, "- 3 optional -", "enabled disabled 3 optional disabled"},
		{"the launch has the last word", change{InstanceMetadataTags: "enabled"}, modern, &ask{HttpTokens: "required", HttpPutResponseHopLimit: ptr(int64(9))}, "- 3 optional enabled", "enabled disabled 9 required enabled"},
		{"the account has no endpoint", change{HttpEndpoint: "disabled"}, ami, &ask{InstanceMetadataTags: "disabled"}, "disabled 3 optional enabled", "disabled disabled 3 optional disabled"},
		{"one is taken back", change{HttpPutResponseHopLimit: ptr(int64(-1))}, modern, nil, "disabled - optional enabled", "disabled disabled 2 optional enabled"},
		{"all are taken back", none, modern, nil, "- - - -", "enabled disabled 2 required disabled"},
	} {
		if out := do(r, r.ModifyInstanceMetadataDefaults, c.change); !*out.Return {
			t.Errorf("%s: it returns false", c.name)
		}
		d := do(r, r.GetInstanceMetadataDefaults, shape.GetInstanceMetadataDefaultsInput{}).AccountLevel
		shown := cmp.Or(d.HttpEndpoint, "-") + " " + cmp.Or(digits(d.HttpPutResponseHopLimit), "-") + " " + cmp.Or(d.HttpTokens, "-") + " " + cmp.Or(d.InstanceMetadataTags, "-")
		in := small()
		in.ImageId, in.MetadataOptions = c.image, c.ask
		if got := optionsLine(r.run(in).Instances[0].MetadataOptions); got != c.want || shown != c.shown {
			t.Errorf("%s: the account has %s, want %s; the instance has %s, want %s", c.name, shown, c.shown, got, c.want)
		}
	}
	old := do(r, r.DescribeInstances, shape.DescribeInstancesInput{InstanceIds: []string{first}}).Reservations[0].Instances[0]
	if got, want := optionsLine(old.MetadataOptions), "enabled disabled 1 optional disabled"; got != want {
		t.Errorf("an instance of before has %s, want %s", got, want)
	}
	was := r.head()
	for name, c := range map[string]change{
		"no endpoint of that name": {HttpEndpoint: "on"}, "tokens of that name": {HttpTokens: "Required"}, "tags of that name": {InstanceMetadataTags: "x"},
		"no hop": {HttpPutResponseHopLimit: ptr(int64(0))}, "too many hops": {HttpPutResponseHopLimit: ptr(int64(65))}, "less than no preference": {HttpPutResponseHopLimit: ptr(int64(-2))},
	} {
		if _, code := try(r, r.ModifyInstanceMetadataDefaults, c); code != "InvalidParameterValue" {
			t.Errorf("%s: got %q", name, code)
		}
	}
	if _, code := try(r, r.ModifyInstanceMetadataDefaults, change{HttpTokens: "required", HttpTokensEnforced: "enabled"}); code != "UnsupportedOperation" {
		t.Errorf("tokens that no launch may do without: got %q", code)
	}
	if _, code := try(r, r.ModifyInstanceMetadataDefaults, change{}); code != "MissingParameter" {
		t.Errorf("nothing to change: got %q", code)
	}
	do(r, r.ModifyInstanceMetadataDefaults, change{HttpTokens: "required", DryRun: ptr(true)})
	if r.head() != was {
		t.Error("what was refused, or only tried, has written something")
	}
}

func TestAnImageThatKnowsTokens(t *testing.T) {
	r := newRig(t)
	in := shape.RegisterImageInput{Name: "modern", KernelId: aki, RamdiskId: ari, ImdsSupport: "v2.0"}
	id := do(r, r.RegisterImage, in).ImageId
	if got := do(r, r.DescribeImages, shape.DescribeImagesInput{ImageIds: []string{id}}).Images[0].ImdsSupport; got != "v2.0" {
		t.Errorf("described with %q", got)
	}
	in.Name, in.ImdsSupport = "odd", "v3"
	if _, code := try(r, r.RegisterImage, in); code != "InvalidParameterValue" {
		t.Errorf("another version: got %q", code)
	}
}

func TestMetadataOptionsArePendingUntilTheHostHasSeenThem(t *testing.T) {
	on := cloud.Instance{Host: "h", Power: cloud.PowerRunning, Generation: 2}
	off := cloud.Instance{Host: "h", Power: cloud.PowerStopped, Generation: 2}
	for name, c := range map[string]struct {
		i    cloud.Instance
		st   *cloud.InstanceStatus
		want string
	}{
		"the host has said nothing":         {on, nil, "pending"},
		"the host speaks of an older wish":  {on, &cloud.InstanceStatus{Generation: 1}, "pending"},
		"the host speaks of this wish":      {on, &cloud.InstanceStatus{Generation: 2}, "applied"},
		"a stopped instance has no service": {off, &cloud.InstanceStatus{Generation: 1}, "applied"},
		"nor has one without a host":        {cloud.Instance{Power: cloud.PowerRunning}, nil, "applied"},
	} {
		if got := shownOptions(c.i, c.st).State; got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func TestMetadataOptionsAreANewWishOnlyWhenTheyDiffer(t *testing.T) {
	r := newRig(t)
	id := r.run(small()).Instances[0].InstanceId
	generation := func() int64 {
		o, err := store.Get(t.Context(), r.Store, store.Instances, cloud.InstanceID(id))
		if err != nil {
			t.Fatal(err)
		}
		return o.Value.Generation
	}
	was := generation()
	do(r, r.ModifyInstanceMetadataOptions, metadataChange{InstanceId: id, HttpTokens: "optional"})
	if got := generation(); got != was {
		t.Errorf("the same again: generation %d, was %d", got, was)
	}
	do(r, r.ModifyInstanceMetadataOptions, metadataChange{InstanceId: id, HttpTokens: "required"})
	if got := generation(); got != was+1 {
		t.Errorf("a change: generation %d, was %d", got, was)
	}
}
