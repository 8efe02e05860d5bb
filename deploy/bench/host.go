package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/shim"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// host is a running `ichiro up`.
type host struct {
	state, run string
	cmd        *exec.Cmd
	ended      chan struct{}
	took       time.Duration // from the start of `ichiro up` to its ready file
	config     aws.Config
	ec2        *ec2.Client
	ssm        *ssm.Client
}

// tick is how often files are looked at that something is waited for in: a thousandth of what is measured.
const tick = time.Millisecond

// until polls for something true. Its errors are the condition's, the context's, and that of a host
// which ended.
func until(ctx context.Context, h *host, every time.Duration, true func() (bool, error)) error {
	t := time.NewTicker(every)
	defer t.Stop()
	var ended chan struct{}
	if h != nil {
		ended = h.ended
	}
	for {
		if ok, err := true(); ok || err != nil {
			return err
		}
		select {
		case <-t.C:
		case <-ended:
			return fmt.Errorf("the host ended: see %s", h.logFile())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (h *host) logFile() string { return h.state + ".log" }

// up starts a host on a state directory, which may be empty, and returns when it is ready.
func (b *bench) up(ctx context.Context, name string) (*host, error) {
	h := &host{state: filepath.Join(b.dir, name), run: b.runDir, ended: make(chan struct{})}
	ready := filepath.Join(b.dir, "ready")
	log, err := os.OpenFile(h.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	h.cmd = exec.Command(filepath.Join(b.bin, "ichiro"), "up",
		"--state", h.state, "--run", h.run, "--listen", "127.0.0.1:0", "--ready", ready)
	h.cmd.Stdout, h.cmd.Stderr = log, log
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C at the terminal is ours to act on
	began := time.Now()
	if err := h.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { h.cmd.Wait(); close(h.ended) }()
	b.host = h
	var exports []byte
	err = until(ctx, h, tick, func() (bool, error) {
		exports, err = os.ReadFile(ready)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return true, err
	})
	h.took = time.Since(began)
	if err != nil {
		return nil, fmt.Errorf("bring a host up: %w", err)
	}
	h.connect(exports)
	return h, nil
}

// connect makes the stock clients from the lines for a shell that `ichiro up` writes.
func (h *host) connect(exports []byte) {
	env := map[string]string{}
	for line := range strings.Lines(string(exports)) {
		if k, v, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "="); ok {
			env[k] = v
		}
	}
	h.config = aws.Config{
		BaseEndpoint: aws.String(env["AWS_ENDPOINT_URL"]), Region: env["AWS_DEFAULT_REGION"],
		Credentials: credentials.NewStaticCredentialsProvider(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], ""),
		HTTPClient:  &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}},
	}
	h.ec2, h.ssm = ec2.NewFromConfig(h.config), ssm.NewFromConfig(h.config)
}

// running returns the host that is up, and brings one up if there is none.
func (b *bench) running(ctx context.Context) (*host, error) {
	if b.host != nil {
		return b.host, nil
	}
	return b.up(ctx, "s")
}

// stop takes the host down with everything that it runs. Its state stays.
func (b *bench) stop(ctx context.Context) error {
	h := b.host
	if h == nil {
		return nil
	}
	b.host = nil
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "ichiro"), "down", "--state", h.state, "--run", h.run)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("take the host down: %w\n%s", err, out)
	}
	<-h.ended
	return nil
}

// image waits until the small image is registered and returns its ID.
func (h *host) image(ctx context.Context) (id string, err error) {
	err = until(ctx, h, 50*time.Millisecond, func() (bool, error) {
		out, err := h.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{Owners: []string{"self"}})
		if err != nil {
			return false, err
		}
		for _, i := range out.Images {
			if aws.ToString(i.Name) == "ichiro-micro" {
				id = aws.ToString(i.ImageId)
			}
		}
		return id != "", nil
	})
	return id, err
}

// store opens the store behind the API.
func (h *host) store(ctx context.Context) (*store.Client, error) {
	return store.Open(ctx, store.Config{Endpoints: []string{"unix://" + bundle.Root(h.run).Etcd()}})
}

// daemons returns the process numbers of the supervisor and of all that it supervises.
func (h *host) daemons() (map[string]int, error) {
	pids := map[string]int{"ichiro": h.cmd.Process.Pid}
	files, err := filepath.Glob(filepath.Join(h.run, "daemons", "*.json"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		p, err := bundle.Read[shim.Process](f)
		if err != nil {
			return nil, err
		}
		pids[strings.TrimSuffix(filepath.Base(f), ".json")] = p.PID
	}
	if len(pids) != 6 {
		return nil, fmt.Errorf("%d daemons are recorded in %s, want 5", len(pids)-1, h.run)
	}
	return pids, nil
}

// used returns the processor time of each daemon since its start.
func (h *host) used() (map[string]time.Duration, error) {
	pids, err := h.daemons()
	if err != nil {
		return nil, err
	}
	used := make(map[string]time.Duration, len(pids))
	for name, pid := range pids {
		if used[name], err = cpu(pid); err != nil {
			return nil, err
		}
	}
	return used, nil
}

// memory returns the resident and the proportional memory of a process, in bytes.
func memory(pid int) (rss, pss float64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, 0, err
	}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "Rss:":
			rss = kib * 1024
		case "Pss:":
			pss = kib * 1024
		}
	}
	return rss, pss, nil
}

// cpu returns the processor time that a process has used; the kernel counts it in ticks of 10 ms.
func cpu(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(data, []byte(") "))
	f := strings.Fields(string(rest))
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat is short", pid)
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond, nil
}
