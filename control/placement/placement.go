// Package placement decides which host runs an instance, and what that host must then know.
//
// Choose is asked by every control process on its own snapshot of hosts; the caller's compare-and-swap
// on the chosen host's plan lets one answer win. Assign compiles the complete wish for one instance from
// the specs; Networks compiles what a host must know of its VPCs. All three are functions
// of their arguments, so any process computes the same answer and writing it twice changes nothing.
package placement

import (
	"cmp"
	"slices"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Candidate is a host with what is already given away on it.
type Candidate struct {
	cloud.Host
	UsedMiB int
}

// Choose returns the host with the most free memory on which the type fits, in the zone when one is
// asked for. Ties break by ID. The error has EC2's code InsufficientInstanceCapacity and says what lacks.
func Choose(hosts []Candidate, t cloud.InstanceType, zone string) (cloud.HostID, error) {
	fits := make([]Candidate, 0, len(hosts))
	best, inZone := 0, 0
	for _, h := range hosts {
		if zone != "" && h.Zone != zone {
			continue
		}
		inZone++
		best = max(best, h.MemoryMiB-h.UsedMiB)
		if h.MemoryMiB-h.UsedMiB >= t.MemoryMiB && h.VCPUs >= t.VCPUs {
			fits = append(fits, h)
		}
	}
	if len(fits) == 0 {
		return "", cloud.Errorf("InsufficientInstanceCapacity",
			"There is no host with room for %s (%d vCPU, %d MiB): of %d hosts in zone %q the most free memory is %d MiB. Terminate instances, choose a smaller type or add a host.",
			t.Name, t.VCPUs, t.MemoryMiB, inZone, zone, best)
	}
	slices.SortFunc(fits, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(b.MemoryMiB-b.UsedMiB, a.MemoryMiB-a.UsedMiB), cmp.Compare(a.ID, b.ID))
	})
	return fits[0].ID, nil
}

// World is what Assign and Network read: the specs by ID.
type World struct {
	Region     string
	Types      []cloud.InstanceType
	Images     map[cloud.ImageID]cloud.Image
	VPCs       map[cloud.VPCID]cloud.VPC
	Subnets    map[cloud.SubnetID]cloud.Subnet
	Interfaces map[cloud.InterfaceID]cloud.NetworkInterface
	Groups     map[cloud.GroupID]cloud.SecurityGroup
	Tables     map[cloud.RouteTableID]cloud.RouteTable
	ACLs       map[cloud.NetworkACLID]cloud.NetworkACL
	Options    map[cloud.DHCPOptionsID]cloud.DHCPOptions
	NATs       map[cloud.NATGatewayID]cloud.NATGateway
	Hosts      map[cloud.HostID]cloud.Host
	Overlays   map[cloud.VPCID]uint32 // the VPCs' numbers on the underlay
	Addresses  map[cloud.AllocationID]cloud.Address
	Standing   map[cloud.InterfaceID][]cloud.Address // the same, by the interface that they stand for
	Keys       map[string]cloud.KeyPair              // by account "/" name
	UserData   func(cloud.InstanceID) []byte
}

// Assign returns the complete wish for the instance, without its identity document. It reports false when
// something that the instance names is missing: then there is nothing sensible to tell the host yet.
func Assign(w World, i cloud.Instance) (cloud.Assignment, bool) {
	a := cloud.Assignment{Instance: i, Region: w.Region}
	// A type that the operator has removed leaves this empty: Keep knows what it was.
	a.Type, _ = cloud.TypeNamed(w.Types, i.Type)
	// A deregistered image stays good for the instances that were launched from it: then the earlier
	// assignment, which the caller keeps, has the names of its files.
	a.ImageName, a.Command = w.Images[i.Image].Name, w.Images[i.Image].CommandLine
	a.Kernel, a.Ramdisk = w.Images[i.Kernel].Location, w.Images[i.Ramdisk].Location
	for _, id := range i.Interfaces {
		n, ok := w.Interfaces[id]
		if !ok {
			return cloud.Assignment{}, false
		}
		ai := cloud.AssignedInterface{
			NetworkInterface: n, Network: w.Subnets[n.Subnet], VPCPrefixes: w.VPCs[n.VPC].Prefixes(),
			Public: w.public(n), PublicNames: w.VPCs[n.VPC].EnableDNSName,
		}
		for _, g := range n.Groups {
			ai.GroupNames = append(ai.GroupNames, w.Groups[g].Name)
		}
		a.Interfaces = append(a.Interfaces, ai)
	}
	if i.KeyName != "" {
		if k := w.Keys[string(i.Account)+"/"+i.KeyName]; k.PublicKey != "" {
			a.PublicKey = k.PublicKey + " " + i.KeyName
		}
	}
	if i.HasUserData {
		a.UserData = w.UserData(i.ID)
	}
	return a, true
}

// Keep fills in from the assignment that the host already has what is decided once, at launch: the key,
// and what has been removed since: the files of an image, the sizes of a type.
func Keep(next, had cloud.Assignment) cloud.Assignment {
	if had.Instance.ID == "" {
		return next
	}
	next.PublicKey = had.PublicKey
	if next.Type.Name == "" {
		next.Type = had.Type
	}
	if next.ImageName == "" {
		next.ImageName, next.Command = had.ImageName, had.Command
	}
	if next.Kernel == "" {
		next.Kernel = had.Kernel
	}
	if next.Ramdisk == "" {
		next.Ramdisk = had.Ramdisk
	}
	return next
}
