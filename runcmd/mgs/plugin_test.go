package mgs_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// These tests have the stock session-manager-plugin, as it is, at the other end: see the tests of runcmd.

// plugin starts it for a session, as the AWS CLI does, and returns its terminal's two directions.
func (s *site) plugin(plan cloud.SessionPlan) (id string, in io.WriteCloser, out *bufio.Reader, wait func() error) {
	s.t.Helper()
	path := os.Getenv("ICHIRO_SESSION_PLUGIN")
	if path == "" {
		s.t.Skip("ICHIRO_SESSION_PLUGIN names no session-manager-plugin")
	}
	id, cfg := s.begin(plan)
	answer, err := json.Marshal(map[string]string{"SessionId": id, "TokenValue": cfg.Token, "StreamUrl": cfg.URL})
	check(s.t, err)
	cmd := exec.CommandContext(s.t.Context(), path, string(answer), "ichiro-1", "StartSession", "", `{"Target":"`+string(mine)+`"}`, "http://127.0.0.1:1")
	tmp, err := os.MkdirTemp("", "p") // for its socket, whose path is to be short
	check(s.t, err)
	s.t.Cleanup(func() { os.RemoveAll(tmp) })
	cmd.Env = append(os.Environ(), "SSM_PLUGIN_SKIP_CLIENT_CONFIGURE=true", "HOME="+s.t.TempDir(), "TMPDIR="+tmp)
	in, err = cmd.StdinPipe()
	check(s.t, err)
	pipe, err := cmd.StdoutPipe()
	check(s.t, err)
	cmd.Stderr = s.t.Output()
	check(s.t, cmd.Start())
	late := time.AfterFunc(45*time.Second, func() { cmd.Process.Kill() })
	wait = sync.OnceValue(func() error { defer late.Stop(); return cmd.Wait() })
	s.t.Cleanup(func() { cmd.Process.Kill(); wait() })
	return id, in, bufio.NewReader(pipe), wait
}

func TestStockPluginHasAShellOfTheStockAgent(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.stockAgent()
	id, in, out, wait := s.plugin(cloud.SessionPlan{Kind: cloud.SessionShell, Idle: time.Minute})
	var said strings.Builder
	for !strings.Contains(said.String(), "$ ") {
		b, err := out.ReadByte()
		check(t, err)
		said.WriteByte(b)
	}
	io.WriteString(in, "seq 1 2000; echo sum=$((40+2)); exit\n")
	io.Copy(&said, out) // until it exits: without a word of the end it would not
	check(t, wait())
	if text := said.String(); !strings.Contains(text, "\n2000\r\nsum=42\r\n") {
		t.Errorf("the plugin showed\n%s", text[max(0, len(text)-2000):])
	}
	if rec := s.record(id); rec.End.Reason != "exit" {
		t.Errorf("got %+v", rec)
	}
	s.await("the end is acknowledged", func() bool { return a.count(a.acked, id) > 0 })
}

func TestStockPluginRunsACommandByTheStockAgent(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.stockAgent()
	for _, kind := range []cloud.SessionKind{cloud.SessionCommand, cloud.SessionBatch} {
		_, _, out, wait := s.plugin(cloud.SessionPlan{Kind: kind, Command: "echo it-$((6*7)) runs", Idle: time.Minute})
		said, err := io.ReadAll(out)
		check(t, err)
		check(t, wait())
		if !strings.Contains(string(said), "it-42 runs") {
			t.Errorf("%s: the plugin showed\n%s", kind, said)
		}
	}
}

var opened = regexp.MustCompile(`Port (\d+) opened`)

func TestStockPluginForwardsAPortOfTheStockAgent(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a := s.stockAgent()
	block := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{1}).Read(block)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); c.Write(block) }()
		}
	}()
	id, _, out, _ := s.plugin(cloud.SessionPlan{Kind: cloud.SessionPort, Host: "db.internal.example", Port: l.Addr().(*net.TCPAddr).Port, Idle: time.Minute})
	var local, said string
	for local == "" {
		line, err := out.ReadString('\n')
		if m := opened.FindStringSubmatch(line); m != nil {
			local = "127.0.0.1:" + m[1]
			break
		}
		if err != nil {
			t.Fatalf("the plugin has ended: %v; it said %q", err, said+line)
		}
		said += line
	}
	go io.Copy(io.Discard, out)
	if p := a.session(id).asked.DocumentContent.Properties; p.Host != "db.internal.example" || p.Type != "LocalPortForwarding" {
		t.Errorf("the agent was asked for %+v", p)
	}
	done := make(chan error)
	for range 3 {
		go func() {
			c, err := net.Dial("tcp", local)
			if err != nil {
				done <- err
				return
			}
			defer c.Close()
			got := sha256.New()
			n, err := io.Copy(got, c)
			if err == nil && [32]byte(got.Sum(nil)) != sha256.Sum256(block) {
				err = fmt.Errorf("got %d bytes, not those that were sent", n)
			}
			done <- err
		}()
	}
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
