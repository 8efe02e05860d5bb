//go:build net

package eni

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// measured prints a line that the bench reads: milliseconds of the clock, and of processor time of all threads.
func measured(t testing.TB, name string, clock, processor []time.Duration) {
	t.Helper()
	ms := func(list []time.Duration) []float64 {
		out := make([]float64, len(list))
		for i, d := range list {
			out[i] = d.Seconds() * 1e3
		}
		return out
	}
	line, err := json.Marshal(map[string]any{"name": name, "raw": ms(clock), "processor": ms(processor)})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("MEASURED %s\n", line)
}

// stopwatch takes both times of a function.
type stopwatch struct{ clock, processor []time.Duration }

func (s *stopwatch) time(t testing.TB, f func()) {
	t.Helper()
	began, used := time.Now(), processorTime(t)
	f()
	s.clock, s.processor = append(s.clock, time.Since(began)), append(s.processor, processorTime(t)-used)
}

// The bench runs this test alone, with ICHIRO_MEASURE set.
func TestMeasureApply(t *testing.T) {
	if os.Getenv("ICHIRO_MEASURE") == "" {
		t.Skip("it measures: make bench runs it")
	}
	const many, times = 4000, 200
	ctx := context.Background()
	all := each(crowd(many + 2*times)...)
	fresh := func() *Manager {
		m, err := New("emx", discard)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	do := func(m *Manager, c Config) {
		t.Helper()
		if err := m.Apply(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	var nothing, half, cold, same, address, added, bounded stopwatch
	for range 3 {
		m := fresh()
		thousand, fewer := configOf("emx", all[:1000]), configOf("emx", all[:500])
		nothing.time(t, func() { do(m, thousand) })
		half.time(t, func() { do(m, fewer) })
		m.Close()
		if err := Remove(ctx, "emx"); err != nil {
			t.Fatal(err)
		}
	}
	measured(t, "1000 from nothing", nothing.clock, nothing.processor)
	measured(t, "remove 500", half.clock, half.processor)
	base := configOf("emx", all[:many])
	m := fresh()
	do(m, base)
	m.Close()
	for range 3 {
		m = fresh()
		cold.time(t, func() { do(m, base) })
		m.Close()
	}
	measured(t, "cold start of 4000", cold.clock, cold.processor)
	m = fresh()
	defer m.Close()
	do(m, base)
	for range 20 {
		same.time(t, func() { do(m, base) })
	}
	measured(t, "nothing new at 4000", same.clock, same.processor)
	for n := range times { // a further address: rules, route and neighbour, and no tap
		more := slices.Clone(all[:many])
		changed := *more[n]
		changed.Addresses = append(slices.Clone(changed.Addresses), netip.AddrFrom4([4]byte{172, 31, 200, byte(n)}))
		more[n] = &changed
		c := configOf("emx", more)
		address.time(t, func() { do(m, c) })
		all = append(more, all[many:]...)
	}
	measured(t, "one address at 4000", address.clock, address.processor)
	for n := range times {
		c := configOf("emx", all[:many+n+1])
		added.time(t, func() { do(m, c) })
	}
	measured(t, "one interface at 4000", added.clock, added.processor)
	for n := many + times; n < len(all); n++ { // each of an instance of its own: two links more, with their queues
		all[n].Bandwidth = Bandwidth{Baseline: 64, Peak: 5000}
		c := configOf("emx", all[:n+1])
		bounded.time(t, func() { do(m, c) })
	}
	measured(t, "one bounded interface at 4000", bounded.clock, bounded.processor)
	runtime.GC()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if f := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status); f != nil {
		kb, _ := strconv.Atoi(string(f[1]))
		fmt.Printf("MEASURED {\"name\":\"resident MB at 4000\",\"raw\":[%d]}\n", kb>>10)
	}
	if err := Remove(ctx, "emx"); err != nil {
		t.Fatal(err)
	}
}

// pings sends count packets, up to a thousand a second, from one guest to another, and waits for the last answer. over
// is closed then, and result says how many were lost.
func pings(t *testing.T, from *nstest.Guest, to string, count int) (over <-chan struct{}, result func() (sent, lost int)) {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", from.Name, "ping", "-q", "-c", strconv.Itoa(count), "-i", "0.001", "-W", "2", to)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	return done, func() (sent, lost int) {
		<-done
		f := regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`).FindStringSubmatch(out.String())
		if f == nil {
			t.Fatalf("ping says nothing of its packets: %s", out.String())
		}
		sent, _ = strconv.Atoi(f[1])
		got, _ := strconv.Atoi(f[2])
		return sent, sent - got
	}
}

func ended(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// The agent is replaced, and killed in the middle of its work, while guests talk: they must not notice.
func TestNoPacketIsLostWhileAgentsComeAndGo(t *testing.T) {
	if os.Getenv("ICHIRO_VICTIM") != "" {
		t.Skip("this is the agent that is killed")
	}
	m, end := run(t, "emr")
	base := config("emr", guestInterface(1, "sg-default"), guestInterface(2, "sg-default"))
	apply(t, m, base)
	a := configured(t, m, 1)
	configured(t, m, 2)
	a.IP("neigh replace 172.31.0.12 lladdr 02:69:63:68:69:01 nud permanent dev eth0") // the router answers for all: no ARP in what is counted
	if out, err := a.Run("ping", "-c", "3", "-i", "0.1", "-W", "2", "172.31.0.12"); err != nil {
		t.Fatalf("guests do not reach each other: %s", out)
	}
	over, result := pings(t, a, "172.31.0.12", 500)
	end()
	restarts, kills := 0, 0
	for ; !ended(over); restarts++ {
		next, err := New("emr", discard)
		if err != nil {
			t.Fatal(err)
		}
		apply(t, next, base)
		next.Close()
	}
	sent, lost := result()
	fmt.Printf("MEASURED {\"name\":\"lost by restarts\",\"raw\":[%d],\"of\":%d}\n", lost, sent)
	if lost > 0 {
		t.Errorf("%d of %d packets lost by %d restarts", lost, sent, restarts)
	}
	over, result = pings(t, a, "172.31.0.12", 700)
	for n := 0; !ended(over); n++ {
		kills++
		victim := exec.Command("/proc/self/exe", "-test.run", "^TestAgentThatIsKilled$")
		victim.Env = append(os.Environ(), "ICHIRO_VICTIM=1")
		out, err := victim.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 8)); err != nil { // its first word: it is at work
			t.Fatalf("the victim says nothing: %v", err)
		}
		<-time.After(time.Duration(n*7919%97) * time.Millisecond)
		_ = victim.Process.Kill()
		_ = victim.Wait()
	}
	sent, lost = result()
	fmt.Printf("MEASURED {\"name\":\"lost by kills\",\"raw\":[%d],\"of\":%d}\n", lost, sent)
	if lost > 0 {
		t.Errorf("%d of %d packets lost by %d kills", lost, sent, kills)
	}
	last, err := New("emr", discard)
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	apply(t, last, base) // whatever state it was left in
	if n := strings.Count(nstest.IP(t, "-n emr-vpc-1 -o link show group 10"), "\n"); n != 2 {
		t.Errorf("got %d taps after the last Apply, want 2", n)
	}
}

// TestAgentThatIsKilled is no test: it is the process that TestNoPacketIsLostWhileAgentsComeAndGo kills.
func TestAgentThatIsKilled(t *testing.T) {
	if os.Getenv("ICHIRO_VICTIM") == "" {
		t.Skip("another test starts it, as a process")
	}
	m, err := New("emr", discard)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("at work")
	for n := 0; ; n++ {
		more := []Interface{guestInterface(1, "sg-default"), guestInterface(2, "sg-default")}
		for k := range n % 7 {
			more = append(more, guestInterface(10+n%50+k, []cloud.GroupID{"sg-default", "sg-other"}[k%2]))
		}
		_ = m.Apply(context.Background(), config("emr", more...))
	}
}
