package ec2

import (
	"context"
	"errors"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

func (s *Service) metadataActions() []api.Action {
	return []api.Action{
		api.Do("ModifyInstanceMetadataOptions", s.ModifyInstanceMetadataOptions, on(func(in *shape.ModifyInstanceMetadataOptionsInput) []string { return []string{in.InstanceId} })),
	}
}

// ModifyInstanceMetadataOptions changes what an instance's metadata service does, while the instance runs or not. What the
// request leaves out stays.
func (s *Service) ModifyInstanceMetadataOptions(ctx context.Context, in *shape.ModifyInstanceMetadataOptionsInput) (*shape.ModifyInstanceMetadataOptionsOutput, error) {
	change := shape.InstanceMetadataOptionsRequest{
		HttpEndpoint: in.HttpEndpoint, HttpProtocolIpv6: in.HttpProtocolIpv6, HttpPutResponseHopLimit: in.HttpPutResponseHopLimit,
		HttpTokens: in.HttpTokens, InstanceMetadataTags: in.InstanceMetadataTags,
	}
	if change == (shape.InstanceMetadataOptionsRequest{}) {
		return nil, cloud.Errorf("MissingParameter", "The request must contain at least one metadata option to change")
	}
	out := &shape.ModifyInstanceMetadataOptionsOutput{InstanceId: in.InstanceId}
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := find(snap, store.Instances, cloud.InstanceID(in.InstanceId), caller(ctx), anInstance)
		if err != nil {
			return err
		}
		i := o.Value
		if i.Power == cloud.PowerTerminated {
			return cloud.Errorf("IncorrectInstanceState", "The instance '%s' is terminated: its metadata options cannot change any more", i.ID)
		}
		if i.Metadata, err = metadataOptions(i.Metadata, &change); err != nil {
			return err
		}
		if i.Metadata != o.Value.Metadata {
			i.Generation++
			store.Update(t, store.Instances, o, i)
		}
		out.InstanceMetadataOptions = shownOptions(i, status(snap, i))
		return nil
	})
	return out, err
}

// metadataOptions returns the options o with what a request says of them.
func metadataOptions(o cloud.MetadataOptions, in *shape.InstanceMetadataOptionsRequest) (cloud.MetadataOptions, error) {
	if in == nil {
		return o, nil
	}
	choose := func(name, given string, into *string, allowed ...string) error {
		if given == "" {
			return nil
		}
		for _, a := range allowed {
			if given == a {
				*into = given
				return nil
			}
		}
		return cloud.Errorf("InvalidParameterValue", "MetadataOptions.%s is one of %v, not %.40q", name, allowed, given)
	}
	var protocol string // only what is the case can be asked for, and so there is nothing to keep
	if err := errors.Join(
		choose("HttpTokens", in.HttpTokens, &o.HTTPTokens, "optional", "required"),
		choose("HttpEndpoint", in.HttpEndpoint, &o.HTTPEndpoint, "enabled", "disabled"),
		choose("InstanceMetadataTags", in.InstanceMetadataTags, &o.InstanceTags, "enabled", "disabled"),
		choose("HttpProtocolIpv6", in.HttpProtocolIpv6, &protocol, "enabled", "disabled"),
	); err != nil {
		return o, err
	}
	if protocol == "enabled" {
		return o, cloud.Errorf("UnsupportedOperation", "MetadataOptions.HttpProtocolIpv6: the metadata service answers by IPv4 only: leave the parameter out")
	}
	if h := in.HttpPutResponseHopLimit; h != nil {
		if *h < 1 || *h > 64 {
			return o, cloud.Errorf("InvalidParameterValue", "MetadataOptions.HttpPutResponseHopLimit is 1 to 64, not %d", *h)
		}
		o.HopLimit = int(*h)
	}
	return o, nil
}

// shownOptions are an instance's options in EC2's shape. They are pending while the host has not said that it has seen the
// wish; of an instance that runs nowhere there is nothing to wait for.
func shownOptions(i cloud.Instance, st *cloud.InstanceStatus) *shape.InstanceMetadataOptionsResponse {
	state := "applied"
	if i.Host != "" && i.Power == cloud.PowerRunning && (st == nil || st.Generation < i.Generation) {
		state = "pending"
	}
	return &shape.InstanceMetadataOptionsResponse{
		HttpTokens: i.Metadata.HTTPTokens, HttpEndpoint: i.Metadata.HTTPEndpoint, InstanceMetadataTags: i.Metadata.InstanceTags,
		HttpPutResponseHopLimit: number(i.Metadata.HopLimit), HttpProtocolIpv6: "disabled", State: state,
	}
}
