package ec2

import (
	"slices"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// A resource that has tags and no name for groups would be in none, and nobody would see why.
func TestWhatHasTagsCanBeGrouped(t *testing.T) {
	for _, k := range taggables() {
		if cloudKinds[k.name] == "" && k.name != "security-group-rule" { // Resource Groups does not know those either
			t.Errorf("%s has tags and no kind", k.name)
		}
	}
}

func TestTerminatedInstancesAreInNoGroup(t *testing.T) {
	r := newRig(t)
	r.write(func(t *store.Txn) {
		for id, power := range map[cloud.InstanceID]cloud.Power{"i-0000000000000000a": cloud.PowerStopped, "i-0000000000000000b": cloud.PowerTerminated} {
			store.Create(t, store.Instances, id, cloud.Instance{ID: id, Account: "000000000000", Power: power, Tags: cloud.Tags{"k": "v"}})
		}
		store.Create(t, store.Instances, "i-0000000000000000c", cloud.Instance{ID: "i-0000000000000000c", Account: "111111111111", Power: cloud.PowerStopped})
	})
	var got []string
	err := Resources(r.Mirror.Snapshot(), "000000000000", func(x cloud.Resource) {
		if !slices.Contains(ResourceKinds(), x.Kind) || x.Service != "ec2" {
			t.Errorf("got %+v, of no kind that is told", x)
		}
		if x.Kind == cloud.KindInstance {
			got = append(got, x.Name)
		}
	})
	if err != nil || !slices.Equal(got, []string{"instance/i-0000000000000000a"}) {
		t.Errorf("got %v, %v, want the one that is not terminated and ours", got, err)
	}
}
