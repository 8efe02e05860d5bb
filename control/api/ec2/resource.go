package ec2

import (
	"cmp"
	"strings"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// What permission is asked for: the resources that a request names, as the Service Authorization Reference lists
// them for EC2. A policy may allow or deny each. What a request leaves to be chosen, such as the default
// subnet, is asked for as subnet/*: a policy that allows one subnet only wants it named.

// on makes the option for an action on instances.
func on[I any](ids func(in *I) []string) api.Option {
	return api.Resource(func(in *I) []string { return each("instance", ids(in)) })
}

func each(kind string, ids []string) []string {
	out := make([]string, len(ids))
	for k, id := range ids {
		out[k] = kind + "/" + id
	}
	return out
}

// launched returns what RunInstances makes and uses.
func launched(in *shape.RunInstancesInput) []string {
	out := []string{"instance/*", "network-interface/*", "image/" + in.ImageId}
	for _, part := range []string{in.KernelId, in.RamdiskId} {
		if part != "" {
			out = append(out, "image/"+part)
		}
	}
	if in.KeyName != "" {
		out = append(out, "key-pair/"+in.KeyName)
	}
	subnets, groups := []string{cmp.Or(in.SubnetId, "*")}, in.SecurityGroupIds
	if len(in.NetworkInterfaces) > 0 {
		subnets = nil
	}
	for _, n := range in.NetworkInterfaces {
		groups = append(groups[:len(groups):len(groups)], n.Groups...)
		if n.NetworkInterfaceId != "" {
			out = append(out, "network-interface/"+n.NetworkInterfaceId)
			continue
		}
		subnets = append(subnets, cmp.Or(n.SubnetId, "*"))
		if len(n.Groups) == 0 {
			groups = append(groups[:len(groups):len(groups)], "*")
		}
	}
	if len(groups) == 0 && len(in.NetworkInterfaces) == 0 || len(in.SecurityGroups) > 0 { // the default one, or named and not identified
		groups = append(groups[:len(groups):len(groups)], "*")
	}
	return append(append(out, each("subnet", subnets)...), each("security-group", groups)...)
}

// tagged returns the resources that are named by their IDs alone.
func tagged(ids []string) []string {
	kinds := taggables()
	out := make([]string, len(ids))
	for k, id := range ids {
		prefix, _, _ := strings.Cut(id, "-")
		out[k] = "*/" + id
		for _, t := range kinds {
			for _, p := range t.prefixes {
				if p == prefix {
					out[k] = t.name + "/" + id
				}
			}
		}
	}
	return out
}

// keyPair returns a key pair by its name, which is what its ARN has.
func (s *Service) keyPair(name, id string) []string {
	if name == "" {
		if o, err := store.MirroredGet(s.Mirror.Snapshot(), store.KeyPairs, cloud.KeyPairID(cmp.Or(id, "-"))); err == nil {
			name = o.Value.Name
		}
	}
	return []string{"key-pair/" + cmp.Or(name, id)}
}
