package ssm

import (
	"context"
	"slices"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// LabelParameterVersion names a version, the latest if none is given. A label that another version has moves.
func (s *Service) LabelParameterVersion(ctx context.Context, in *shape.LabelParameterVersionInput) (*shape.LabelParameterVersionOutput, error) {
	if err := fewLabels(in.Labels); err != nil {
		return nil, err
	}
	var version int
	var invalid []string
	err := s.editParameter(ctx, in.Name, func(p cloud.Parameter) (next cloud.Parameter, err error) {
		if version = p.Latest().Number; in.ParameterVersion != nil {
			version = int(*in.ParameterVersion)
		}
		next, invalid, err = p.Label(version, in.Labels)
		return next, err
	})
	if err != nil {
		return nil, err
	}
	return &shape.LabelParameterVersionOutput{InvalidLabels: append([]string{}, invalid...), ParameterVersion: number(version)}, nil
}

// UnlabelParameterVersion takes labels from a version, and lists those that it had not.
func (s *Service) UnlabelParameterVersion(ctx context.Context, in *shape.UnlabelParameterVersionInput) (*shape.UnlabelParameterVersionOutput, error) {
	if err := fewLabels(in.Labels); err != nil {
		return nil, err
	}
	out := &shape.UnlabelParameterVersionOutput{}
	err := s.editParameter(ctx, in.Name, func(p cloud.Parameter) (cloud.Parameter, error) {
		next, removed, err := p.Unlabel(int(*in.ParameterVersion), in.Labels)
		out.RemovedLabels, out.InvalidLabels = append([]string{}, removed...), []string{}
		for _, l := range in.Labels {
			if !slices.Contains(removed, l) {
				out.InvalidLabels = append(out.InvalidLabels, l)
			}
		}
		return next, err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func fewLabels(labels []string) error {
	if len(labels) == 0 || len(labels) > 10 {
		return cloud.Errorf("ValidationException", "Labels may name 1 to 10 labels")
	}
	return nil
}

func (s *Service) editParameter(ctx context.Context, name string, edit func(cloud.Parameter) (cloud.Parameter, error)) error {
	return s.commit(ctx, func(snap *store.Snapshot) (*store.Txn, error) {
		o, _, err := s.find(ctx, snap, name)
		if err != nil {
			return nil, err
		}
		next, err := edit(o.Value)
		if err != nil {
			return nil, err
		}
		t := store.NewTxn()
		store.Update(t, store.Parameters, o, next)
		return t, nil
	})
}

// below applies one filter of GetParametersByPath. One of labels also says which version is meant.
func below(p cloud.Parameter, f shape.ParameterStringFilter) (ok bool, labelled *cloud.ParameterVersion, err error) {
	switch f.Key {
	case "Type", "KeyId":
		ok, err := described(p, f)
		return ok, nil, err
	case "Label":
		if f.Option != "" && f.Option != "Equals" {
			return false, nil, cloud.Errorf("InvalidFilterOption", "The option of Label is Equals, not %.20q", f.Option)
		}
		for _, v := range p.Versions {
			if slices.ContainsFunc(v.Labels, func(l string) bool { return slices.Contains(f.Values, l) }) {
				return true, &v, nil
			}
		}
		return false, nil, nil
	}
	return false, nil, cloud.Errorf("InvalidFilterKey", "Filter key %.40q is not known here: Type, KeyId and Label are", f.Key)
}
