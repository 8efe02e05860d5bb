package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// The tests here measure for ichiro-bench, which reads the lines that say writes. The yardstick always runs in turns with what
// is measured.

func measuring(t *testing.T) {
	t.Helper()
	if os.Getenv("ICHIRO_MEASURE") == "" {
		t.Skip("it measures: set ICHIRO_MEASURE")
	}
}

func say(t *testing.T, name string, raw ...float64) {
	t.Helper()
	line, err := json.Marshal(map[string]any{"name": name, "raw": raw})
	check(t, err)
	fmt.Printf("MEASURED %s\n", line)
}

func took(f func()) float64 {
	start := time.Now()
	f()
	return time.Since(start).Seconds() * 1e3
}

// TestMeasureTrue compares a command from its request file to its result file with sh -c true of this process. The host's run
// directory is a tmpfs, as /run is, and the agent's journal on the disk; beside it, all of it on the disk.
func TestMeasureTrue(t *testing.T) {
	measuring(t)
	t.TempDir() // the others of this test lie beside it, on the disk
	disk := newHost(t)
	t.Setenv("TMPDIR", "/dev/shm")
	h := newHost(t)
	for _, h := range []*host{h, disk} {
		h.startGateway()
		h.startAgent()
		for range 5 {
			h.end(h.send("true"))
		}
	}
	command := func(h *host) float64 {
		return took(func() {
			if inv := h.end(h.send("true")); inv.Status != cloud.InvocationSuccess {
				t.Fatalf("got %+v", inv)
			}
		})
	}
	var local, here, there []float64
	for range 400 {
		local = append(local, took(func() { check(t, exec.Command("/bin/sh", "-c", "true").Run()) }))
		here = append(here, command(h))
		there = append(there, command(disk))
	}
	say(t, "local true", local...)
	say(t, "command true", here...)
	say(t, "command true on disk", there...)
}

// TestMeasureOutput compares 300 MB of a command's output, from its process into a file of the host, with a copy of the same from
// a pipe into a file that is synced, on the same file system.
func TestMeasureOutput(t *testing.T) {
	measuring(t)
	const size = 300 << 20
	h := newHost(t)
	h.startGateway("--output-limit", strconv.Itoa(size), "--output-quota", strconv.Itoa(1<<40))
	h.startAgent()
	h.end(h.send("true"))
	script := fmt.Sprintf("head -c %d /dev/zero", size)
	var plain, ours []float64
	for range 5 {
		name := filepath.Join(string(h.root), "copy")
		plain = append(plain, size/1e3/took(func() {
			cmd := exec.Command("/bin/sh", "-c", script)
			out, err := cmd.StdoutPipe()
			check(t, err)
			f, err := os.Create(name)
			check(t, err)
			check(t, cmd.Start())
			_, err = io.Copy(f, out)
			check(t, err)
			check(t, cmd.Wait())
			check(t, f.Sync())
			check(t, f.Close())
		}))
		check(t, os.Remove(name))
		var id cloud.CommandID
		ours = append(ours, size/1e3/took(func() {
			id = h.send(script)
			if inv := h.end(id); inv.Status != cloud.InvocationSuccess || inv.StdoutBytes != size {
				t.Fatalf("got %+v", inv)
			}
		}))
		if info, err := os.Stat(h.dir.CommandOutput(id, "stdout")); err != nil || info.Size() != size {
			t.Fatalf("got a file of %d bytes, %v", info.Size(), err)
		}
		check(t, h.dir.RemoveCommand(id))
	}
	say(t, "plain output", plain...)
	say(t, "command output", ours...)
}

// TestMeasureAgent measures what an idle agent takes of a guest.
func TestMeasureAgent(t *testing.T) {
	measuring(t)
	h := newHost(t)
	h.startGateway()
	h.startAgent()
	for range 20 {
		h.end(h.send("seq 1 1000"))
	}
	<-time.After(2 * time.Second) // idle
	info, err := os.Stat(filepath.Join(h.bin, "agent"))
	check(t, err)
	say(t, "agent bytes", float64(info.Size()))
	pid := h.agent.Process.Pid
	worker := h.worker()
	say(t, "agent worker MB", status(t, worker, "VmRSS:")/1e3)
	say(t, "agent keeper MB", status(t, pid, "VmRSS:")/1e3)
	say(t, "agent own MB", (status(t, worker, "RssAnon:")+status(t, pid, "RssAnon:"))/1e3)
	file := func(pid int) float64 { return status(t, pid, "RssFile:") + status(t, pid, "RssShmem:") } // it may lie in a tmpfs
	say(t, "agent shared MB", max(file(worker), file(pid))/1e3)
}

// status returns a line of /proc/PID/status in kB.
func status(t *testing.T, pid int, key string) float64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	check(t, err)
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			n, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			check(t, err)
			return n
		}
	}
	t.Fatalf("no %s of %d", key, pid)
	return 0
}

// crowd is many agents, each of an instance of its own, in this process: what they cost is not the gateway's.
type crowd struct {
	h     *host
	n     int
	conns []*websocket.Conn
	ids   []cloud.InstanceID
}

// newCrowd makes a host with n instances, of which none is connected, and a gateway that knows them.
func newCrowd(t *testing.T, n int) *crowd {
	h := newHost(t)
	c := &crowd{h: h, n: n, conns: make([]*websocket.Conn, n)}
	for k := range n {
		id := cloud.InstanceID(fmt.Sprintf("i-%017x", k))
		dir := h.root.Instance(id)
		check(t, os.MkdirAll(string(dir), 0o755))
		check(t, dir.MakeCommands(os.Getgid()))
		check(t, bundle.Write(dir.Path("metadata.json"), bundle.Metadata{
			Instance: id, Interfaces: []bundle.MetadataInterface{{VPC: vpc, Addresses: []netip.Addr{c.addr(k)}}},
		}, 0o644))
		c.ids = append(c.ids, id)
	}
	return c
}

func (c *crowd) addr(k int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 1, byte(k / 250), byte(k%250 + 1)})
}

// dial connects one agent.
func dial(url string, from netip.Addr, hello []byte) (*websocket.Conn, error) {
	d := websocket.Dialer{
		ReadBufferSize: 512, WriteBufferSize: 512, HandshakeTimeout: 30 * time.Second,
		NetDial: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}, KeepAlive: -1}).Dial,
	}
	ws, _, err := d.Dial(url, nil)
	if err != nil || hello == nil {
		return ws, err
	}
	if err := ws.WriteMessage(websocket.BinaryMessage, hello); err != nil {
		ws.Close()
		return nil, err
	}
	if _, _, err := ws.ReadMessage(); err != nil { // the welcome
		ws.Close()
		return nil, err
	}
	return ws, nil
}

// each runs f for all agents, some at a time, as a host's guests would be.
func (c *crowd) each(f func(k int)) {
	next := atomic.Int64{}
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for k := next.Add(1) - 1; k < int64(c.n); k = next.Add(1) - 1 {
				f(int(k))
			}
		})
	}
	wg.Wait()
}

// connect connects all, each as often as it needs, and returns how many attempts have failed.
func (c *crowd) connect(t *testing.T) (failed int64) {
	hello, err := wire.Append(nil, &wire.Hello{Version: wire.Version, Boot: "boot", Agent: "crowd", Level: wire.Level})
	check(t, err)
	var again atomic.Int64
	c.each(func(k int) {
		for {
			ws, err := dial(c.h.url, c.addr(k), hello)
			if err == nil {
				c.conns[k] = ws
				return
			}
			again.Add(1)
			<-time.After(20 * time.Millisecond)
		}
	})
	return again.Load()
}

func (c *crowd) close() {
	for _, ws := range c.conns {
		if ws != nil {
			ws.Close()
		}
	}
}

const (
	agents  = 10000
	request = 600 // bytes of a request and a reply in the yardstick
	reply   = 300
)

// TestMeasureCrowd measures 10,000 agents on one gateway: its memory, a command to all, and all of them at once after a restart.
func TestMeasureCrowd(t *testing.T) {
	measuring(t)
	// This process has the connections of all agents and those of the yardstick.
	var files unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &files))
	n := min(agents, int(files.Max-2000)/2)
	if v, err := strconv.Atoi(os.Getenv("ICHIRO_AGENTS")); err == nil {
		n = v
	}
	say(t, "agents", float64(n))
	t.Setenv("TMPDIR", "/dev/shm") // as /run is
	empty := newHost(t)
	empty.startGateway()
	empty.startAgent()
	empty.end(empty.send("true"))
	before := status(t, empty.gateway.Process.Pid, "VmRSS:")
	kill(empty.agent)
	kill(empty.gateway)
	c := newCrowd(t, n)
	defer c.close()
	h := c.h
	h.startGateway()
	storm := took(func() { c.connect(t) })
	say(t, "connect ms", storm)
	c.each(func(k int) { // as agents do every 15 s
		check(t, c.conns[k].WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Minute)))
	})
	<-time.After(15 * time.Second) // what is written after a connection is, and what is garbage is collected
	after := status(t, h.gateway.Process.Pid, "VmRSS:")
	say(t, "agent of a gateway KB", (after-before)*1.024/float64(n))
	t.Logf("gateway: %v kB before, %v after", before, after)

	var echo, ours []float64
	var spent []float64
	for range 3 {
		echo = append(echo, c.echo(t))
		before := cpu(t, h.gateway.Process.Pid)
		ours = append(ours, c.command(t))
		spent = append(spent, (cpu(t, h.gateway.Process.Pid)-before)*1e6/float64(n))
	}
	say(t, "echo to all ms", echo...)
	say(t, "command to all ms", ours...)
	say(t, "gateway cpu of a command us", spent...)

	kill(h.gateway)
	c.close()
	var failed int64
	h.startGateway()
	say(t, "storm ms", took(func() { failed = c.connect(t) }))
	t.Logf("%d attempts failed while the gateway started", failed)
}

// cpu returns the seconds of processor time that a process has taken.
func cpu(t *testing.T, pid int) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	check(t, err)
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return float64(user+system) / 100 // USER_HZ
}

// command sends one command to all and returns when all results are in their files, in ms.
func (c *crowd) command(t *testing.T) float64 {
	var lost atomic.Int64
	defer func() {
		if n := lost.Load(); n > 0 {
			t.Errorf("%d agents were hung up on", n)
		}
	}()
	var wg sync.WaitGroup
	for _, ws := range c.conns {
		wg.Go(func() {
			for {
				_, msg, err := ws.ReadMessage()
				if err != nil {
					lost.Add(1)
					return
				}
				f, err := wire.Decode(msg)
				if err != nil {
					t.Error(err)
					return
				}
				switch f := f.(type) {
				case *wire.Request:
					r := &wire.Result{ID: f.ID, Steps: []wire.StepResult{{Outcome: wire.Success}}}
					out, err := wire.Append(nil, r)
					if err != nil || ws.WriteMessage(websocket.BinaryMessage, out) != nil {
						t.Error("reply")
					}
				case *wire.Done: // the result is in its file
					return
				}
			}
		})
	}
	id := cloud.CommandID("00000000-0000-4000-8000-" + fmt.Sprintf("%012x", time.Now().UnixNano()&0xffffffffffff))
	return took(func() {
		c.each(func(k int) {
			check(t, c.h.root.Instance(c.ids[k]).PutCommand(bundle.CommandRequest{CommandWish: cloud.CommandWish{
				Command: id, Instance: c.ids[k], DocumentName: "AWS-RunShellScript", Requested: time.Now(), DeliverBy: time.Now().Add(time.Hour),
				Steps: []cloud.Step{{Name: "runShellScript", Action: "aws:runShellScript", Script: strings.Repeat("x", 300), TimeoutSeconds: 60}},
			}}))
		})
		wg.Wait()
	})
}

// echo is the yardstick: a bare gorilla server of its own process sends a message to all that are connected, and all reply.
func (c *crowd) echo(t *testing.T) float64 {
	cmd := exec.Command(os.Args[0], "-test.run", "^TestEchoForMeasure$")
	cmd.Env = append(os.Environ(), "ICHIRO_ECHO="+strconv.Itoa(c.n))
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	defer func() { in.Close(); io.Copy(io.Discard, out); cmd.Wait() }()
	var url string
	_, err = fmt.Fscan(out, &url)
	check(t, err)
	conns := make([]*websocket.Conn, c.n)
	c.each(func(k int) {
		var err error
		if conns[k], err = dial(url, c.addr(k), nil); err != nil {
			t.Error(err)
		}
	})
	defer func() {
		for _, ws := range conns {
			ws.Close()
		}
	}()
	answer := make([]byte, reply)
	for _, ws := range conns {
		go func() {
			for {
				if _, _, err := ws.ReadMessage(); err != nil {
					return
				}
				if ws.WriteMessage(websocket.BinaryMessage, answer) != nil {
					return
				}
			}
		}()
	}
	var ms float64
	fmt.Fprintln(in, "go")
	_, err = fmt.Fscan(out, &ms)
	check(t, err)
	return ms
}

// TestEchoForMeasure is the yardstick's server, in a process of its own until its input ends.
func TestEchoForMeasure(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("ICHIRO_ECHO"))
	if err != nil {
		t.Skip("it is a part of TestMeasureCrowd")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	up := websocket.Upgrader{ReadBufferSize: 512, WriteBufferSize: 1024, WriteBufferPool: &sync.Pool{}}
	conns := make(chan *websocket.Conn, n)
	replies := make(chan struct{}, n)
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		conns <- ws
		go func() {
			for {
				if _, _, err := ws.ReadMessage(); err != nil {
					return
				}
				replies <- struct{}{}
			}
		}()
	}))
	fmt.Printf("ws://%s/\n", l.Addr())
	var word string
	fmt.Scan(&word)
	message := make([]byte, request)
	ms := took(func() {
		for range n {
			if ws := <-conns; ws.WriteMessage(websocket.BinaryMessage, message) != nil {
				t.Error("write")
			}
		}
		for range n {
			<-replies
		}
	})
	fmt.Println(ms)
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}
