package delivery

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

func TestWhatIsLeftOfACommandsTime(t *testing.T) {
	noon := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	k := clock{boot: "b", wall: func() time.Time { return noon }}
	req := bundle.CommandRequest{CommandWish: cloud.CommandWish{
		Requested: noon.Add(-10 * time.Minute), DeliverBy: noon.Add(50 * time.Minute), Steps: []cloud.Step{{TimeoutSeconds: 60}, {TimeoutSeconds: 30}},
	}}
	note := k.note(due{time.Now().Add(20 * time.Minute), time.Now().Add(time.Hour)})
	for _, tt := range []struct {
		name            string
		set             time.Duration // how far the clock was set forward
		note            string
		deliver, expire time.Duration
	}{
		{"seen for the first time", 0, "", 50 * time.Minute, 50*time.Minute + slack + 90*time.Second},
		{"seen for the first time, by a clock that was set back", -24 * time.Hour, "", time.Hour, time.Hour + slack + 90*time.Second},
		{"seen for the first time, too late", time.Hour, "", -10 * time.Minute, -10*time.Minute + slack + 90*time.Second},
		{"noted", 0, note, 20 * time.Minute, time.Hour},
		{"noted, and the clock set forward", 24 * time.Hour, note, 20 * time.Minute, time.Hour},
		{"noted, and the clock set back", -24 * time.Hour, note, 20 * time.Minute, time.Hour},
		{"noted before the host was booted again", 0, "other" + note, 50 * time.Minute, 50*time.Minute + slack + 90*time.Second},
		{"a note that is cut short", 0, note[:3], 50 * time.Minute, 50*time.Minute + slack + 90*time.Second},
	} {
		k.wall = func() time.Time { return noon.Add(tt.set) }
		got := k.due(req, tt.note)
		if d := time.Until(got.deliver).Round(time.Second); d != tt.deliver {
			t.Errorf("%s: may be delivered for %v, want %v", tt.name, d, tt.deliver)
		}
		if d := time.Until(got.expire).Round(time.Second); d != tt.expire {
			t.Errorf("%s: may take %v, want %v", tt.name, d, tt.expire)
		}
	}
}

// Whoever sets the host's clock, and starts the gateway again, ends no command by it: neither one that waits for its agent nor
// one that runs; and none is sent twice to be run.
func TestSetClockEndsNoCommand(t *testing.T) {
	for _, shift := range []time.Duration{10 * 365 * 24 * time.Hour, -10 * 365 * 24 * time.Hour} {
		t.Run(shift.String(), func(t *testing.T) {
			s := newSite(t)
			running := s.put(mine)
			c := s.guest()
			until[*wire.Request](t, c)
			c.Close()
			dir := s.root.Instance(mine)
			for p, err := dir.Agent(); err != nil || p.Connected; p, err = dir.Agent() {
				<-time.After(time.Millisecond)
			}
			waiting := s.put(mine)
			for name := dir.Path("commands", string(waiting), "due"); ; <-time.After(time.Millisecond) {
				if data, _ := os.ReadFile(name); strings.HasSuffix(string(data), "\n") {
					break
				}
			}
			s.stop()
			s.start(shift)
			c = s.guest()
			asked := []*wire.Request{until[*wire.Request](t, c), until[*wire.Request](t, c)}
			for _, r := range asked {
				if r.ID != running && r.ID != waiting || r.Resume {
					t.Errorf("got a request for %s, as if of another boot: %t", r.ID, r.Resume)
				}
				check(t, c.Send(result(r.ID, 3)))
				until[*wire.Done](t, c)
			}
			for _, id := range []cloud.CommandID{running, waiting} {
				if inv, err := dir.Invocation(id); err != nil || inv.ResponseCode != 3 || inv.Details != "Failed" {
					t.Errorf("got %+v, %v", inv, err)
				}
			}
		})
	}
}
