package ec2

import (
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// cloudKinds are CloudFormation's names of EC2's types of resources, of those that resource groups may have.
var cloudKinds = map[string]string{
	"instance":          cloud.KindInstance,
	"image":             "AWS::EC2::Image",
	"key-pair":          "AWS::EC2::KeyPair",
	"network-interface": "AWS::EC2::NetworkInterface",
	"vpc":               "AWS::EC2::VPC",
	"subnet":            "AWS::EC2::Subnet",
	"security-group":    "AWS::EC2::SecurityGroup",
	"route-table":       "AWS::EC2::RouteTable",
	"natgateway":        "AWS::EC2::NatGateway",
	"network-acl":       "AWS::EC2::NetworkAcl",
	"dhcp-options":      "AWS::EC2::DHCPOptions",
	"elastic-ip":        "AWS::EC2::EIP",
	"internet-gateway":  "AWS::EC2::InternetGateway",
}

// ResourceKinds returns the kinds that Resources tells of.
func ResourceKinds() []string {
	var out []string
	for _, k := range taggables() {
		if kind := cloudKinds[k.name]; kind != "" {
			out = append(out, kind)
		}
	}
	return out
}

// Resources tells an account's resources of EC2.
func Resources(snap *store.Snapshot, who cloud.AccountID, f func(cloud.Resource)) error {
	for _, k := range taggables() {
		kind := cloudKinds[k.name]
		if kind == "" {
			continue
		}
		err := k.each(snap, who, func(id string, tags cloud.Tags) {
			if k.name == "instance" {
				if i, err := store.MirroredGet(snap, store.Instances, cloud.InstanceID(id)); err == nil && i.Value.Power == cloud.PowerTerminated {
					return // it is shown for a while, and is nobody's any more
				}
			}
			f(cloud.Resource{Kind: kind, Service: "ec2", Name: k.name + "/" + id, Tags: tags})
		})
		if err != nil {
			return err
		}
	}
	return nil
}
