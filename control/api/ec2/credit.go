package ec2

import (
	"context"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// CPU credits are counted nowhere: a burstable instance has its processors whenever it wants them, and as long. In EC2's
// words that is unlimited; standard, which holds an instance back without credits, is refused.

// creditSpecified checks what a launch asks for.
func creditSpecified(in *shape.CreditSpecificationRequest, t cloud.InstanceType) error {
	switch {
	case in == nil:
		return nil
	case !t.Burstable:
		return cloud.Errorf("InvalidParameterCombination", "The instance type '%s' does not support CPU credits: leave CreditSpecification out", t.Name)
	case in.CpuCredits == "standard":
		return cloud.Errorf("UnsupportedOperation", "CreditSpecification.CpuCredits: instances are not held back by credits here: ask for unlimited, or leave it out")
	case in.CpuCredits != "unlimited":
		return cloud.Errorf("InvalidParameterValue", "CreditSpecification.CpuCredits is standard or unlimited, not %.40q", in.CpuCredits)
	}
	return nil
}

// DescribeInstanceCreditSpecifications shows the burstable instances, or those named.
func (s *Service) DescribeInstanceCreditSpecifications(ctx context.Context, in *shape.DescribeInstanceCreditSpecificationsInput) (*shape.DescribeInstanceCreditSpecificationsOutput, error) {
	type credit = shape.InstanceCreditSpecification
	if in.MaxResults != nil && len(in.InstanceIds) > 0 {
		return nil, cloud.Errorf("InvalidParameterCombination", "The parameter instanceIds cannot be used with maxResults")
	}
	id := func(c credit) string { return c.InstanceId }
	q := query[credit]{in: in, filters: in.Filters, id: id, fields: fields[credit]{"instance-id": func(c credit) []string { return one(c.InstanceId) }}}
	page, next, err := ask(ctx, s, q, func(snap *store.Snapshot) ([]credit, error) {
		all, err := list[cloud.Instance, cloud.InstanceID](snap, store.Instances, in.InstanceIds, caller(ctx), anInstance)
		var out []credit
		for _, i := range all {
			t, unknown := cloud.TypeNamed(s.Types, i.Type)
			switch {
			case unknown == nil && t.Burstable:
				out = append(out, credit{CpuCredits: "unlimited", InstanceId: string(i.ID)})
			case len(in.InstanceIds) > 0:
				return nil, cloud.Errorf("InstanceCreditSpecification.NotSupported", "The instance %s of type %s does not support CPU credits", i.ID, i.Type)
			}
		}
		return out, err
	})
	return &shape.DescribeInstanceCreditSpecificationsOutput{InstanceCreditSpecifications: page, NextToken: next}, err
}
