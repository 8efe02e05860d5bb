package ec2

import (
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
		"IPv6, which is not here": {"UnsupportedOperation", metadataChange{InstanceId: id, HttpProtocolIpv6: "enabled"}},
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
