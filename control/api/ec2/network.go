package ec2

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// What the nouns of a VPC have in common. They refer to each other, and a transaction must hold only while the
// references do. Of those that make a reference, some change what they refer to (touch), so that of two of them one
// has to look again; the others only rely on it, and whoever deletes it relies on nothing new of their kind
// (store.RequireNothingNew).

// touch writes a value anew as it is: of two who touch the same, one has to look again.
func touch[T any](t *store.Txn, k store.Kind[T], o store.Object[T]) { store.Update(t, k, o, o.Value) }

// values returns all values of a kind, of every account.
func values[T any](snap *store.Snapshot, k store.Kind[T]) ([]T, error) {
	all, err := store.Mirrored(snap, k)
	out := make([]T, len(all))
	for i, o := range all {
		out[i] = o.Value
	}
	return out, err
}

// index returns all values of a kind by their ID.
func index[ID ~string, T any](snap *store.Snapshot, k store.Kind[T]) (map[ID]T, error) {
	all, err := store.Mirrored(snap, k)
	out := make(map[ID]T, len(all))
	for _, o := range all {
		out[ID(o.ID)] = o.Value
	}
	return out, err
}

// mint makes identifiers for the deciders.
func (s *Service) mint(prefix string) string { return newID[string](s, prefix) }

// the makes the option for an action on one resource.
func the[I any](kind string, id func(in *I) string) api.Option {
	return api.Resource(func(in *I) []string { return []string{kind + "/" + id(in)} })
}

// unsupported refuses the first thing that is asked for and not there: accepting it and doing something else would
// be worse.
func unsupported(asked []lack) error {
	for _, a := range asked {
		if a.asked {
			return cloud.Errorf("UnsupportedOperation", "%s are not there: leave the parameter out", a.what)
		}
	}
	return nil
}

// lack is something that is not there.
type lack struct {
	asked bool
	what  string
}

// set reports how many of several parameters are given.
func set(given ...bool) (n int) {
	for _, g := range given {
		if g {
			n++
		}
	}
	return n
}

// answered is what a ClientToken stands for: a request, and what it made.
type answered struct{ Digest, ID string }

// once has the transaction remember under the request's ClientToken that it makes id. If an earlier one did the
// same, its ID is returned, and nothing is to be done.
func (s *Service) once(ctx context.Context, t *store.Txn, action string, in any, id string) (made string, err error) {
	digest, token := digestOf(in)
	if token == "" {
		return "", nil
	}
	if len(token) > 64 {
		return "", cloud.Errorf("InvalidParameterValue", "ClientToken may have 64 characters")
	}
	tokens := store.NewKind[answered](store.TokenPrefix(caller(ctx), action))
	had, err := store.Get(ctx, s.Store, tokens, token)
	switch {
	case err == nil && had.Value.Digest != digest:
		return "", cloud.Errorf("IdempotentParameterMismatch", "The client token %s was used for a request with other parameters: use another token", token)
	case err == nil:
		return had.Value.ID, s.Mirror.WaitRev(ctx, had.Rev) // another control process may have answered the first time
	case !errors.Is(err, store.ErrNotFound):
		return "", err
	}
	store.CreateWithTTL(t, tokens, token, answered{digest, id}, tokenLife)
	return "", nil
}

// digestOf returns a digest of what a request asks for, and its ClientToken.
func digestOf(in any) (digest, token string) {
	given := reflect.Indirect(reflect.ValueOf(in))
	plain := reflect.New(given.Type()).Elem()
	plain.Set(given)
	plain.FieldByName("DryRun").SetZero()
	token = plain.FieldByName("ClientToken").String()
	plain.FieldByName("ClientToken").SetZero()
	data, err := json.Marshal(plain.Interface())
	if err != nil {
		panic(fmt.Sprintf("ec2: an input struct has no JSON form: %v", err))
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), token
}

// endpointFields are the filters of VPC endpoints.
var endpointFields = []string{"ip-address-type", "service-name", "service-region", "vpc-id", "vpc-endpoint-id", "vpc-endpoint-state", "vpc-endpoint-type"}

// DescribeVpcEndpoints shows that there are none.
func (s *Service) DescribeVpcEndpoints(ctx context.Context, in *shape.DescribeVpcEndpointsInput) (*shape.DescribeVpcEndpointsOutput, error) {
	type endpoint = shape.VpcEndpoint
	q := query[endpoint]{in: in, filters: in.Filters, fields: none[endpoint](endpointFields), id: func(e endpoint) string { return e.VpcEndpointId }, tags: func(e endpoint) []shape.Tag { return e.Tags }}
	page, _, err := ask(ctx, s, q, func(*store.Snapshot) ([]endpoint, error) {
		for _, id := range in.VpcEndpointIds {
			return nil, cloud.NotFound("InvalidVpcEndpointId.NotFound", "Vpc Endpoint Id", id)
		}
		return nil, nil
	})
	return &shape.DescribeVpcEndpointsOutput{VpcEndpoints: page}, err
}

// DescribePrefixLists shows that there are none: no service of ours has addresses that routes could lead to.
func (s *Service) DescribePrefixLists(ctx context.Context, in *shape.DescribePrefixListsInput) (*shape.DescribePrefixListsOutput, error) {
	type prefixes = shape.PrefixList
	q := query[prefixes]{in: in, filters: in.Filters, fields: none[prefixes]([]string{"prefix-list-id", "prefix-list-name"}), id: func(l prefixes) string { return l.PrefixListId }}
	page, _, err := ask(ctx, s, q, func(*store.Snapshot) ([]prefixes, error) {
		for _, id := range in.PrefixListIds {
			return nil, cloud.NotFound("InvalidPrefixListID.NotFound", "prefix list ID", id)
		}
		return nil, nil
	})
	return &shape.DescribePrefixListsOutput{PrefixLists: page}, err
}

// DescribeManagedPrefixLists shows that there are none: lists of one's own are not there yet.
func (s *Service) DescribeManagedPrefixLists(ctx context.Context, in *shape.DescribeManagedPrefixListsInput) (*shape.DescribeManagedPrefixListsOutput, error) {
	type prefixes = shape.ManagedPrefixList
	q := query[prefixes]{in: in, filters: in.Filters, fields: none[prefixes]([]string{"owner-id", "prefix-list-id", "prefix-list-name"}), id: func(l prefixes) string { return l.PrefixListId },
		tags: func(l prefixes) []shape.Tag { return l.Tags }, most: 100}
	page, _, err := ask(ctx, s, q, func(*store.Snapshot) ([]prefixes, error) {
		for _, id := range in.PrefixListIds {
			return nil, cloud.NotFound("InvalidPrefixListID.NotFound", "prefix list ID", id)
		}
		return nil, nil
	})
	return &shape.DescribeManagedPrefixListsOutput{PrefixLists: page}, err
}

// none are filters that may be asked for and that nothing matches.
func none[T any](names []string) fields[T] {
	out := fields[T]{}
	for _, n := range names {
		out[n] = func(T) []string { return nil }
	}
	return out
}

// zone returns the zone that a request names, by name or identifier; the service's own if it names none.
func (s *Service) zone(snap *store.Snapshot, name, id string) (string, error) {
	zones, err := s.zones(snap)
	if err != nil {
		return "", err
	}
	if id != "" {
		k := slices.IndexFunc(zones, func(z string) bool { return cloud.ZoneID(s.Region, z) == id })
		switch {
		case k < 0:
			return "", cloud.Errorf("InvalidParameterValue", "Value (%.40s) for parameter availabilityZoneId is invalid: see describe-availability-zones", id)
		case name != "" && zones[k] != name:
			return "", cloud.Errorf("InvalidParameterCombination", "AvailabilityZone %.40s and AvailabilityZoneId %.40s are not the same zone", name, id)
		}
		return zones[k], nil
	}
	if name == "" {
		return s.Zone, nil
	}
	if !slices.Contains(zones, name) {
		return "", cloud.Errorf("InvalidParameterValue", "Value (%.40s) for parameter availabilityZone is invalid. Subnets can currently only be created in the following availability zones: %v.", name, zones)
	}
	return name, nil
}
