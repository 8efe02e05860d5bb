package ec2

import (
	"testing"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
)

func TestCreditsAreUnlimited(t *testing.T) {
	r := newRig(t)
	in := small()
	in.InstanceType = "m3.medium"
	steady := r.run(in).Instances[0].InstanceId
	in.InstanceType, in.CreditSpecification = "t3.micro", &shape.CreditSpecificationRequest{CpuCredits: "unlimited"}
	burst := r.run(in).Instances[0].InstanceId
	got := do(r, r.DescribeInstanceCreditSpecifications, shape.DescribeInstanceCreditSpecificationsInput{}).InstanceCreditSpecifications
	if len(got) != 1 || got[0].InstanceId != burst || got[0].CpuCredits != "unlimited" {
		t.Errorf("got %+v", got)
	}
	for code, ids := range map[string][]string{"": {burst}, "InstanceCreditSpecification.NotSupported": {burst, steady}, "InvalidInstanceID.NotFound": {"i-00000000000000001"}, "InvalidInstanceID.Malformed": {"x"}} {
		if _, err := try(r, r.DescribeInstanceCreditSpecifications, shape.DescribeInstanceCreditSpecificationsInput{InstanceIds: ids}); err != code {
			t.Errorf("%v: got %q, want %q", ids, err, code)
		}
	}
	for credits, code := range map[string]string{"standard": "UnsupportedOperation", "much": "InvalidParameterValue"} {
		in.CreditSpecification.CpuCredits = credits
		if _, err := try(r, r.RunInstances, *in); err != code {
			t.Errorf("%s: got %q, want %q", credits, err, code)
		}
	}
	in.InstanceType, in.CreditSpecification.CpuCredits = "m3.medium", "unlimited"
	if _, err := try(r, r.RunInstances, *in); err != "InvalidParameterCombination" {
		t.Errorf("of a type without credits: got %q", err)
	}
}
