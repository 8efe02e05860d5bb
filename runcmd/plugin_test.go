package main_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// These tests run the stock session-manager-plugin 1.3.0.0, as it is, against our gateway and agent. It is not ours to
// keep here: ICHIRO_SESSION_PLUGIN names one, and docs/operations.md says how it is built.

func plugin(t testing.TB) string {
	path := os.Getenv("ICHIRO_SESSION_PLUGIN")
	if path == "" {
		t.Skip("ICHIRO_SESSION_PLUGIN names no session-manager-plugin")
	}
	return path
}

// stock starts the plugin for a session, as the AWS CLI does.
func (h *sessionHost) stock(plan cloud.SessionPlan) (*exec.Cmd, cloud.SessionID) {
	h.t.Helper()
	id, cfg := h.begin(plan)
	answer, err := json.Marshal(map[string]string{"SessionId": string(id), "TokenValue": cfg.Token, "StreamUrl": cfg.URL})
	check(h.t, err)
	cmd := exec.Command(plugin(h.t), string(answer), "ichiro-1", "StartSession", "", `{"Target":"`+string(instance)+`"}`, "http://127.0.0.1:1")
	cmd.Env = append(os.Environ(), "SSM_PLUGIN_SKIP_CLIENT_CONFIGURE=true", "HOME="+h.t.TempDir(), "TMPDIR="+string(h.root))
	cmd.Stderr = h.log
	return cmd, id
}

func TestStockPluginHasAShell(t *testing.T) {
	t.Parallel()
	plugin(t)
	h := newSessionHost(t)
	cmd, id := h.stock(cloud.SessionPlan{Kind: cloud.SessionShell})
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill() })
	guard := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	defer guard.Stop()
	var said bytes.Buffer
	buf := make([]byte, 4096)
	sent := false
	for {
		n, err := out.Read(buf)
		said.Write(buf[:n])
		if !sent && strings.Contains(said.String(), "$ ") || !sent && strings.Contains(said.String(), "# ") {
			sent = true
			io.WriteString(in, "seq 1 2000; echo sum=$((40+2)); exit 7\n")
		}
		if err != nil {
			break
		}
	}
	cmd.Wait()
	text := said.String()
	if !strings.Contains(text, "sum=42") || !strings.Contains(text, "\n2000\r\n") || !strings.Contains(text, "exit code 7") {
		t.Errorf("the plugin showed\n%s", text[max(0, len(text)-2000):])
	}
	if end := h.record(id); end.Reason != "exit" || end.Code != 7 {
		t.Errorf("got the record %+v", end)
	}
}

var opened = regexp.MustCompile(`Port (\d+) opened`)

// forwarded starts the plugin for a port, and returns the local address.
func (h *sessionHost) forwarded(port int) string {
	h.t.Helper()
	cmd, _ := h.stock(cloud.SessionPlan{Kind: cloud.SessionPort, Port: port})
	out, err := cmd.StdoutPipe()
	check(h.t, err)
	check(h.t, cmd.Start())
	h.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() })
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if m := opened.FindStringSubmatch(line); m != nil {
			go io.Copy(io.Discard, lines)
			return "127.0.0.1:" + m[1]
		}
		check(h.t, err)
	}
}

// source serves pseudo-random bytes to whoever connects; what it is sent it reads and answers with its digest.
func source(t testing.TB, size int64) (port int, digest [32]byte) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { l.Close() })
	block := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(block)
	hash := sha256.New()
	for range size >> 20 {
		hash.Write(block)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for range size >> 20 {
					if _, err := c.Write(block); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port, [32]byte(hash.Sum(nil))
}

// The plugin goes on where it was, which a gateway that was started again does not know: it is told so, and does not hang.
func TestStockPluginIsToldThatItsGatewayIsGone(t *testing.T) {
	t.Parallel()
	plugin(t)
	h := newSessionHost(t)
	cmd, id := h.stock(cloud.SessionPlan{Kind: cloud.SessionShell})
	resume := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // ResumeSession, whatever is asked for
		json.NewEncoder(w).Encode(map[string]string{"SessionId": string(id), "TokenValue": h.resume(string(id)), "StreamUrl": h.url + string(id)})
	}))
	defer resume.Close()
	cmd.Args[len(cmd.Args)-1] = resume.URL
	cmd.Env = append(cmd.Env, "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b")
	in, err := cmd.StdinPipe()
	check(t, err)
	defer in.Close()
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill() })
	defer time.AfterFunc(time.Minute, func() { cmd.Process.Kill() }).Stop()
	var said bytes.Buffer
	buf := make([]byte, 4096)
	killed := false
	for {
		n, err := out.Read(buf)
		said.Write(buf[:n])
		if !killed && (strings.Contains(said.String(), "$ ") || strings.Contains(said.String(), "# ")) {
			killed = true
			kill(h.gateway)
			h.startGateway("--sessions", h.records)
		}
		if err != nil {
			break
		}
	}
	if cmd.Wait(); !strings.Contains(said.String(), "ichiro shell --resume "+string(id)) {
		t.Errorf("the plugin showed\n%s", &said)
	}
}

func TestStockPluginForwardsAPort(t *testing.T) {
	t.Parallel()
	plugin(t)
	h := newSessionHost(t)
	port, want := source(t, 32<<20)
	local := h.forwarded(port)
	done := make(chan error, 3)
	for range 3 { // at once: they share the session
		go func() {
			c, err := net.Dial("tcp", local)
			if err != nil {
				done <- err
				return
			}
			defer c.Close()
			hash := sha256.New()
			if n, err := io.Copy(hash, c); err != nil || n != 32<<20 || [32]byte(hash.Sum(nil)) != want {
				err = fmt.Errorf("got %d bytes, not those that were sent: %v", n, err)
				done <- err
				return
			}
			done <- nil
		}()
	}
	for range 3 {
		check(t, <-done)
	}
}

// BenchmarkStockPluginDownload is the figure of a port forwarded by the stock plugin.
func BenchmarkStockPluginDownload(b *testing.B) {
	plugin(b)
	const size = 128 << 20
	h := newSessionHost(b)
	port, _ := source(b, size)
	local := h.forwarded(port)
	b.SetBytes(size)
	for b.Loop() {
		c, err := net.Dial("tcp", local)
		check(b, err)
		n, err := io.Copy(io.Discard, c)
		if c.Close(); err != nil || n != size {
			b.Fatalf("got %d bytes, %v", n, err)
		}
	}
}
