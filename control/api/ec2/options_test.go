package ec2

import (
	"testing"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

func TestDHCPOptionsAreMadeUsedAndGo(t *testing.T) {
	r := newRig(t)
	v := r.otherVPC()
	made, err := r.CreateDhcpOptions(r.ctx, &shape.CreateDhcpOptionsInput{
		DhcpConfigurations: []shape.NewDhcpConfiguration{
			{Key: "ntp-servers", Values: []string{"10.2.5.1", "10.2.5.2"}}, {Key: "domain-name-servers", Values: []string{"AmazonProvidedDNS"}}, {Key: "domain-name", Values: []string{"example.com"}},
		},
		TagSpecifications: []shape.TagSpecification{{ResourceType: "dhcp-options", Tags: []shape.Tag{{Key: "k", Value: "v"}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	id := made.DhcpOptions.DhcpOptionsId
	out, err := r.DescribeDhcpOptions(r.ctx, &shape.DescribeDhcpOptionsInput{DhcpOptionsIds: []string{id}})
	want := "[{DhcpConfigurations:[{Key:domain-name,Values:[{Value:example.com}]},{Key:domain-name-servers,Values:[{Value:AmazonProvidedDNS}]}," +
		"{Key:ntp-servers,Values:[{Value:10.2.5.1},{Value:10.2.5.2}]}],DhcpOptionsId:" + id + ",OwnerId:000000000000,Tags:[{Key:k,Value:v}]}]"
	if err != nil || text(out.DhcpOptions) != want {
		t.Errorf("got %s, %v\nwant %s", text(out.DhcpOptions), err, want)
	}
	for _, c := range []struct {
		filter, value string
		want          int
	}{{"key", "ntp-servers", 1}, {"value", "10.2.5.*", 1}, {"dhcp-options-id", id, 1}, {"owner-id", "000000000000", 2}, {"tag:k", "v", 1}, {"value", "AmazonProvidedDNS", 2}} {
		out, err := r.DescribeDhcpOptions(r.ctx, &shape.DescribeDhcpOptionsInput{Filters: []shape.Filter{{Name: c.filter, Values: []string{c.value}}}})
		if err != nil || len(out.DhcpOptions) != c.want {
			t.Errorf("%s=%s: got %s, %v, want %d", c.filter, c.value, text(out), err, c.want)
		}
	}
	associate := func(options, vpc string) string {
		return cloud.Code(errOf(r.AssociateDhcpOptions(r.ctx, &shape.AssociateDhcpOptionsInput{DhcpOptionsId: options, VpcId: vpc})))
	}
	uses := func() string {
		o, err := store.Get(t.Context(), r.Store, store.VPCs, v.ID)
		if err != nil {
			t.Fatal(err)
		}
		return string(o.Value.DHCPOptions)
	}
	remove := func() string {
		return cloud.Code(errOf(r.DeleteDhcpOptions(r.ctx, &shape.DeleteDhcpOptionsInput{DhcpOptionsId: id})))
	}
	for k, step := range []struct {
		do         func() string
		want, uses string
	}{
		{func() string { return associate("dopt-12345678", string(v.ID)) }, "InvalidDhcpOptionID.NotFound", ""},
		{func() string { return associate(id, "vpc-12345678") }, "InvalidVpcID.NotFound", ""},
		{func() string { return associate("x", string(v.ID)) }, "InvalidDhcpOptionID.Malformed", ""},
		{func() string { return associate(id, string(v.ID)) }, "", id},
		{remove, "DependencyViolation", id},
		{func() string { return associate("default", string(v.ID)) }, "", ""},
		{remove, "", ""},
		{remove, "InvalidDhcpOptionID.NotFound", ""},
	} {
		if got := step.do(); got != step.want || uses() != step.uses {
			t.Errorf("step %d: got %q and the VPC uses %q, want %q and %q", k, got, uses(), step.want, step.uses)
		}
	}
}

func TestRefusedDHCPOptions(t *testing.T) {
	r := newRig(t)
	was := r.head()
	for want, list := range map[string][]shape.NewDhcpConfiguration{
		"MissingParameter": nil, "InvalidParameterValue": {{Key: "domain-name", Values: []string{"a"}}, {Key: "routers", Values: []string{"10.0.0.1"}}},
	} {
		if _, err := r.CreateDhcpOptions(r.ctx, &shape.CreateDhcpOptionsInput{DhcpConfigurations: list}); cloud.Code(err) != want || r.head() != was {
			t.Errorf("got %v, want %s and nothing written", err, want)
		}
	}
	r.write(func(t *store.Txn) {
		for k := 1; k < cloud.OptionsPerRegion; k++ {
			id := newID[cloud.DHCPOptionsID](r.Service, "dopt")
			store.Create(t, store.Options, id, cloud.DHCPOptions{ID: id, Account: "000000000000"})
		}
	})
	one := []shape.NewDhcpConfiguration{{Key: "domain-name", Values: []string{"a"}}}
	if _, err := r.CreateDhcpOptions(r.ctx, &shape.CreateDhcpOptionsInput{DhcpConfigurations: one}); cloud.Code(err) != "DhcpOptionsLimitExceeded" {
		t.Errorf("the 101st: got %v", err)
	}
}
