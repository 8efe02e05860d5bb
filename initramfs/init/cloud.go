package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/fetch"
	"github.com/ichiro-metal/ichiro/internal/userdata"
)

var imds = netip.AddrPortFrom(netip.AddrFrom4([4]byte{169, 254, 169, 254}), 80)

const (
	outputLog = "/var/log/cloud-init-output.log"
	instances = "/var/lib/cloud/instances"
	imdsWait  = 2 * time.Minute // cloud-init's own patience with EC2
)

// identity is what an instance learns about itself at boot.
type identity struct {
	instance, hostname, key string
	userData                []byte
}

// become makes this machine the instance that its metadata names.
func (m *machine) become(ctx context.Context) {
	id, err := learn(ctx)
	if err != nil {
		complain(err)
		m.report(userdata.Empty, -1, err)
		return
	}
	m.note("metadata read")
	if err := id.apply(); err != nil {
		complain(err)
	}
	go guard("aws config", func() { // a client takes longer to start than this
		if err := awsConfig(ctx, "/root"); err != nil {
			complain(err)
		}
	})
	part, err := userdata.Parse(id.userData)
	if err != nil {
		complain(err)
		m.report(userdata.Unknown, -1, err)
		return
	}
	switch {
	case part.Kind == userdata.Empty:
		say("user-data none")
		m.report(part.Kind, 0, nil)
	case !part.Kind.Handled():
		m.provision(part.Kind)
	default:
		m.once(id.instance, part)
	}
}

// provision has the agent carry out what is more than a script: what that takes is not linked into init, so that every
// launch without it is as quick as it was.
func (m *machine) provision(kind userdata.Kind) {
	rc, err := m.output([]string{agent, "provision", "-output", ""})
	if err != nil {
		err = fmt.Errorf("user data of kind %q needs %s: %w", string(kind), agent, err)
		complain(err)
		logLine("%v", err)
		m.report(kind, -1, err)
	}
	say("user-data finished rc=%d", rc)
}

// once runs a script if this instance has not run it before.
func (m *machine) once(instance string, part userdata.Part) {
	dir := filepath.Join(instances, instance)
	done := filepath.Join(dir, "sem", "config_scripts_user")
	if _, err := os.Stat(done); err == nil {
		say("user-data skipped (it ran before)")
		return
	}
	rc, err := m.script(dir, part.Body)
	if err != nil {
		complain(err)
		logLine("%v", err)
	}
	if err := os.MkdirAll(filepath.Dir(done), 0o755); err == nil {
		err = os.WriteFile(done, nil, 0o644)
		if err != nil {
			complain(err)
		}
	}
	say("user-data finished rc=%d", rc)
	logLine("ichiro: user-data finished rc=%d", rc)
	m.report(part.Kind, rc, err)
}

// script runs the script of an instance and returns its exit code.
func (m *machine) script(dir string, body []byte) (int, error) {
	body, err := userdata.Executable(body)
	if err != nil {
		return -1, err
	}
	path := filepath.Join(dir, "scripts", "part-001")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return -1, fmt.Errorf("store the script: %w", err)
	}
	if err := os.WriteFile(path, body, 0o700); err != nil {
		return -1, fmt.Errorf("store the script: %w", err)
	}
	os.Symlink(dir, "/var/lib/cloud/instance")
	return m.output([]string{path})
}

// output runs a program with its output to the log and the console, and returns its exit code.
func (m *machine) output(argv []string) (int, error) {
	out, err := newOutput(outputLog)
	if err != nil {
		return -1, err
	}
	_, ended, err := m.children.start(argv, &syscall.ProcAttr{
		Dir: "/", Env: environment, Files: []uintptr{devNull(), out.child, out.child},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	out.handedOver()
	if err != nil {
		return -1, fmt.Errorf("run user data: %w", err)
	}
	m.note("user-data started")
	go guard("script output", out.copy)
	rc := exitCode(<-ended)
	out.drain()
	return rc, nil
}

// report writes what cloud-init would write where it would write it: its own tools read it.
func (m *machine) report(kind userdata.Kind, rc int, err error) {
	list := ""
	if err != nil {
		list = quote(err.Error())
	} else if rc != 0 {
		list = quote(fmt.Sprintf("user-data script ended with exit code %d", rc))
	}
	text := fmt.Sprintf("{\n \"v1\": {\n  \"datasource\": \"DataSourceEc2\",\n  \"errors\": [%s],\n  \"user_data\": {\"kind\": %s, \"exit_code\": %d}\n }\n}\n",
		list, quote(string(kind)), rc)
	now := time.Now().Unix()
	status := fmt.Sprintf("{\n \"v1\": {\n  \"datasource\": \"DataSourceEc2\",\n  \"modules-final\": {\"errors\": [%s], \"finished\": %d, \"start\": %d},\n  \"stage\": null\n }\n}\n",
		list, now, now)
	os.MkdirAll("/run/cloud-init", 0o755)
	for _, f := range [][2]string{{"status.json", status}, {"result.json", text}} { // whoever waits waits for the result
		name := "/run/cloud-init/" + f[0]
		err := os.WriteFile(name+".tmp", []byte(f[1]), 0o644)
		if err == nil {
			err = os.Rename(name+".tmp", name)
		}
		if err != nil {
			complain(err)
		}
	}
}

// quote makes a JSON string of a sentence; what is not plain text becomes a question mark.
func quote(s string) string {
	return `"` + strings.Map(func(r rune) rune {
		switch {
		case r == '"':
			return '\''
		case r < ' ' || r > '~' || r == '\\':
			return '?'
		}
		return r
	}, s) + `"`
}

func logLine(format string, args ...any) {
	f, err := os.OpenFile(outputLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		complain(err)
		return
	}
	defer f.Close()
	fmt.Fprintf(f, format+"\n", args...)
}

// learn asks the metadata service, patiently while it is not there, once when it refuses.
func learn(ctx context.Context) (identity, error) {
	ctx, cancel := context.WithTimeout(ctx, imdsWait)
	defer cancel()
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		id, err := learnOnce(ctx)
		var refused refusal
		if err == nil || errors.As(err, &refused) && refused.status != 503 && refused.status != 429 {
			return id, err
		}
		select {
		case <-ctx.Done():
			return id, err
		case <-time.After(wait):
		}
	}
}

type refusal struct {
	path   string
	status int
}

func (r refusal) Error() string { return fmt.Sprintf("metadata %s: HTTP %d", r.path, r.status) }

func learnOnce(ctx context.Context) (identity, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c := fetch.Client{Server: imds}
	token, err := c.Do(ctx, fetch.Request{Method: "PUT", Path: "/latest/api/token",
		Header: map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": "300"}})
	if err != nil {
		return identity{}, err
	}
	if token[0].Status != 200 {
		return identity{}, refusal{"/latest/api/token", token[0].Status}
	}
	header := map[string]string{"X-aws-ec2-metadata-token": string(token[0].Body)}
	paths := []string{"/latest/meta-data/instance-id", "/latest/meta-data/hostname",
		"/latest/meta-data/public-keys/0/openssh-key", "/latest/user-data"}
	requests := make([]fetch.Request, len(paths))
	for i, p := range paths {
		requests[i] = fetch.Request{Method: "GET", Path: p, Header: header}
	}
	answers, err := c.Do(ctx, requests...)
	if err != nil {
		return identity{}, err
	}
	bodies := make([][]byte, len(paths))
	for i, a := range answers {
		switch {
		case a.Status == 200:
			bodies[i] = a.Body
		case a.Status == 404 && i > 0: // only the instance id must exist
		default:
			return identity{}, refusal{paths[i], a.Status}
		}
	}
	return identity{instance: safe(string(bodies[0])), hostname: safe(string(bodies[1])),
		key: strings.TrimSpace(string(bodies[2])), userData: bodies[3]}, nil
}

// safe keeps of a name what may stand in a path or a host name.
func safe(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' {
			return r
		}
		return -1
	}, s)
	return strings.TrimLeft(s, ".")
}

func (id identity) apply() error {
	var errs []error
	if id.hostname != "" {
		name := short(id.hostname)
		errs = append(errs, unix.Sethostname([]byte(name)),
			os.WriteFile("/etc/hostname", []byte(name+"\n"), 0o644),
			os.WriteFile("/etc/hosts", []byte("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 "+id.hostname+" "+name+"\n"), 0o644))
	}
	if id.key != "" {
		errs = append(errs, os.MkdirAll("/root/.ssh", 0o700),
			os.WriteFile("/root/.ssh/authorized_keys", []byte(id.key+"\n"), 0o600))
	}
	return errors.Join(errs...)
}
