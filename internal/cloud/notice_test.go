package cloud_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestWhatIsTold(t *testing.T) {
	at := func(s cloud.InvocationStatus, id cloud.InstanceID, started, ended int) cloud.Invocation {
		i := cloud.Invocation{Instance: id, Status: s, Details: string(s)}
		if started > 0 {
			i.Started = now.Add(time.Duration(started) * time.Second)
		}
		if ended > 0 {
			i.Ended = now.Add(time.Duration(ended) * time.Second)
		}
		return i
	}
	type told = map[cloud.InstanceID]cloud.InvocationStatus
	pending, running, done, failed := at("Pending", "a", 0, 0), at("InProgress", "a", 1, 0), at("Success", "a", 1, 2), at("Failed", "b", 1, 3)
	for name, c := range map[string]struct {
		n    cloud.Notification
		told told
		seen []cloud.Invocation
		want string
	}{
		"nothing has begun":              {cloud.Notification{}, nil, []cloud.Invocation{pending}, "[] false"},
		"it has begun":                   {cloud.Notification{}, nil, []cloud.Invocation{running}, "[ InProgress 1s] false"},
		"which was told":                 {cloud.Notification{}, told{"": "InProgress"}, []cloud.Invocation{running}, "[] false"},
		"one of two has ended":           {cloud.Notification{}, told{"": "InProgress"}, []cloud.Invocation{running, failed}, "[] false"},
		"both have":                      {cloud.Notification{}, told{"": "InProgress"}, []cloud.Invocation{done, failed}, "[ Failed 3s] true"},
		"the beginning was missed":       {cloud.Notification{}, nil, []cloud.Invocation{done}, "[ InProgress 1s  Success 2s] true"},
		"it never began":                 {cloud.Notification{}, nil, []cloud.Invocation{{Instance: "a", Status: "TimedOut", Details: "DeliveryTimedOut"}}, "[ TimedOut 9s] true"},
		"all is told":                    {cloud.Notification{}, told{"": "Success"}, []cloud.Invocation{done}, "[] true"},
		"only failures are asked for":    {cloud.Notification{Events: []cloud.InvocationStatus{"Failed"}}, nil, []cloud.Invocation{done}, "[] true"},
		"each instance":                  {cloud.Notification{Instances: true}, told{"a": "InProgress"}, []cloud.Invocation{done, failed}, "[a Success 2s b InProgress 1s b Failed 3s] true"},
		"each instance, one not yet":     {cloud.Notification{Instances: true}, nil, []cloud.Invocation{pending, failed}, "[b InProgress 1s b Failed 3s] false"},
		"cancelling is not told of":      {cloud.Notification{Instances: true}, told{"a": "InProgress"}, []cloud.Invocation{at("Cancelling", "a", 1, 0)}, "[] false"},
		"cancelled is":                   {cloud.Notification{Instances: true}, told{"a": "InProgress"}, []cloud.Invocation{at("Cancelled", "a", 1, 2)}, "[a Cancelled 2s] true"},
		"of some instances all was told": {cloud.Notification{Instances: true}, told{"a": "Success", "b": "Failed"}, []cloud.Invocation{done, failed}, "[] true"},
	} {
		due, last := c.n.Due(cloud.Command{}, c.told, c.seen, now.Add(9*time.Second))
		var all []string
		for _, e := range due {
			all = append(all, fmt.Sprintf("%s %s %s", e.Instance, e.Status, e.At.Sub(now)))
		}
		if got := fmt.Sprint(all, last); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}
