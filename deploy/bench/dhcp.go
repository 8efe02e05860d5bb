package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// DHCP is measured as a relay sees it, by perfdhcp: our server and Kea stand in turns behind the same link, each alone.
// At 20,000 new exchanges a second nobody keeps up, and the rate is what is completed; at 4,000 both do, and what
// counts is the processor time of the server for each.
//
// perfdhcp is one process, needs more for an exchange than a good server does, and would be the limit. So in the flood
// it has a processor for itself, and the server shares another one with a process that does nothing but use its half.
const (
	dhcpRounds  = 3
	dhcpSeconds = 3
	dhcpFlood   = 20000
	dhcpEasy    = 4000
)

// dhcpLink is the link between the server's namespace and perfdhcp's.
type dhcpLink struct{ server, client string }

// leaser is a DHCP server that is running.
type leaser struct {
	cmd   *exec.Cmd
	input io.WriteCloser
	out   *bufio.Scanner
	idle  float64 // bytes, before it had a host
}

func (b *bench) dhcp(ctx context.Context) error {
	for _, p := range []string{"perfdhcp", "kea-dhcp4"} {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("%w: deploy/scripts/needs bench installs it", err)
		}
	}
	ours := filepath.Join(b.dir, "dhcp.test")
	if out, err := exec.CommandContext(ctx, "go", "test", "-c", "-tags", "net", "-o", ours, "./agent/dhcp").CombinedOutput(); err != nil {
		return fmt.Errorf("build our server: %w\n%s", err, out)
	}
	l := dhcpLink{fmt.Sprintf("ibs%d", os.Getpid()), fmt.Sprintf("ibc%d", os.Getpid())}
	defer l.remove()
	if err := l.make(ctx); err != nil {
		return err
	}
	start := map[string]func(clients int) (*leaser, error){
		"kea":  func(int) (*leaser, error) { return l.kea(ctx, b.dir) },
		"ours": func(clients int) (*leaser, error) { return l.ours(ctx, ours, clients) },
	}
	var resident []float64
	for _, clients := range []int{100, 4000} {
		rate, cost := map[string][]float64{}, map[string][]float64{}
		for range dhcpRounds {
			for _, who := range []string{"kea", "ours"} {
				s, err := start[who](clients)
				if err != nil {
					return fmt.Errorf("start %s: %w", who, err)
				}
				r, c, err := l.load(ctx, s, clients)
				if who == "ours" && clients == 4000 && err == nil {
					var rss float64
					rss, _, err = memory(s.cmd.Process.Pid)
					resident = append(resident, (rss-s.idle)/(1<<20))
				}
				s.stop()
				if err != nil {
					return fmt.Errorf("load %s: %w", who, err)
				}
				rate[who], cost[who] = append(rate[who], r), append(cost[who], c)
			}
		}
		b.compare(figure{
			Name: fmt.Sprintf("DHCP exchanges, %d clients", clients), Unit: "/s", Target: 1.2, Least: true, OursRaw: rate["ours"], RefRaw: rate["kea"],
			Note: "discover to ack by perfdhcp, which begins 20,000 a second and has a processor for itself; the server has half of another; reference Kea without a lease file",
		})
		b.compare(figure{
			Name: fmt.Sprintf("DHCP processor time of an exchange, %d clients", clients), Unit: "us", Target: 0.6, OursRaw: cost["ours"], RefRaw: cost["kea"],
			Note: "user and system time of the server at 4,000 exchanges a second",
		})
	}
	b.bound(figure{
		Name: "DHCP memory for 4,000 clients", Unit: "MB", Target: 20, OursRaw: resident,
		Note: "resident after a flood, over the same process before it had a host",
	})
	return nil
}

// load returns the completed exchanges a second of a flood, and the processor time of one, in microseconds, at ease.
func (l dhcpLink) load(ctx context.Context, s *leaser, clients int) (rate, cost float64, err error) {
	if _, _, err := l.perfdhcp(ctx, dhcpEasy, clients, 1); err != nil { // warm
		return 0, 0, err
	}
	before, err := cpu(s.cmd.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	_, done, err := l.perfdhcp(ctx, dhcpEasy, clients, dhcpSeconds)
	if err != nil {
		return 0, 0, err
	}
	after, err := cpu(s.cmd.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	busy, err := halve(ctx, s.cmd.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	defer busy()
	rate, _, err = l.perfdhcp(ctx, dhcpFlood, clients, dhcpSeconds)
	return rate, (after - before).Seconds() * 1e6 / done, err
}

// halve leaves a process half of the first processor, until the function that it returns is called.
func halve(ctx context.Context, pid int) (func(), error) {
	if out, err := exec.CommandContext(ctx, "taskset", "-a", "-c", "-p", "0", strconv.Itoa(pid)).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("keep the server on one of at least two processors: %w: %s", err, out)
	}
	busy := exec.CommandContext(ctx, "taskset", "-c", "0", "sh", "-c", "while :; do :; done")
	if err := busy.Start(); err != nil {
		return nil, err
	}
	return func() { _ = busy.Process.Kill(); _ = busy.Wait() }, nil
}

var (
	dhcpRate = regexp.MustCompile(`Rate: ([0-9.]+) 4-way exchanges/second`)
	dhcpDone = regexp.MustCompile(`(?s)REQUEST-ACK.*?received packets: ([0-9]+)`)
)

// perfdhcp begins exchanges for some seconds; its exit code only says that not all were completed.
func (l dhcpLink) perfdhcp(ctx context.Context, rate, clients, seconds int) (perSecond, done float64, err error) {
	out, err := exec.CommandContext(ctx, "taskset", "-c", "1", "ip", "netns", "exec", l.client, "perfdhcp", "-4", "-r", strconv.Itoa(rate), "-R", strconv.Itoa(clients),
		"-p", strconv.Itoa(seconds), "-l", "load", "10.64.0.2").CombinedOutput()
	r, d := dhcpRate.FindSubmatch(out), dhcpDone.FindSubmatch(out)
	if r == nil || d == nil {
		return 0, 0, fmt.Errorf("perfdhcp says no rate: %v\n%s", err, out)
	}
	perSecond, _ = strconv.ParseFloat(string(r[1]), 64)
	if done, _ = strconv.ParseFloat(string(d[1]), 64); done == 0 {
		return 0, 0, fmt.Errorf("perfdhcp completed no exchange:\n%s", out)
	}
	return perSecond, done, nil
}

func (l dhcpLink) make(ctx context.Context) error {
	for _, c := range []string{
		"netns add " + l.server, "netns add " + l.client,
		"-n " + l.server + " link add relay type veth peer name load netns " + l.client,
		"-n " + l.server + " addr add 10.64.0.2/16 dev relay", "-n " + l.client + " addr add 10.64.0.1/16 dev load",
		"-n " + l.server + " link set relay up", "-n " + l.client + " link set load up",
		"-n " + l.server + " link set lo up",
	} {
		if out, err := exec.CommandContext(ctx, "ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", c, err, out)
		}
	}
	return nil
}

func (l dhcpLink) remove() {
	for _, n := range []string{l.server, l.client} {
		_ = exec.Command("ip", "netns", "del", n).Run()
	}
}

// ours starts the test binary of agent/dhcp as a server of that many hosts.
func (l dhcpLink) ours(ctx context.Context, binary string, clients int) (*leaser, error) {
	s := &leaser{cmd: exec.CommandContext(ctx, "ip", "netns", "exec", l.server, binary)}
	s.cmd.Env = append(os.Environ(), fmt.Sprintf("ICHIRO_DHCP_RELAYED=%d", clients))
	if err := s.start(); err != nil {
		return nil, err
	}
	err := s.await("idle")
	if err == nil {
		s.idle, _, err = memory(s.cmd.Process.Pid)
	}
	if err == nil {
		_, err = io.WriteString(s.input, "serve\n")
	}
	if err == nil {
		err = s.await("map[")
	}
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// kea starts Kea with as many threads as it gives itself, and without a lease file.
func (l dhcpLink) kea(ctx context.Context, dir string) (*leaser, error) {
	type object = map[string]any
	config, err := json.Marshal(object{"Dhcp4": object{
		"interfaces-config":      object{"interfaces": []string{"relay"}},
		"lease-database":         object{"type": "memfile", "persist": false},
		"valid-lifetime":         3600,
		"reservations-in-subnet": false,
		"multi-threading":        object{"enable-multi-threading": true, "thread-pool-size": 2, "packet-queue-size": 64},
		"subnet4":                []object{{"subnet": "10.64.0.0/16", "pools": []object{{"pool": "10.64.1.0-10.64.127.255"}}}},
		"option-data":            []object{{"name": "routers", "data": "10.64.0.2"}, {"name": "domain-name-servers", "data": "10.64.0.2"}},
		"loggers": []object{ // a line for each lease would be most of its work
			{"name": "kea-dhcp4", "severity": "WARN", "output_options": []object{{"output": "stdout"}}},
			{"name": "kea-dhcp4.dhcp4", "severity": "INFO", "output_options": []object{{"output": "stdout"}}},
		},
	}})
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "kea.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, err
	}
	s := &leaser{cmd: exec.CommandContext(ctx, "ip", "netns", "exec", l.server, "kea-dhcp4", "-c", file)}
	s.cmd.Env = append(os.Environ(), "KEA_LOCKFILE_DIR="+dir, "KEA_PIDFILE_DIR="+dir, "KEA_LOGGER_DESTINATION=stdout")
	if err := s.start(); err != nil {
		return nil, err
	}
	if err := s.await("DHCP4_STARTED"); err != nil {
		s.stop()
		return nil, err
	}
	go func() { // or it stands still when the pipe is full
		for s.out.Scan() {
		}
	}()
	return s, nil
}

func (s *leaser) start() (err error) {
	if s.input, err = s.cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	s.cmd.Stderr = s.cmd.Stdout
	s.out = bufio.NewScanner(out)
	return s.cmd.Start()
}

// await reads what the server prints until a line has a word.
func (s *leaser) await(word string) error {
	var said bytes.Buffer
	for s.out.Scan() {
		if strings.Contains(s.out.Text(), word) {
			return nil
		}
		fmt.Fprintln(&said, s.out.Text())
	}
	return errors.Join(fmt.Errorf("it ended without saying %s:\n%s", word, said.String()), s.out.Err())
}

func (s *leaser) stop() {
	s.input.Close()
	_ = s.cmd.Process.Signal(os.Interrupt)
	slow := time.AfterFunc(5*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer slow.Stop()
	_ = s.cmd.Wait()
}
