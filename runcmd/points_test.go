package main_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// armed are the programs with the points of package fault in them.
var armed = sync.OnceValues(func() (string, error) { return build("faults") })

// points are the steps of a command's way, in order: on both sides of whatever is written or sent.
var points = []string{
	"gateway seen", "gateway noted", "gateway sent",
	"agent asked", "agent journal before", "agent journal synced", "agent journalled",
	"agent start before", "agent started", "agent start recorded",
	"agent output sent", "gateway output kept",
	"agent step ended", "agent result known", "agent result recorded", "agent result sending", "agent result sent",
	"gateway result received", "gateway output synced", "gateway result kept", "gateway acknowledged",
	"agent acknowledged", "agent forgetting", "agent forgotten",
}

// unstarted are the points at which a command has not begun: whoever is struck there, it is not Interrupted after it ran. When the
// gateway has sent it, the agent has it, and does not stand still.
var unstarted = slices.DeleteFunc(slices.Clone(points[:slices.Index(points, "agent start before")+1]), func(p string) bool { return p == "gateway sent" })

// strikes are what happens at a point, beside what the victims are: there somebody stands still, who may be the one to end.
var strikes = map[string]func(h *host){
	"worker":             victims["worker"],
	"agent":              victims["agent"],
	"gateway":            victims["gateway"],
	"worker and gateway": victims["worker and gateway"],
	"all":                victims["all"],
	"network":            victims["network"],
	"restart":            (*host).restartStopped,
	"reboot":             (*host).rebootNow,
}

// restartStopped is restart where the worker may stand still: it goes on with the signal in its way.
func (h *host) restartStopped() {
	h.t.Helper()
	check(h.t, h.agent.Process.Signal(unix.SIGTERM))
	for done := make(chan struct{}); ; {
		go func() { h.agent.Wait(); close(done) }()
		for {
			h.goOn()
			select {
			case <-done:
				h.startAgent()
				return
			case <-time.After(5 * time.Millisecond): // the keeper has yet to pass the signal on
			}
		}
	}
}

// goOn has whoever stands at a point go on.
func (h *host) goOn() {
	if pid := h.worker(); pid > 0 {
		unix.Kill(pid, unix.SIGCONT)
	}
	h.gateway.Process.Signal(unix.SIGCONT)
}

// stands reports whether somebody stands still: who has told that it is at a point stops a moment later, and who was asked to go on
// before that would stand for ever.
func (h *host) stands() bool {
	for _, pid := range []int{h.worker(), h.gateway.Process.Pid} {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // there may be no worker
		if strings.Contains(string(stat), ") T ") {
			return true
		}
	}
	return false
}

// newArmedHost makes a host whose programs stop at the points that are armed in the directory returned.
func newArmedHost(t *testing.T, early bool) (h *host, dir string) {
	t.Helper()
	bin, err := armed()
	check(t, err)
	h = newHost(t)
	dir = filepath.Join(string(h.root), "points")
	check(t, os.Mkdir(dir, 0o700))
	h.bin, h.early, h.env = bin, early, []string{"ICHIRO_FAULT_POINTS=" + dir}
	h.lay()
	h.startGateway()
	h.startAgent()
	h.end(h.send("true"))
	return h, dir
}

// struck is what came of a strike.
type struck struct {
	interrupted bool
	took        time.Duration // from the end of the strike to the command's
	point       string
	side, runs  string
}

// strikeAt sends a command and strikes when it has come to a point. It runs once and its output is whole, or the result says
// that it was interrupted, and it ran at most once.
func strikeAt(t *testing.T, h *host, dir, point string, strike func(*host)) struck {
	t.Helper()
	arm, hit := filepath.Join(dir, "arm."+point), filepath.Join(dir, "hit."+point)
	check(t, os.WriteFile(arm, nil, 0o600))
	side := filepath.Join(t.TempDir(), "side")
	script := fmt.Sprintf("echo run >> %s; i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done; exit 4", side)
	id := h.send(script, func(r *bundle.CommandRequest) {
		r.Environment = map[string]string{"HOST_OF_TEST": string(h.root)}
	})
	eventually(t, "the point "+point, func() bool { return os.Remove(hit) == nil })
	eventually(t, "somebody stands at "+point, h.stands)
	ranBefore, _ := os.ReadFile(side)
	strike(h)
	back := time.Now()
	h.goOn()
	inv := h.end(id)
	s := struck{took: time.Since(back)}
	runs, _ := os.ReadFile(side)
	got := h.output(id, wire.Stdout)
	var want strings.Builder
	for i := range 300 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	switch {
	case inv.Details == "Failed" && inv.ResponseCode == 4:
		if string(runs) != "run\n" || got != want.String() {
			t.Errorf("at %s: ran %q, output of %d bytes, want once and %d bytes", point, runs, len(got), want.Len())
		}
	case inv.Details == "Interrupted":
		s.interrupted = true
		if len(runs) > len("run\n") || !strings.HasPrefix(want.String(), got) {
			t.Errorf("at %s: ran %q, output %.40q", point, runs, got)
		}
		if slices.Contains(unstarted, point) && len(ranBefore) > 0 {
			t.Errorf("at %s: it had run before", point)
		}
	default:
		t.Errorf("at %s: got %+v", point, inv)
	}
	check(t, h.dir.RemoveCommand(id))
	s.point, s.side, s.runs = point, side, string(runs)
	return s
}

// chosen are the points at which a kind of strike is tried: all, as often as ICHIRO_FAULTS says, or else a few, such that all
// kinds together try each.
func chosen(kind string, early bool) (few []string) {
	if n, err := strconv.Atoi(os.Getenv("ICHIRO_FAULTS")); err == nil {
		return slices.Repeat(points, n)
	}
	const every = 8
	first := slices.Index(slices.Sorted(maps.Keys(strikes)), kind)
	if early {
		first += every / 2
	}
	for n := first % every; n < len(points); n += every {
		few = append(few, points[n])
	}
	return few
}

// Struck at each step of the protocol, with each kind of strike.
func TestKilledAtEachPoint(t *testing.T) {
	t.Parallel()
	for name, strike := range strikes {
		bothShells(t, name, func(t *testing.T, early bool) {
			t.Parallel()
			h, dir := newArmedHost(t, early)
			var all []struck
			for _, point := range chosen(name, early) {
				all = append(all, strikeAt(t, h, dir, point, strike))
			}
			for _, s := range all {
				if now, _ := os.ReadFile(s.side); string(now) != s.runs {
					t.Errorf("%s: it ran when its end had been told: %q, then %q", s.point, s.runs, now)
				}
			}
			var interrupted, late int
			slowest := struck{}
			for _, s := range all {
				if s.interrupted {
					interrupted++
				}
				if s.took > 2*time.Second {
					late++
				}
				if s.took > slowest.took {
					slowest = s
				}
			}
			t.Logf("%d strikes, %d interrupted, %d later than 2 s, the slowest %v", len(all), interrupted, late, slowest.took.Round(time.Millisecond))
			if (name == "gateway" || name == "network" || name == "restart") && interrupted > 0 {
				t.Errorf("%d commands were interrupted", interrupted)
			}
		})
	}
}
