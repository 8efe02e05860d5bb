package ec2

import (
	"strings"
	"testing"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestAnInternetGatewayComesAndGoes(t *testing.T) {
	r := newRig(t)
	vpc := r.vpc("10.0.0.0/16")
	made := do(r, r.CreateInternetGateway, shape.CreateInternetGatewayInput{TagSpecifications: named1("internet-gateway")}).InternetGateway
	id := made.InternetGatewayId
	if len(made.Attachments) != 0 || made.OwnerId != "000000000000" || made.Tags[0].Value != "mine" {
		t.Errorf("got %+v", made)
	}
	attach := func(vpc string) string {
		return second(try(r, r.AttachInternetGateway, shape.AttachInternetGatewayInput{InternetGatewayId: id, VpcId: vpc}))
	}
	detach := func(vpc string) string {
		return second(try(r, r.DetachInternetGateway, shape.DetachInternetGatewayInput{InternetGatewayId: id, VpcId: vpc}))
	}
	remove := func() string {
		_, err := r.DeleteInternetGateway(r.ctx, &shape.DeleteInternetGatewayInput{InternetGatewayId: id})
		if cloud.Code(err) == "DependencyViolation" && !strings.Contains(err.Error(), vpc) {
			t.Errorf("got %v, want it to name %s", err, vpc)
		}
		return cloud.Code(err)
	}
	state := func() (out []string) {
		for _, g := range do(r, r.DescribeInternetGateways, shape.DescribeInternetGatewaysInput{Filters: append(filter("attachment.vpc-id", vpc), filter("attachment.state", "available")...)}).InternetGateways {
			out = append(out, g.InternetGatewayId)
		}
		return out
	}
	for k, step := range []struct {
		do   func() string
		want string
		at   string // which gateway the VPC has then
	}{
		{func() string { return detach(vpc) }, "Gateway.NotAttached", ""},
		{func() string { return attach("vpc-12345678") }, "InvalidVpcID.NotFound", ""},
		{func() string { return attach(vpc) }, "", id},
		{func() string { return attach(vpc) }, "Resource.AlreadyAssociated", id},
		{remove, "DependencyViolation", id},
		{func() string { return detach(vpc) }, "", ""},
		{remove, "", ""},
		{remove, "InvalidInternetGatewayID.NotFound", ""},
	} {
		if got := step.do(); got != step.want || strings.Join(state(), " ") != step.at {
			t.Errorf("step %d: got %q, and %v is attached, want %q and %q", k, got, state(), step.want, step.at)
		}
	}
}
