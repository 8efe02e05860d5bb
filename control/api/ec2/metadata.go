package ec2

import (
	"cmp"
	"context"
	"errors"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

func (s *Service) metadataActions() []api.Action {
	return []api.Action{
		api.Do("ModifyInstanceMetadataDefaults", s.ModifyInstanceMetadataDefaults),
		api.Do("GetInstanceMetadataDefaults", s.GetInstanceMetadataDefaults, api.ReadOnly()),
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
		if err := i.ShowsTags(); err != nil {
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

// noPreference is how a request takes an account's default back: then the image decides.
const noPreference = "no-preference"

// ModifyInstanceMetadataDefaults sets what new instances of the account get whose launch says nothing. Those that are
// there stay as they are, and what the request leaves out does too.
func (s *Service) ModifyInstanceMetadataDefaults(ctx context.Context, in *shape.ModifyInstanceMetadataDefaultsInput) (*shape.ModifyInstanceMetadataDefaultsOutput, error) {
	switch in.HttpTokensEnforced {
	case "", "disabled", noPreference:
	case "enabled":
		return nil, cloud.Errorf("UnsupportedOperation", "HttpTokensEnforced: a launch may always say that tokens are optional: deny that by a policy, or leave the parameter out")
	default:
		return nil, cloud.Errorf("InvalidParameterValue", "HttpTokensEnforced is enabled, disabled or no-preference, not %.40q", in.HttpTokensEnforced)
	}
	if in.HttpEndpoint+in.HttpTokens+in.HttpTokensEnforced+in.InstanceMetadataTags == "" && in.HttpPutResponseHopLimit == nil {
		return nil, cloud.Errorf("MissingParameter", "The request must contain at least one metadata option to change")
	}
	who := caller(ctx)
	err := s.commit(ctx, in.DryRun, func(snap *store.Snapshot, t *store.Txn) error {
		o, err := metadataDefaults(snap, who)
		if err != nil {
			return err
		}
		next, err := changedDefaults(o.Value, in)
		switch {
		case err != nil || next == o.Value:
			return err
		case o.Rev == 0:
			store.Create(t, store.MetadataDefaults, who, next)
		default:
			store.Update(t, store.MetadataDefaults, o, next)
		}
		return nil
	})
	return &shape.ModifyInstanceMetadataDefaultsOutput{Return: ptr(err == nil)}, err
}

// changedDefaults returns the defaults d with what a request says of them.
func changedDefaults(d cloud.MetadataOptions, in *shape.ModifyInstanceMetadataDefaultsInput) (cloud.MetadataOptions, error) {
	change := shape.InstanceMetadataOptionsRequest{HttpPutResponseHopLimit: in.HttpPutResponseHopLimit}
	for _, f := range []struct {
		given       string
		kept, asked *string
	}{
		{in.HttpTokens, &d.HTTPTokens, &change.HttpTokens},
		{in.HttpEndpoint, &d.HTTPEndpoint, &change.HttpEndpoint},
		{in.InstanceMetadataTags, &d.InstanceTags, &change.InstanceMetadataTags},
	} {
		if f.given == noPreference {
			*f.kept = ""
		} else {
			*f.asked = f.given
		}
	}
	if h := in.HttpPutResponseHopLimit; h != nil && *h == -1 {
		d.HopLimit, change.HttpPutResponseHopLimit = 0, nil
	}
	return metadataOptions(d, &change)
}

// GetInstanceMetadataDefaults shows the account's defaults: those that somebody has set.
func (s *Service) GetInstanceMetadataDefaults(ctx context.Context, in *shape.GetInstanceMetadataDefaultsInput) (*shape.GetInstanceMetadataDefaultsOutput, error) {
	o, err := metadataDefaults(s.Mirror.Snapshot(), caller(ctx))
	if err != nil {
		return nil, err
	}
	d := o.Value
	shown := &shape.InstanceMetadataDefaultsResponse{HttpTokens: d.HTTPTokens, HttpEndpoint: d.HTTPEndpoint, InstanceMetadataTags: d.InstanceTags}
	if d.HopLimit != 0 {
		shown.HttpPutResponseHopLimit = number(d.HopLimit)
	}
	return &shape.GetInstanceMetadataDefaultsOutput{AccountLevel: shown}, nil
}

// metadataDefaults returns an account's defaults; there may be none.
func metadataDefaults(snap *store.Snapshot, who cloud.AccountID) (store.Object[cloud.MetadataOptions], error) {
	o, err := store.MirroredGet(snap, store.MetadataDefaults, who)
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return o, err
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
	if err := errors.Join(
		choose("HttpTokens", in.HttpTokens, &o.HTTPTokens, "optional", "required"),
		choose("HttpEndpoint", in.HttpEndpoint, &o.HTTPEndpoint, "enabled", "disabled"),
		choose("InstanceMetadataTags", in.InstanceMetadataTags, &o.InstanceTags, "enabled", "disabled"),
		choose("HttpProtocolIpv6", in.HttpProtocolIpv6, &o.HTTPProtocolIPv6, "enabled", "disabled"),
	); err != nil {
		return o, err
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
		HttpPutResponseHopLimit: number(i.Metadata.HopLimit), HttpProtocolIpv6: cmp.Or(i.Metadata.HTTPProtocolIPv6, "disabled"), State: state,
	}
}
