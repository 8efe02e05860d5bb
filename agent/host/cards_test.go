package host

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestDecideCards(t *testing.T) {
	now := time.Date(2026, 11, 28, 17, 0, 0, 0, time.UTC)
	run := func(cards ...string) machineView {
		return machineView{there: true, running: true, counted: true, cards: cards}
	}
	stopping := machineView{there: true, counted: true, cards: []string{"eni-0", "eni-1"}}
	const in, asked, force = cloud.DetachNot, cloud.DetachAsked, cloud.DetachForce
	for _, c := range []struct {
		name   string
		power  cloud.Power
		second cloud.Detach // what is wished of eni-1, beside eni-0; "none" if nothing is
		m      machineView
		since  time.Duration // since eni-1 was asked for; 0 for never
		want   string
	}{
		{"a machine that has everything is left alone", cloud.PowerRunning, in, run("eni-0", "eni-1"), 0, "keep eni-0 eni-1, has at-0 at-1"},
		{"a further interface is plugged", cloud.PowerRunning, in, run("eni-0"), 0, "keep eni-0 eni-1, plug eni-1, has at-0"},
		{"the first interface is never plugged", cloud.PowerRunning, in, run("eni-1"), 0, "keep eni-0 eni-1, has at-1"},
		{"a machine that has not said what it has is waited for", cloud.PowerRunning, in, machineView{there: true}, 0, "keep eni-0 eni-1"},
		{"an instance that has not begun its boot has nothing", cloud.PowerRunning, in, machineView{}, 0, "keep eni-0 eni-1"},
		{"a stopped instance has what its next boot will have", cloud.PowerStopped, in, machineView{}, 0, "keep eni-0 eni-1, has at-0 at-1"},
		{"the guest is asked to let go", cloud.PowerRunning, asked, run("eni-0", "eni-1"), 0, "keep eni-0 eni-1, let go eni-1, has at-0 at-1"},
		{"and asked again", cloud.PowerRunning, asked, run("eni-0", "eni-1"), 29 * time.Second, "keep eni-0 eni-1, let go eni-1, has at-0 at-1"},
		{"a guest that does not answer is cut off", cloud.PowerRunning, asked, run("eni-0", "eni-1"), 30 * time.Second, "keep eni-0, cut eni-1, has at-0"},
		{"when it has let go, all of it goes", cloud.PowerRunning, asked, run("eni-0"), time.Second, "keep eni-0, has at-0"},
		{"force does not ask", cloud.PowerRunning, force, run("eni-0", "eni-1"), 0, "keep eni-0, cut eni-1, has at-0"},
		{"force finds nothing to cut", cloud.PowerRunning, force, run("eni-0"), 0, "keep eni-0, has at-0"},
		{"a panicked guest is not asked", cloud.PowerRunning, asked, machineView{there: true, counted: true, cards: []string{"eni-0", "eni-1"}, deaf: true}, 0,
			"keep eni-0, cut eni-1, has at-0"},
		{"detached while stopped it goes at once", cloud.PowerStopped, asked, machineView{}, 0, "keep eni-0, has at-0"},
		{"detached while stopping it waits for the end", cloud.PowerStopped, asked, stopping, 0, "keep eni-0 eni-1, has at-0 at-1"},
		{"a card that nobody wishes for is cut", cloud.PowerRunning, "none", run("eni-0", "eni-1"), 0, "keep eni-0, cut eni-1, has at-0"},
		{"a card that was cut is asked for until the guest lets go", cloud.PowerRunning, "none",
			machineView{there: true, running: true, counted: true, cards: []string{"eni-0"}, dead: []string{"eni-1"}}, 0, "keep eni-0, let go eni-1, has at-0"},
		{"a detaching interface of a machine that has not said what it has stays", cloud.PowerRunning, asked, machineView{there: true}, 0,
			"keep eni-0 eni-1, has at-1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			nic := func(n int, d cloud.Detach) cloud.AssignedInterface {
				return cloud.AssignedInterface{NetworkInterface: cloud.NetworkInterface{
					ID: cloud.InterfaceID(fmt.Sprint("eni-", n)), Attachment: cloud.AttachmentID(fmt.Sprint("at-", n)), DeviceIndex: n, Detach: d,
				}}
			}
			a := cloud.Assignment{Instance: cloud.Instance{Power: c.power}}
			if c.second != "none" {
				a.Interfaces = append(a.Interfaces, nic(1, c.second)) // in the wrong order
			}
			a.Interfaces = append(a.Interfaces, nic(0, in))
			was := map[cloud.AttachmentID]time.Time{}
			if c.since > 0 {
				was["at-1"] = now.Add(-c.since)
			}
			if got := decideCards(a, c.m, was, now).String(); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func (c cards) String() string {
	ids := func(list []cloud.AssignedInterface) (out []cloud.InterfaceID) {
		for _, n := range list {
			out = append(out, n.ID)
		}
		return out
	}
	var parts []string
	for _, p := range []struct {
		verb string
		list []cloud.InterfaceID
	}{{"keep", ids(c.keep)}, {"plug", ids(c.plug)}, {"let go", c.letGo}, {"cut", c.cut}} {
		if len(p.list) > 0 {
			parts = append(parts, strings.TrimSuffix(fmt.Sprintln(append([]any{p.verb}, anys(p.list)...)...), "\n"))
		}
	}
	if len(c.has) > 0 {
		parts = append(parts, strings.TrimSuffix(fmt.Sprintln(append([]any{"has"}, anys(c.has)...)...), "\n"))
	}
	return strings.Join(parts, ", ")
}

func anys[T any](list []T) (out []any) {
	for v := range slices.Values(list) {
		out = append(out, v)
	}
	return out
}

func TestPorts(t *testing.T) {
	for _, c := range []struct{ limit, has, want int }{{2, 1, 1}, {4, 1, 3}, {2, 3, 2}, {1, 1, 0}, {0, 0, 0}, {100, 1, 64}} {
		a := cloud.Assignment{Type: cloud.InstanceType{Interfaces: c.limit}, Interfaces: make([]cloud.AssignedInterface, c.has)}
		if got := ports(a); got != c.want {
			t.Errorf("a type with %d interfaces, of which %d are there, has %d ports, want %d", c.limit, c.has, got, c.want)
		}
	}
}
