package ssm

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// parameterActions are the actions on the parameter store, each with the parameters that it needs permission for.
func (s *Service) parameterActions() []api.Action {
	ro := api.ReadOnly()
	all := func(names []string) (out []string) {
		for _, name := range names {
			out = append(out, parameterARN(name)...)
		}
		return out
	}
	return []api.Action{
		api.Do("PutParameter", s.PutParameter, api.Resource(func(in *shape.PutParameterInput) []string { return parameterARN(in.Name) })),
		api.Do("GetParameter", s.GetParameter, ro, api.Resource(func(in *shape.GetParameterInput) []string { return parameterARN(in.Name) })),
		api.Do("GetParameters", s.GetParameters, ro, api.Resource(func(in *shape.GetParametersInput) []string { return all(in.Names) })),
		api.Do("GetParametersByPath", s.GetParametersByPath, ro, api.Resource(func(in *shape.GetParametersByPathInput) []string { return parameterARN(in.Path) })),
		api.Do("GetParameterHistory", s.GetParameterHistory, ro, api.Resource(func(in *shape.GetParameterHistoryInput) []string { return parameterARN(in.Name) })),
		api.Do("DescribeParameters", s.DescribeParameters, ro),
		api.Do("LabelParameterVersion", s.LabelParameterVersion, api.Resource(func(in *shape.LabelParameterVersionInput) []string { return parameterARN(in.Name) })),
		api.Do("UnlabelParameterVersion", s.UnlabelParameterVersion,
			api.Resource(func(in *shape.UnlabelParameterVersionInput) []string { return parameterARN(in.Name) })),
		api.Do("DeleteParameter", s.DeleteParameter, api.Resource(func(in *shape.DeleteParameterInput) []string { return parameterARN(in.Name) })),
		api.Do("DeleteParameters", s.DeleteParameters, api.Resource(func(in *shape.DeleteParametersInput) []string { return all(in.Names) })),
	}
}

// maxNames is how many parameters one request may name.
const maxNames = 10

// read is a parameter in Systems Manager's shape, by its name and, behind a colon, its version.
func (s *Service) read(ctx context.Context, snap *store.Snapshot, name string, decrypt *bool) (shape.Parameter, error) {
	o, selector, err := s.find(ctx, snap, name)
	if err != nil {
		return shape.Parameter{}, err
	}
	v, err := o.Value.Version(selector)
	if err != nil {
		return shape.Parameter{}, err
	}
	out, err := s.parameter(o.Value, v, decrypt)
	if selector != "" {
		out.Selector = ":" + selector
	}
	return out, err
}

func (s *Service) parameter(p cloud.Parameter, v cloud.ParameterVersion, decrypt *bool) (shape.Parameter, error) {
	text, err := s.value(p, v, decrypt)
	return shape.Parameter{Name: p.Name, Type: v.Type, Value: text, Version: number(v.Number), LastModifiedDate: &v.Modified, DataType: "text", ARN: s.arn(p)}, err
}

func (s *Service) arn(p cloud.Parameter) string {
	return api.ARN("ssm", s.Region, string(p.Account), parameterARN(p.Name)[0])
}

// GetParameter shows one value.
func (s *Service) GetParameter(ctx context.Context, in *shape.GetParameterInput) (*shape.GetParameterOutput, error) {
	p, err := s.read(ctx, s.Mirror.Snapshot(), in.Name, in.WithDecryption)
	if err != nil {
		return nil, err
	}
	return &shape.GetParameterOutput{Parameter: &p}, nil
}

// GetParameters shows the values of those names that there are, and lists the others.
func (s *Service) GetParameters(ctx context.Context, in *shape.GetParametersInput) (*shape.GetParametersOutput, error) {
	if len(in.Names) == 0 || len(in.Names) > maxNames {
		return nil, cloud.Errorf("ValidationException", "Names may name 1 to %d parameters", maxNames)
	}
	snap := s.Mirror.Snapshot()
	out := &shape.GetParametersOutput{Parameters: []shape.Parameter{}, InvalidParameters: []string{}}
	for _, name := range in.Names {
		p, err := s.read(ctx, snap, name, in.WithDecryption)
		switch cloud.Code(err) {
		case "ParameterNotFound", "ParameterVersionNotFound":
			out.InvalidParameters = append(out.InvalidParameters, name)
			continue
		}
		if err != nil {
			return nil, err
		}
		out.Parameters = append(out.Parameters, p)
	}
	return out, nil
}

// GetParametersByPath shows the values of a hierarchy: one level of it, or all with Recursive.
func (s *Service) GetParametersByPath(ctx context.Context, in *shape.GetParametersByPathInput) (*shape.GetParametersByPathOutput, error) {
	if !strings.HasPrefix(in.Path, "/") {
		return nil, cloud.Errorf("ValidationException", "Path begins with a slash: /%.128s", in.Path)
	}
	for _, f := range in.ParameterFilters { // whatever parameters there are
		if _, _, err := below(cloud.Parameter{Versions: make([]cloud.ParameterVersion, 1)}, f); err != nil {
			return nil, err
		}
	}
	page, err := s.Pager.Page(ctx, in, api.Bounds{Default: 10, Min: 1, Max: 10})
	if err != nil {
		return nil, err
	}
	snap := s.Mirror.Snapshot()
	all, err := s.mine(ctx, snap)
	if err != nil {
		return nil, err
	}
	recursive := in.Recursive != nil && *in.Recursive
	out := []shape.Parameter{}
	for _, p := range all {
		if !p.Below(in.Path, recursive) {
			continue
		}
		version, keep := p.Latest(), true
		for _, f := range in.ParameterFilters {
			ok, labelled, _ := below(p, f)
			if keep = keep && ok; ok && labelled != nil {
				version = *labelled
			}
		}
		if !keep {
			continue
		}
		v, err := s.parameter(p, version, in.WithDecryption)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	cut, next := api.Cut(page, snap.Rev(), out, func(p shape.Parameter) string { return p.Name })
	return &shape.GetParametersByPathOutput{Parameters: cut, NextToken: next}, nil
}

// GetParameterHistory shows the values that a parameter has had, from old to new.
func (s *Service) GetParameterHistory(ctx context.Context, in *shape.GetParameterHistoryInput) (*shape.GetParameterHistoryOutput, error) {
	page, snap, err := s.page(ctx, in)
	if err != nil {
		return nil, err
	}
	o, _, err := s.find(ctx, snap, in.Name)
	if err != nil {
		return nil, err
	}
	var out []shape.ParameterHistory
	for _, v := range o.Value.Versions {
		text, err := s.value(o.Value, v, in.WithDecryption)
		if err != nil {
			return nil, err
		}
		out = append(out, shape.ParameterHistory{Name: o.Value.Name, Type: v.Type, Value: text, Version: number(v.Number), Description: v.Description,
			AllowedPattern: v.Pattern, LastModifiedDate: &v.Modified, LastModifiedUser: v.By, KeyId: keyOf(v), Tier: "Standard", DataType: "text", Labels: append([]string{}, v.Labels...)})
	}
	cut, next := api.Cut(page, snap.Rev(), out, func(v shape.ParameterHistory) string {
		n := strconv.FormatInt(*v.Version, 10)
		return strings.Repeat("0", 20-len(n)) + n
	})
	return &shape.GetParameterHistoryOutput{Parameters: cut, NextToken: next}, nil
}

// keyOf names the key that a version is sealed by.
func keyOf(v cloud.ParameterVersion) string {
	if v.Type == secureString {
		return "alias/aws/ssm"
	}
	return ""
}

// DescribeParameters shows all of parameters but their values.
func (s *Service) DescribeParameters(ctx context.Context, in *shape.DescribeParametersInput) (*shape.DescribeParametersOutput, error) {
	page, snap, err := s.page(ctx, in)
	if err != nil {
		return nil, err
	}
	filters := slices.Clone(in.ParameterFilters)
	for _, f := range in.Filters { // the older kind: names match from their beginning
		option := "Equals"
		if f.Key == "Name" {
			option = "BeginsWith"
		}
		filters = append(filters, shape.ParameterStringFilter{Key: f.Key, Option: option, Values: f.Values})
	}
	if err := sound(filters); err != nil {
		return nil, err
	}
	for _, f := range filters { // whatever parameters there are
		if _, err := described(cloud.Parameter{Versions: make([]cloud.ParameterVersion, 1)}, f); err != nil {
			return nil, err
		}
	}
	all, err := s.mine(ctx, snap)
	if err != nil {
		return nil, err
	}
	out := []shape.ParameterMetadata{}
	for _, p := range all {
		keep := true
		for _, f := range filters {
			ok, _ := described(p, f)
			keep = keep && ok
		}
		if v := p.Latest(); keep {
			out = append(out, shape.ParameterMetadata{Name: p.Name, Type: v.Type, Version: number(v.Number), Description: v.Description, AllowedPattern: v.Pattern,
				LastModifiedDate: &v.Modified, LastModifiedUser: v.By, KeyId: keyOf(v), Tier: "Standard", DataType: "text", Policies: []shape.ParameterInlinePolicy{}, ARN: s.arn(p)})
		}
	}
	cut, next := api.Cut(page, snap.Rev(), out, func(p shape.ParameterMetadata) string { return p.Name })
	return &shape.DescribeParametersOutput{Parameters: cut, NextToken: next}, nil
}

// sound refuses filters that say nothing, or twice the same.
func sound(filters []shape.ParameterStringFilter) error {
	for k, f := range filters {
		switch {
		case slices.ContainsFunc(filters[:k], func(o shape.ParameterStringFilter) bool { return o.Key == f.Key }):
			return cloud.Errorf("InvalidFilterKey", "Filter key %.40q is given twice: give one with all its values", f.Key)
		case len(f.Values) == 0 && !ofTags(f.Key):
			return cloud.Errorf("InvalidFilterValue", "Filter key %.40q has no values: give some", f.Key)
		case f.Key == "Path" && slices.ContainsFunc(f.Values, func(v string) bool { return !strings.HasPrefix(v, "/") }):
			return cloud.Errorf("ValidationException", "Path begins with a slash: /%.128s", f.Values[0])
		}
	}
	return nil
}

// described applies one filter of DescribeParameters.
func described(p cloud.Parameter, f shape.ParameterStringFilter) (bool, error) {
	var have string
	switch {
	case f.Key == "Path":
		if f.Option != "" && f.Option != "OneLevel" && f.Option != "Recursive" {
			return false, cloud.Errorf("InvalidFilterOption", "The option of Path is OneLevel or Recursive, not %.20q", f.Option)
		}
		return slices.ContainsFunc(f.Values, func(v string) bool { return p.Below(v, f.Option == "Recursive") }), nil
	case f.Key == "Name":
		have = p.Name
	case f.Key == "Type":
		have = p.Latest().Type
	case f.Key == "KeyId":
		have = keyOf(p.Latest())
	case f.Key == "Tier":
		have = "Standard"
	case f.Key == "DataType":
		have = "text"
	case strings.HasPrefix(f.Key, "tag:"):
		v, ok := p.Tags[f.Key[len("tag:"):]]
		if len(f.Values) == 0 || !ok {
			return ok, nil
		}
		have = v
	default:
		return false, cloud.Errorf("InvalidFilterKey", "Filter key %.40q is not known", f.Key)
	}
	switch f.Option {
	case "", "Equals":
		return slices.Contains(f.Values, have), nil
	case "BeginsWith":
		return slices.ContainsFunc(f.Values, func(v string) bool { return strings.HasPrefix(have, v) }), nil
	case "Contains":
		return slices.ContainsFunc(f.Values, func(v string) bool { return strings.Contains(have, v) }), nil
	}
	return false, cloud.Errorf("InvalidFilterOption", "The option %.20q is not known: give Equals, BeginsWith or Contains", f.Option)
}

// DeleteParameter removes a parameter with all its versions.
func (s *Service) DeleteParameter(ctx context.Context, in *shape.DeleteParameterInput) (*shape.DeleteParameterOutput, error) {
	return &shape.DeleteParameterOutput{}, s.drop(ctx, in.Name)
}

func (s *Service) drop(ctx context.Context, name string) error {
	return s.commit(ctx, func(snap *store.Snapshot) (*store.Txn, error) {
		o, selector, err := s.find(ctx, snap, name)
		if err == nil && selector != "" {
			err = cloud.Errorf("ValidationException", "A parameter is deleted with all its versions: leave :%.20s out", selector)
		}
		if err != nil {
			return nil, err
		}
		t := store.NewTxn()
		store.Delete(t, store.Parameters, o)
		return t, nil
	})
}

// DeleteParameters removes those names that there are, and lists the others.
func (s *Service) DeleteParameters(ctx context.Context, in *shape.DeleteParametersInput) (*shape.DeleteParametersOutput, error) {
	if len(in.Names) == 0 || len(in.Names) > maxNames {
		return nil, cloud.Errorf("ValidationException", "Names may name 1 to %d parameters", maxNames)
	}
	out := &shape.DeleteParametersOutput{DeletedParameters: []string{}, InvalidParameters: []string{}}
	for _, name := range in.Names {
		switch err := s.drop(ctx, name); {
		case cloud.Code(err) == "ParameterNotFound":
			out.InvalidParameters = append(out.InvalidParameters, name)
		case err != nil:
			return nil, err
		default:
			out.DeletedParameters = append(out.DeletedParameters, name)
		}
	}
	return out, nil
}
