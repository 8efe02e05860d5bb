package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

func TestMaintenanceIsOfThoseThatRunOnTheHost(t *testing.T) {
	c := storetest.New(t)
	tx := store.NewTxn()
	for _, i := range []cloud.Instance{
		{ID: "i-1", Host: "h-1", Power: cloud.PowerRunning},
		{ID: "i-2", Host: "h-1", Power: cloud.PowerRunning},
		{ID: "i-3", Host: "h-2", Power: cloud.PowerRunning},
		{ID: "i-4", Host: "h-1", Power: cloud.PowerStopped},
		{ID: "i-5", Host: "h-1", Power: cloud.PowerTerminated},
	} {
		store.Create(tx, store.Instances, i.ID, i)
	}
	if _, err := c.Commit(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	e := cloud.ScheduledEvent{Code: "system-reboot", Description: "new kernel", NotBefore: now.Add(time.Hour)}
	host := crowd{host: "h-1"}
	ids, err := host.announce(t.Context(), c, e)
	if err != nil || !slices.Equal(ids, []cloud.InstanceID{"i-1", "i-2"}) {
		t.Fatalf("announced to %v, %v", ids, err)
	}
	if ids, err := (crowd{instance: "i-4"}).announce(t.Context(), c, e); err != nil || len(ids) != 1 {
		t.Errorf("announced to the stopped one: %v, %v", ids, err)
	}
	// events are those of all instances: id and state.
	events := func() string {
		t.Helper()
		list, err := store.List(t.Context(), c, store.Instances, store.Range{})
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		named := map[cloud.EventID]bool{}
		for _, o := range list.Objects {
			for _, e := range o.Value.Events {
				if !cloud.WellFormed(e.ID, "instance-event") || named[e.ID] {
					t.Errorf("the event of %s is named %q", o.ID, e.ID)
				}
				named[e.ID] = true
				lines = append(lines, fmt.Sprint(o.ID, " ", e.State))
			}
		}
		return strings.Join(lines, ", ")
	}
	if got, want := events(), "i-1 active, i-2 active, i-4 active"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if ids, err := (crowd{instance: "i-2"}).end(t.Context(), c, cloud.EventCanceled, now); err != nil || len(ids) != 1 {
		t.Errorf("canceled for %v, %v", ids, err)
	}
	if ids, err := host.end(t.Context(), c, cloud.EventCompleted, now); err != nil || !slices.Equal(ids, []cloud.InstanceID{"i-1"}) {
		t.Errorf("ended for %v, %v", ids, err)
	}
	if got, want := events(), "i-1 completed, i-2 canceled, i-4 active"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestMaintenanceThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		name, args, want string
	}{
		{"without a description", "--host h-1", "needs a description"},
		{"of nobody", "--description x", "name a host"},
		{"of a host and an instance", "--description x --host h-1 --instance i-1", "name a host"},
		{"of no known kind", "--description x --host h-1 --code lunch", "no kind of event"},
		{"that must begin before it may", "--description x --host h-1 --in 2h --within 1h", "deadline"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := scheduleMaintenance(t.Context(), strings.Fields(c.args)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
