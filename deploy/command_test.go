package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/door"
	"github.com/ichiro-metal/ichiro/internal/service"
)

// serveDoor is the host's side of the door as far as a follower asks: the agent's own lies in another building.
func serveDoor(t *testing.T, root bundle.Root) {
	mux := http.NewServeMux()
	mux.HandleFunc(door.StatePath, func(w http.ResponseWriter, r *http.Request) {
		dir, id := root.Instance(cloud.InstanceID(r.PathValue("instance"))), cloud.CommandID(r.PathValue("command"))
		inv, err := dir.Invocation(id)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		json.NewEncoder(w).Encode(inv)
	})
	mux.HandleFunc(door.OutputPath, func(w http.ResponseWriter, r *http.Request) {
		dir, id := root.Instance(cloud.InstanceID(r.PathValue("instance"))), cloud.CommandID(r.PathValue("command"))
		data, _ := os.ReadFile(dir.CommandOutput(id, r.PathValue("stream")))
		at, _ := strconv.Atoi(r.URL.Query().Get("offset"))
		most, _ := strconv.Atoi(r.URL.Query().Get("limit"))
		data = data[min(at, len(data)):]
		w.Write(data[:min(most, len(data))])
	})
	l, err := net.Listen("unix", root.Door())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
}

func TestFollowACommand(t *testing.T) {
	run, err := os.MkdirTemp("", "f-") // t.TempDir's names are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	const id, other = cloud.InstanceID("i-0123456789abcdef0"), cloud.InstanceID("i-0123456789abcdef1")
	const cmd = cloud.CommandID("00000000-0000-4000-8000-000000000001")
	root := bundle.Root(run)
	for _, i := range []cloud.InstanceID{id, other} {
		if err := os.MkdirAll(root.Instance(i).Path("commands"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir := root.Instance(id)
	ctx := t.Context()
	t.Cleanup(func() { os.RemoveAll(run) })
	serveDoor(t, root)
	if err := dir.PutCommand(bundle.CommandRequest{CommandWish: cloud.CommandWish{Command: cmd, Instance: id}}); err != nil {
		t.Fatal(err)
	}
	if got, err := whose(root, cmd); err != nil || got != id {
		t.Errorf("got %s, %v, want %s", got, err, id)
	}
	const machine, its = cloud.InstanceID("mi-0123456789abcdef0"), cloud.CommandID("00000000-0000-4000-8000-000000000002")
	if err := os.MkdirAll(root.Instance(machine).Path("commands"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := root.Instance(machine).PutCommand(bundle.CommandRequest{CommandWish: cloud.CommandWish{Command: its, Instance: machine}}); err != nil {
		t.Fatal(err)
	}
	if got, err := whose(root, its); err != nil || got != machine {
		t.Errorf("of a machine that is no guest: got %s, %v, want %s", got, err, machine)
	}
	state := func(s cloud.InvocationStatus, details string, code int, stdout int64) {
		inv := cloud.Invocation{Command: cmd, Instance: id, Status: s, Details: details, ResponseCode: code, StdoutBytes: stdout}
		if err := bundle.Write(dir.Path("commands", string(cmd)+".json"), inv, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("0123456789abcde\n", 40_000) // five pages
	shown := &sink{heard: make(chan struct{}, 1)}
	var errs bytes.Buffer
	f := follower{host: cloud.Host{Door: "unix:" + root.Door()}, instance: id, id: cmd, out: shown, err: &errs}
	state(cloud.InvocationInProgress, "InProgress", -1, 0)
	if err := os.WriteFile(dir.CommandOutput(cmd, "stdout"), []byte("begun\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.follow(ctx) }()
	<-shown.heard // while it runs
	if got := shown.String(); got != "begun\n" {
		t.Errorf("got %q of a command that runs", got)
	}
	out, err := os.OpenFile(dir.CommandOutput(cmd, "stdout"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(out, long)
	out.Close()
	if err := os.WriteFile(dir.CommandOutput(cmd, "stderr"), []byte("oh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	state(cloud.InvocationFailed, "Failed", 7, int64(len(long)+len("begun\n")+100))
	var code exitCode
	if err := <-done; !errors.As(err, &code) || code != 7 {
		t.Errorf("got %v, want the code 7", err)
	}
	if got := shown.String(); got != "begun\n"+long {
		t.Errorf("got %d bytes, want all %d", len(got), len(long)+6)
	}
	if got := errs.String(); got != "oh\nichiro: 100 bytes of stdout were not kept\n" {
		t.Errorf("got %q on stderr", got)
	}
	state(cloud.InvocationTimedOut, "ExecutionTimedOut", 137, 0)
	if err := f.follow(ctx); err == nil || !strings.Contains(err.Error(), "ExecutionTimedOut") {
		t.Errorf("got %v, want the reason", err)
	}
	f.instance = other
	if err := f.follow(ctx); err == nil || !strings.Contains(err.Error(), "not sent") {
		t.Errorf("got %v for another instance", err)
	}
}

// sink tells of the first thing that is shown.
type sink struct {
	mu    sync.Mutex
	b     strings.Builder
	heard chan struct{}
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p) > 0 {
		select {
		case s.heard <- struct{}{}:
		default:
		}
	}
	return s.b.Write(p)
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestFollowRefusesWhatIsNoCommand(t *testing.T) {
	for _, words := range []string{"command", "command follow", "command follow ../x", "command stop 00000000-0000-4000-8000-000000000001",
		"command follow 00000000-0000-4000-8000-000000000001 ../../etc"} {
		err := run(t.Context(), append(strings.Fields(words), "--run", t.TempDir(), "--state", t.TempDir()), slog.New(slog.DiscardHandler))
		if u := (service.Usage{}); !errors.As(err, &u) {
			t.Errorf("%s: got %v, want a refusal", words, err)
		}
	}
}
