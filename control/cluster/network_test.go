package cluster_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/control/placement"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// Those that wait for a public address get one each in the run that sees them, as far as the pool goes.
func TestAPublicAddressForEachThatWaits(t *testing.T) {
	w := newWorld(t)
	w.elastic = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/30")}
	w.host("h-1", 8192)
	var all []cloud.InstanceID
	for k := range 6 {
		id := cloud.InstanceID("i-" + strings.Repeat("1", 1+k))
		w.launch(id, "t", func(i *cloud.Instance) { i.Host = "h-1" })
		w.equip(cloud.InterfaceID("eni-"+id), func(n *cloud.NetworkInterface) { n.AssignPublic = true })
		all = append(all, id)
	}
	if err := w.planner(w.m).Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	given := 0
	for _, id := range all {
		given += len(w.public(cloud.InterfaceID("eni-" + id)))
	}
	if given != 4 {
		t.Errorf("%d of the pool's 4 addresses were given in one run", given)
	}
}

// crowd returns a VPC with so many interfaces of one host, each with an address of both families, and all in all groups.
func crowd(interfaces, groups, rules int) (placement.World, cloud.HostID, []cloud.Instance) {
	w := placement.World{VPCs: map[cloud.VPCID]cloud.VPC{"vpc-1": {ID: "vpc-1"}}, Subnets: map[cloud.SubnetID]cloud.Subnet{"subnet-1": {ID: "subnet-1", VPC: "vpc-1"}},
		Groups: map[cloud.GroupID]cloud.SecurityGroup{}, Interfaces: map[cloud.InterfaceID]cloud.NetworkInterface{}}
	var in []cloud.GroupID
	for g := range groups {
		sg := cloud.SecurityGroup{ID: cloud.GroupID(fmt.Sprintf("sg-%017d", g)), VPC: "vpc-1", Name: "a group with a name", Description: strings.Repeat("said of it ", 20)}
		for r := range rules {
			sg.Ingress = append(sg.Ingress, cloud.GroupRule{ID: cloud.RuleID(fmt.Sprintf("sgr-%017d", r)), Protocol: "tcp", FromPort: 1024 + r, ToPort: 1024 + r,
				CIDR: fmt.Sprintf("203.0.113.%d/32", r%256), Description: strings.Repeat("said of it ", 20)})
		}
		w.Groups[sg.ID] = sg
		in = append(in, sg.ID)
	}
	var all []cloud.Instance
	four, six := netip.MustParseAddr("10.0.0.4"), netip.MustParseAddr("2001:db8::").As16()
	for k := range interfaces {
		id := cloud.InterfaceID(fmt.Sprintf("eni-%017d", k))
		h := uint64(k)*0x9e3779b97f4a7c15 + 1 // as random as those that are chosen
		for b := range 8 {
			six[8+b] = byte(h >> (8 * b))
		}
		w.Interfaces[id] = cloud.NetworkInterface{ID: id, VPC: "vpc-1", Subnet: "subnet-1", Groups: in, Addresses: []netip.Addr{four}, IPv6: []netip.Addr{netip.AddrFrom16(six)}}
		all = append(all, cloud.Instance{ID: cloud.InstanceID("i" + id[3:]), Host: "h-1", Interfaces: []cloud.InterfaceID{id}})
		four = four.Next()
	}
	return w, "h-1", all
}

// A host can be told of a VPC with 16,000 interfaces: EC2 puts an interface into five groups at most, if nobody asks for
// more, and an interface has a thousand rules.
func TestWhatAHostCanBeToldOfAVPC(t *testing.T) {
	for _, c := range []struct {
		name                      string
		interfaces, groups, rules int
		fits                      bool
	}{
		{"16,000 interfaces in five groups of sixty rules, of both families", 16000, 5, 60, true},
		{"as many in sixteen groups", 16000, 16, 60, false},
		{"a hundred groups of a hundred and twenty rules", 100, 100, 120, true},
		{"two hundred of them", 100, 200, 120, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			data, err := json.Marshal(placement.Networks(crowd(c.interfaces, c.groups, c.rules))[0])
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d bytes of %d", len(data), int(store.MaxBytes))
			if fits := len(data)+100 < store.MaxBytes; fits != c.fits {
				t.Errorf("it fits: %t, want %t", fits, c.fits)
			}
		})
	}
}

// What of one VPC is too large for the store keeps nothing from the others, and is said with what to do.
func TestAVPCThatIsTooLargeKeepsNothingFromOthers(t *testing.T) {
	w := newWorld(t)
	w.host("h-1", 8192)
	large, _, _ := crowd(0, 200, 120)
	var groups []cloud.GroupID
	for id, g := range large.Groups {
		groups = append(groups, id)
		w.write(func(t *store.Txn) { store.Create(t, store.Groups, id, g) })
	}
	w.write(func(t *store.Txn) {
		store.Create(t, store.VPCs, "vpc-1", cloud.VPC{ID: "vpc-1"})
		store.Create(t, store.VPCs, "vpc-2", cloud.VPC{ID: "vpc-2"})
	})
	w.launch("i-1", "t")
	w.launch("i-22", "t")
	w.equip("eni-i-1", func(n *cloud.NetworkInterface) { n.Groups = groups })
	w.equip("eni-i-22", func(n *cloud.NetworkInterface) { n.VPC = "vpc-2" })
	err := w.planner(w.m).Reconcile(t.Context())
	if !errors.Is(err, store.ErrTooLarge) || !strings.Contains(err.Error(), "200 groups with 24000 rules") {
		t.Errorf("got %v, want what is too large and how large it is", err)
	}
	if _, err := store.Get(t.Context(), w.c, store.Networks("h-1"), "vpc-2"); err != nil {
		t.Errorf("the host is not told of the other VPC: %v", err)
	}
	if _, err := store.Get(t.Context(), w.c, store.Assignments("h-1"), "i-22"); err != nil {
		t.Errorf("the host is not told of the instance in the other VPC: %v", err)
	}
}
