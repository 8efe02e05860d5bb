//go:build vm

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// control runs a command of ichiro-control, as the operator does.
func (h *host) control(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(bin, "ichiro-control"), append(args, "--run", h.run())...).CombinedOutput()
	if err != nil {
		t.Fatalf("ichiro-control %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// maintenance follows an event from its announcement to its end, as the guest sees it and as its owner does.
func (h *host) maintenance(t *testing.T, id string) {
	type event struct{ NotBefore, NotAfter, Code, Description, EventId, State string } //nolint:staticcheck // the names are EC2's
	inGuest := func(what string, want func([]event) bool) (got []event) {
		t.Helper()
		await(t, "events that are "+what, func() error {
			text := h.sh(t, id, "curl -s http://169.254.169.254/latest/meta-data/events/maintenance/"+what)
			got = nil
			if err := json.Unmarshal([]byte(text), &got); err != nil || !want(got) {
				return errors.New(text)
			}
			return nil
		})
		return got
	}
	if out := h.control(t, "schedule-maintenance", "--instance", id, "--code", "system-reboot", "--in", "48h", "--for", "1h", "--within", "96h",
		"--description", "a new kernel"); !strings.Contains(out, id) {
		t.Fatalf("the operator reads %q", out)
	}
	e := inGuest("scheduled", func(l []event) bool { return len(l) == 1 })[0]
	if e.Code != "system-reboot" || e.State != "active" || e.Description != "a new kernel" {
		t.Errorf("the guest reads %+v", e)
	}
	to := time.Now().Add(72 * time.Hour).UTC().Truncate(time.Second)
	if _, err := h.ec2.ModifyInstanceEventStartTime(t.Context(), &ec2.ModifyInstanceEventStartTimeInput{InstanceId: &id, InstanceEventId: &e.EventId, NotBefore: &to}); err != nil {
		t.Fatal(err)
	}
	moved := inGuest("scheduled", func(l []event) bool { return len(l) == 1 && l[0].NotBefore != e.NotBefore })[0]
	if want := to.Format("02 Jan 2006 15:04:05 GMT"); moved.NotBefore != want || moved.NotAfter != to.Add(time.Hour).Format("02 Jan 2006 15:04:05 GMT") {
		t.Errorf("the guest reads %+v, want it to begin at %s", moved, want)
	}
	h.control(t, "end-maintenance", "--instance", id)
	inGuest("scheduled", func(l []event) bool { return len(l) == 0 })
	if over := inGuest("history", func(l []event) bool { return len(l) == 1 })[0]; over.State != "completed" || over.Description != "[Completed] a new kernel" {
		t.Errorf("the guest reads %+v", over)
	}
	st, err := h.ec2.DescribeInstanceStatus(t.Context(), &ec2.DescribeInstanceStatusInput{InstanceIds: []string{id}})
	if err != nil || len(st.InstanceStatuses) != 1 {
		t.Fatalf("got %+v, %v", st, err)
	}
	got := fmt.Sprint(len(st.InstanceStatuses[0].Events))
	for _, e := range st.InstanceStatuses[0].Events {
		got += fmt.Sprint(" ", e.Code, " ", aws.ToString(e.Description), " ", e.NotBefore.Equal(to))
	}
	if want := "1 system-reboot [Completed] a new kernel true"; got != want {
		t.Errorf("the owner reads %s, want %s", got, want)
	}
}
