package main_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/document"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// outcome is what a user sees of a command in a line: details, code, and the steps with theirs.
func outcome(inv cloud.Invocation) string {
	var steps []string
	for _, s := range inv.Steps {
		steps = append(steps, fmt.Sprintf("%s %s %d", s.Name, s.Details, s.ResponseCode))
	}
	return fmt.Sprintf("%s %d: %s", inv.Details, inv.ResponseCode, strings.Join(steps, ", "))
}

func TestWhatFollowsAStep(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startGateway()
	h.startAgent()
	last := cloud.Step{Script: "echo last", Finally: true}
	for _, tt := range []struct {
		name         string
		steps        []cloud.Step
		want, stdout string
	}{
		{"a failure goes on", []cloud.Step{{Script: "exit 2"}, {Script: "echo b"}}, "Failed 2: step0 Failed 2, step1 Success 0", "b\n"},
		{"onFailure exit", []cloud.Step{{Script: "exit 2", OnFailure: "exit"}, {Script: "echo b"}}, "Failed 2: step0 Failed 2", ""},
		{"onFailure successAndExit", []cloud.Step{{Script: "exit 2", OnFailure: "successAndExit"}, {Script: "echo b"}}, "Success 2: step0 Success 2", ""},
		{"onSuccess exit", []cloud.Step{{Script: "echo a", OnSuccess: "exit"}, {Script: "echo b"}}, "Success 0: step0 Success 0", "a\n"},
		{"finally after onFailure exit", []cloud.Step{{Script: "exit 2", OnFailure: "exit"}, {Script: "echo b"}, last},
			"Failed 2: step0 Failed 2, step2 Success 0", "last\n"},
		{"finally after 168", []cloud.Step{{Script: "exit 168"}, {Script: "echo b"}, last}, "Success 0: step0 Success 168, step2 Success 0", "last\n"},
		{"finally after 169", []cloud.Step{{Script: "exit 169"}, {Script: "echo b"}, last}, "Failed 169: step0 Failed 169, step2 Success 0", "last\n"},
		{"finally after a timeout", []cloud.Step{{Script: "sleep 100", TimeoutSeconds: 1}, last},
			"ExecutionTimedOut 137: step0 ExecutionTimedOut 137, step1 Success 0", "last\n"},
		{"a timeout goes on, as a failure does", []cloud.Step{{Script: "sleep 100", TimeoutSeconds: 1}, {Script: "echo b"}},
			"ExecutionTimedOut 137: step0 ExecutionTimedOut 137, step1 Success 0", "b\n"},
		{"onFailure exit after a timeout", []cloud.Step{{Script: "sleep 100", TimeoutSeconds: 1, OnFailure: "exit"}, {Script: "echo b"}},
			"ExecutionTimedOut 137: step0 ExecutionTimedOut 137", ""},
		{"onFailure successAndExit after a timeout", []cloud.Step{{Script: "sleep 100", TimeoutSeconds: 1, OnFailure: "successAndExit"}, {Script: "echo b"}},
			"Success 137: step0 Success 137", ""},
		{"a failure is worse than a timeout", []cloud.Step{{Script: "exit 2"}, {Script: "sleep 100", TimeoutSeconds: 1}},
			"Failed 2: step0 Failed 2, step1 ExecutionTimedOut 137", ""},
		{"finally that fails", []cloud.Step{{Script: "true"}, {Script: "exit 3", Finally: true}}, "Failed 3: step0 Success 0, step1 Failed 3", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := h.send("", steps(tt.steps...))
			inv := h.end(id)
			if got := outcome(inv); got != tt.want || h.output(id, wire.Stdout) != tt.stdout {
				t.Errorf("got %q and %q, want %q and %q", got, h.output(id, wire.Stdout), tt.want, tt.stdout)
			}
		})
	}
}

func TestWhoAndWithWhat(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startGateway()
	h.startAgent()
	for path := filepath.Dir(h.state); path != "/"; path = filepath.Dir(path) { // what lies above the state directory in a guest lets pass
		check(t, os.Chmod(path, 0o755|os.ModeSticky))
	}
	check(t, os.Chmod(h.state, 0o700)) // as the agent makes it where there is none
	for _, tt := range []struct {
		name         string
		step         cloud.Step
		stdout, part string
	}{
		{"a variable of the step", cloud.Step{Script: `echo "$SSM_x"`, Environment: map[string]string{"SSM_x": "$(id) 'y'"}}, "$(id) 'y'\n", ""},
		{"another user", cloud.Step{Script: "id -un; echo $HOME; touch mine && ls -l mine | cut -d' ' -f3", User: "nobody", WorkingDirectory: "."},
			"nobody\n/nonexistent\nnobody\n", ""},
		{"another user's own interpreter", cloud.Step{Script: "#!/bin/sh\nid -un", User: "nobody"}, "nobody\n", ""},
		{"no such user", cloud.Step{Script: "id", User: "nosuch"}, "", "there is no user nosuch"},
		{"umask", cloud.Step{Script: "umask", Umask: "027"}, "0027\n", ""},
		{"limits", cloud.Step{Script: "ulimit -n; ulimit -t; ulimit -v; ulimit -f", Limits: cloud.StepLimits{OpenFiles: 40, CPUSeconds: 7, MemoryMiB: 100, FileSizeMiB: 1}},
			"40\n7\n102400\n2048\n", ""},
		{"user, umask and limits", cloud.Step{Script: "id -un; umask; ulimit -n", User: "nobody", Umask: "077", Limits: cloud.StepLimits{OpenFiles: 50}},
			"nobody\n0077\n50\n", ""},
		{"a file that is too large", cloud.Step{Script: "head -c 3000000 /dev/zero >big; wc -c <big", WorkingDirectory: ".", Limits: cloud.StepLimits{FileSizeMiB: 1}}, "1048576\n", ""},
		{"a directory that is not there", cloud.Step{Script: "pwd", WorkingDirectory: "/nowhere"}, "", "the working directory /nowhere is not there"},
		{"a file for a directory", cloud.Step{Script: "pwd", WorkingDirectory: "/etc/passwd"}, "", "the working directory /etc/passwd is not one"},
		{"a directory of its own", cloud.Step{Script: "ls -A; basename $PWD", WorkingDirectory: "."}, "work\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := h.send("", steps(tt.step))
			inv := h.end(id)
			if got := h.output(id, wire.Stdout); got != tt.stdout || !strings.Contains(h.output(id, wire.Stderr), tt.part) {
				t.Errorf("got %q and %q, want %q and %q: %s", got, h.output(id, wire.Stderr), tt.stdout, tt.part, outcome(inv))
			}
		})
	}
}

// The servers are a web server, S3 and the metadata service, at one address. S3 takes what the stock client's signer
// would have sent.
func TestDownload(t *testing.T) {
	const script = "#!/bin/sh\necho hello $1\n"
	secret := aws.Credentials{AccessKeyID: "AKIA1", SecretAccessKey: "s3cr3t", SessionToken: "to/ken=="}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /run.sh", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, script) })
	mux.HandleFunc("GET /private/run.sh", func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "me" || p != "pw" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, script)
	})
	mux.HandleFunc("PUT /latest/api/token", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "T") })
	mux.HandleFunc("GET /latest/meta-data/", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("X-aws-ec2-metadata-token") != "T":
			http.Error(w, "no token", http.StatusUnauthorized)
		case strings.HasSuffix(r.URL.Path, "/security-credentials/"):
			fmt.Fprint(w, "role")
		case strings.HasSuffix(r.URL.Path, "/role"):
			fmt.Fprintf(w, `{"Code":"Success","AccessKeyId":%q,"SecretAccessKey":%q,"Token":%q}`, secret.AccessKeyID, secret.SecretAccessKey, secret.SessionToken)
		default:
			fmt.Fprint(w, "xx-1")
		}
	})
	mux.HandleFunc("GET /bucket/", func(w http.ResponseWriter, r *http.Request) {
		at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		again, _ := http.NewRequest(http.MethodGet, "http://"+r.Host+r.URL.RequestURI(), nil)
		hash := r.Header.Get("X-Amz-Content-Sha256")
		again.Header.Set("X-Amz-Content-Sha256", hash)
		signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
		if err == nil {
			err = signer.SignHTTP(r.Context(), secret, again, hash, "s3", "xx-1", at)
		}
		if err != nil || again.Header.Get("Authorization") != r.Header.Get("Authorization") {
			http.Error(w, "want "+again.Header.Get("Authorization")+" got "+r.Header.Get("Authorization"), http.StatusForbidden)
			return
		}
		fmt.Fprint(w, script)
	})
	mux.HandleFunc("GET /bucket/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/run.sh", http.StatusFound) })
	server := httptest.NewServer(mux)
	defer server.Close()
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.URL)
	h := newHost(t)
	h.startGateway()
	h.startAgent()
	sum := sha256.Sum256([]byte(script))
	good := hex.EncodeToString(sum[:])
	text, _, _ := document.Builtin("AWS-RunRemoteScript")
	doc, err := document.Parse([]byte(text))
	check(t, err)
	dir := t.TempDir()
	for _, tt := range []struct {
		name, kind, info string
		directory        string
		want, part       string // of stdout's last line, and stderr
	}{
		{"http", "HTTP", `{"url":"` + server.URL + `/run.sh","sha256":"` + good + `"}`, "", "hello you", ""},
		{"http with a password", "HTTP", `{"url":"` + server.URL + `/private/run.sh","authMethod":"Basic","username":"me","password":"pw"}`, "", "hello you", ""},
		{"http without the password", "HTTP", `{"url":"` + server.URL + `/private/run.sh"}`, "", "", "401 Unauthorized: who are you?"},
		{"another sum", "HTTP", `{"url":"` + server.URL + `/run.sh","sha256":"` + strings.Repeat("0", 64) + `"}`, dir, "", "the file has the SHA-256 " + good},
		{"S3", "S3", `{"path":"` + server.URL + `/bucket/run.sh"}`, "", "hello you", ""},
		{"S3 with a name that needs care", "S3", `{"path":"` + server.URL + `/bucket/a%20b%2Bc/run.sh?versionId=a/b+c"}`, "", "hello you", ""},
		{"S3 that sends elsewhere", "S3", `{"path":"` + server.URL + `/bucket/away"}`, "", "", "302 Found"},
		{"nobody there", "HTTP", `{"url":"http://127.0.0.1:1/run.sh"}`, "", "", "connection refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			filled, err := doc.Fill(map[string][]string{"sourceType": {tt.kind}, "sourceInfo": {tt.info}, "commandLine": {"run.sh you"}, "workingDirectory": {tt.directory}})
			check(t, err)
			id := h.send("", func(r *bundle.CommandRequest) { r.Steps = filled })
			inv := h.end(id)
			lines := strings.Split(strings.TrimSpace(h.output(id, wire.Stdout)), "\n")
			if got := lines[len(lines)-1]; got != tt.want || !strings.Contains(h.output(id, wire.Stderr), tt.part) {
				t.Errorf("got %q and %q, want %q and %q", got, h.output(id, wire.Stderr), tt.want, tt.part)
			}
			if ok := inv.Status == cloud.InvocationSuccess; ok != (tt.want != "") {
				t.Errorf("got %s", outcome(inv))
			}
		})
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("a download with another sum has left %v", left)
	}
}

func TestDocumentWithinACommand(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startGateway()
	h.startAgent()
	local := filepath.Join(t.TempDir(), "doc.yaml")
	check(t, os.WriteFile(local, []byte("schemaVersion: '2.2'\nparameters: {who: {type: String, interpolationType: ENV_VAR}}\n"+
		"mainSteps:\n- {action: 'aws:runShellScript', name: a, inputs: {runCommand: ['echo hi $SSM_who']}}\n"+
		"- {action: 'aws:runShellScript', name: b, onFailure: exit, inputs: {runCommand: ['exit 6']}}\n"+
		"- {action: 'aws:runShellScript', name: c, inputs: {runCommand: ['echo no']}}\n"), 0o644))
	for _, tt := range []struct {
		name               string
		doc                cloud.StepDocument
		want, stdout, part string
	}{
		{"a file of the guest", cloud.StepDocument{Path: local, Parameters: map[string][]string{"who": {"$(id)"}}}, "Failed 6: step0 Failed 6, step1 Success 0", "hi $(id)\nafter\n", ""},
		{"values that it does not take", cloud.StepDocument{Path: local}, "Failed 1: step0 Failed 1, step1 Success 0", "after\n", "has no default"},
		{"no such file", cloud.StepDocument{Path: "none.yaml"}, "Failed 1: step0 Failed 1, step1 Success 0", "after\n", "no such file"},
		{"steps", cloud.StepDocument{Steps: []cloud.Step{
			{Name: "a", Script: "echo one; exit 168", TimeoutSeconds: 60}, {Name: "b", Script: "echo two", TimeoutSeconds: 60}, {Name: "c", Script: "echo end", TimeoutSeconds: 60, Finally: true}}},
			"Success 0: step0 Success 0, step1 Success 0", "one\nend\nafter\n", ""},
		{"a step that takes too long", cloud.StepDocument{Steps: []cloud.Step{{Name: "a", Script: "sleep 100", TimeoutSeconds: 1}}},
			"Failed 137: step0 Failed 137, step1 Success 0", "after\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := h.send("", steps(cloud.Step{Document: &tt.doc}, cloud.Step{Script: "echo after"}))
			inv := h.end(id)
			if got := outcome(inv); got != tt.want || h.output(id, wire.Stdout) != tt.stdout || !strings.Contains(h.output(id, wire.Stderr), tt.part) {
				t.Errorf("got %q, %q and %q, want %q and %q", got, h.output(id, wire.Stdout), h.output(id, wire.Stderr), tt.want, tt.stdout)
			}
		})
	}
	t.Run("a step that takes too long goes with all that it started, and what was there before it stays", func(t *testing.T) {
		id := h.send("", steps(cloud.Step{Document: &cloud.StepDocument{Steps: []cloud.Step{
			{Name: "a", Script: "setsid sleep 1000 >/dev/null & echo $!", TimeoutSeconds: 60},
			{Name: "b", Script: "setsid sleep 1000 & echo $!; (setsid sh -c 'setsid sleep 1000 & echo $!; wait' &); sleep 1000", TimeoutSeconds: 1}}}}))
		h.end(id)
		pids := strings.Fields(h.output(id, wire.Stdout))
		if len(pids) != 3 {
			t.Fatalf("got %q", pids)
		}
		if err := unix.Kill(atoi(t, pids[0]), unix.SIGKILL); err != nil {
			t.Errorf("the step before: %v", err)
		}
		for _, pid := range pids[1:] {
			gone(t, pid)
		}
	})
	t.Run("cancelled with all that it started", func(t *testing.T) {
		id := h.send("", steps(cloud.Step{Document: &cloud.StepDocument{Steps: []cloud.Step{{Name: "a", Script: "setsid sleep 1000 & echo $!; sleep 1000 & echo $!; wait", TimeoutSeconds: 60}}}}))
		for h.wait(id, func(i cloud.Invocation) bool { return i.Status == cloud.InvocationInProgress }); strings.Count(h.output(id, wire.Stdout), "\n") < 2; {
			<-time.After(time.Millisecond)
		}
		check(t, h.dir.PutCommand(bundle.CommandRequest{CommandWish: cloud.CommandWish{Command: id, Cancel: true}}))
		if inv := h.end(id); inv.Status != cloud.InvocationCancelled {
			t.Errorf("got %s", outcome(inv))
		}
		own, err := os.ReadFile("/proc/self/mounts")
		check(t, err)
		pids := strings.Fields(h.output(id, wire.Stdout))
		if !strings.Contains(string(own), " cgroup2 ") {
			unix.Kill(atoi(t, pids[0]), unix.SIGKILL) // without control groups what has left its session stays
			pids = pids[1:]
		}
		for _, pid := range pids {
			gone(t, pid)
		}
	})
}

func atoi(t *testing.T, s string) int {
	n, err := strconv.Atoi(s)
	check(t, err)
	return n
}

// A step that ends with 194 runs again in the next boot, and only it; one that always does so is given up.
func TestReboot(t *testing.T) {
	t.Parallel()
	for _, nested := range []bool{false, true} {
		t.Run(fmt.Sprintf("in a document within it is %t", nested), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.startGateway()
			h.startAgent()
			side := filepath.Join(t.TempDir(), "side")
			list := []cloud.Step{
				{Script: "echo first >>" + side + "; echo one"},
				{Script: fmt.Sprintf("echo second >>%s; echo boot $(grep -c second %s); test $(grep -c second %s) = 3 || exit 194", side, side, side)},
				{Script: "echo third >>" + side + "; echo end"},
			}
			if nested {
				for n := range list {
					list[n].Name, list[n].TimeoutSeconds = fmt.Sprint("n", n), 60
				}
				list = []cloud.Step{{Document: &cloud.StepDocument{Steps: list}}}
			}
			id := h.send("", steps(list...))
			for range 2 {
				h.reboot()
			}
			inv := h.end(id)
			if want := "one\nboot 1\nboot 2\nboot 3\nend\n"; inv.Status != cloud.InvocationSuccess || h.output(id, wire.Stdout) != want {
				t.Errorf("got %s and %q, want %q", outcome(inv), h.output(id, wire.Stdout), want)
			}
			if got, _ := os.ReadFile(side); string(got) != "first\nsecond\nsecond\nsecond\nthird\n" {
				t.Errorf("ran %q", got)
			}
		})
	}
	t.Run("without an end", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		h.startGateway()
		h.startAgent()
		side := filepath.Join(t.TempDir(), "side")
		id := h.send("echo run >>" + side + "; exit 194")
		for range 15 {
			h.reboot()
		}
		inv := h.end(id)
		if got, _ := os.ReadFile(side); inv.Details != "Failed" || inv.ResponseCode != 194 || strings.Count(string(got), "run") != 16 {
			t.Errorf("got %s after %d runs, want it to fail after 16", outcome(inv), strings.Count(string(got), "run"))
		}
	})
	t.Run("an agent that is restarted before it comes", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		h.startGateway()
		h.startAgent()
		side := filepath.Join(t.TempDir(), "side")
		id := h.send("echo run >>" + side + "; test $(wc -l <" + side + ") = 2 || exit 194")
		h.asked()
		check(t, os.WriteFile(h.boot, []byte("first\n"), 0o644)) // it has not come yet
		kill(h.agent)
		h.startAgent()
		h.reboot()
		inv := h.end(id)
		if got, _ := os.ReadFile(side); inv.Status != cloud.InvocationSuccess || string(got) != "run\nrun\n" {
			t.Errorf("got %s, ran %q", outcome(inv), got)
		}
	})
}

// asked waits until a reboot is asked for.
func (h *host) asked() {
	h.t.Helper()
	name := filepath.Join(string(h.root), "reboot.asked")
	for deadline := time.Now().Add(10 * time.Second); os.Remove(name) != nil; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatal("nobody asks for a reboot")
		}
	}
}

// reboot waits until one is asked for, and does what it does to an agent.
func (h *host) reboot() {
	h.t.Helper()
	h.asked()
	kill(h.agent)
	h.startAgent()
}
