//go:build net

package server

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/imds/tree"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// What is measured is asked from a guest's namespace, through the rules that the agent makes (one of its golden files, with
// more senders in it). Only the rate at which an interface may ask is lifted: it is 1,024 packets a second, and would be
// all that is measured. Servers are processes of their own and take turns. Each request has a connection of its own, as EC2's clients do it.
const (
	measuredGuests = 1000
	measuredAtOnce = 16
	measuredRounds = 7
	measuredAsks   = 3000 // in a round
)

// The addresses at which the rules let guests ask; the mock's is added.
const (
	oursAt = "169.254.169.254:80"
	bareAt = "169.254.169.254:8774"
	mockAt = "169.254.169.254:1338"
)

func guestAddr(k int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, byte(1 + k/250), byte(1 + k%250)})
}

// TestServeForMeasure is a server for the measurements, in a process of its own, until its input ends.
func TestServeForMeasure(t *testing.T) {
	which, dir, _ := strings.Cut(os.Getenv("ICHIRO_SERVE"), ":")
	if which == "" {
		t.Skip("it is started by the measurements")
	}
	switch which {
	case "bare":
		l, err := net.Listen("tcp4", bareAt)
		if err != nil {
			t.Fatal(err)
		}
		go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
			io.WriteString(w, string(testID))
		}))
	case "ours":
		tokens, err := OpenTokens(filepath.Join(dir, "key"))
		if err != nil {
			t.Fatal(err)
		}
		s := New(bundle.NewIndex(bundle.Root(dir)), tree.EC2(), tokens, slog.New(slog.DiscardHandler))
		s.Limit(1e6)
		l, err := net.Listen("tcp4", oursAt)
		if err != nil {
			t.Fatal(err)
		}
		s.serve(testVPC, l)
	}
	fmt.Println("SERVING")
	io.Copy(io.Discard, os.Stdin)
}

// measure is the namespaces with the servers.
type measure struct {
	*namespaces
	root bundle.Root
	ours int // the process
}

func newMeasure(t *testing.T) *measure {
	m := &measure{namespaces: newNamespaces(t), root: bundle.Root(t.TempDir())}
	rules := ""
	for _, file := range []string{"inet-eni.nft", "arp-eni.nft"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "agent", "firewall", "testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		rules += string(text)
	}
	rules = strings.Replace(rules, "limit rate over 1024/second burst 1024 packets", "limit rate over 10000000/second burst 65535 packets", 1)
	var senders, out, arp, addresses strings.Builder
	for k := range measuredGuests {
		a := guestAddr(k)
		fmt.Fprintf(&senders, "\"t1\" . 02:00:00:00:00:01 . %s,", a)
		fmt.Fprintf(&out, "\"t1\" . %s : accept,", a)
		fmt.Fprintf(&arp, "\"t1\" . 02:00:00:00:00:01 . %s,", a)
		fmt.Fprintf(&addresses, "address add %s/32 dev eth0\n", a)
	}
	rules += fmt.Sprintf("\nadd element inet eni src4 { %s }\nadd element inet eni v_out { %s }\nadd element arp eni asrc { %s }\nadd element inet eni services { 169.254.169.254 . tcp . 1338 }\n",
		&senders, &out, &arp)
	dir := t.TempDir()
	for name, text := range map[string]string{"rules": rules, "addresses": addresses.String()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.sh(`
		ip -n HOST link set tap down; ip -n HOST link set tap name t1; ip -n HOST link set t1 up
		ip -n GUEST link set eth0 down; ip -n GUEST link set eth0 address 02:00:00:00:00:01; ip -n GUEST link set eth0 up
		ip -n GUEST -batch ` + dir + `/addresses
		ip -n HOST route add 10.0.0.0/20 dev t1
		ip -n GUEST route replace 169.254.169.254 dev eth0
		ip netns exec HOST nft -f ` + dir + `/rules`)
	return m
}

// publish writes the bundles of guests from one number to another.
func (m *measure) publish(from, to int) {
	m.t.Helper()
	for k := from; k < to; k++ {
		i := instance(cloud.InstanceID(fmt.Sprintf("i-%017x", k)), guestAddr(k).String())
		i.Identity.RSA2048, i.Identity.PKCS7 = strings.Repeat("x", 1300), strings.Repeat("x", 1300)
		i.PublicKey, i.KeyName, i.Image, i.Reservation = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI my-key", "my-key", "ami-0bbbbbbbbbbbbbbbb", "r-0ccccccccccccccccc"
		i.Placement = bundle.MetadataPlacement{Region: "ichiro-1", Zone: "ichiro-1a", ZoneID: "ichiro1-az1"}
		i.BlockDevices = map[string]string{"ami": "/dev/sda1", "root": "/dev/sda1"}
		i.Domain, i.Partition, i.LifeCycle, i.Action, i.Virtualization = "amazonaws.com", "aws", "on-demand", "none", "paravirtual"
		i.UserData = []byte(strings.Repeat("#", 1024))
		dir := m.root.Instance(i.Instance)
		if err := os.MkdirAll(string(dir), 0o755); err != nil {
			m.t.Fatal(err)
		}
		if err := bundle.Write(dir.Path("metadata.json"), i, 0o640); err != nil {
			m.t.Fatal(err)
		}
	}
}

// serve starts a server in the host's namespace; it ends with the test.
func (m *measure) serve(which string) int {
	m.t.Helper()
	args := []string{"netns", "exec", m.host, os.Args[0], "-test.run", "^TestServeForMeasure$", "-test.v"}
	if which == "mock" {
		args = []string{"netns", "exec", m.host, os.Getenv("ICHIRO_MOCK"), "--hostname", "169.254.169.254", "--port", "1338"}
	}
	cmd := exec.Command("ip", args...)
	cmd.Env = append(os.Environ(), "ICHIRO_SERVE="+which+":"+string(m.root))
	in, err := cmd.StdinPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
	if which == "mock" { // it says nothing when it is ready
		go io.Copy(io.Discard, out)
		return cmd.Process.Pid
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "SERVING" {
			return cmd.Process.Pid
		}
	}
	m.t.Fatalf("the server %s does not serve", which)
	return 0
}

// asking runs do on n threads in the guest's namespace at once.
func (m *measure) asking(n int, do func(k int) error) {
	m.t.Helper()
	errs := make([]error, n)
	var all sync.WaitGroup
	for k := range n {
		all.Go(func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			f, err := os.Open("/run/netns/" + m.guest)
			if err == nil {
				err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
				f.Close()
			}
			if err == nil {
				err = do(k)
			}
			errs[k] = err
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		m.t.Fatal(err)
	}
}

// ask1 sends one request from a guest's address, and returns the body of a good reply. It asks by system calls that wait in
// its own thread: whoever asks is on the processors of who answers, and Go's sockets cost it as much again.
func ask1(guest int, at, request string) (string, error) {
	to := netip.MustParseAddrPort(at)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	patience := unix.Timeval{Sec: 10}
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience), // for connect, too
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: guestAddr(guest).As4()}))
	if err == nil {
		address := &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
		for err = unix.Connect(fd, address); err == unix.EINTR; { // Go's own signals; asked again it waits on
			err = unix.Connect(fd, address)
		}
		if err == unix.EISCONN {
			err = nil
		}
	}
	if err == nil {
		_, err = unix.Write(fd, []byte(request+"\r\nHost: x\r\nConnection: close\r\n\r\n"))
	}
	if err != nil {
		return "", err
	}
	var reply []byte
	for part := make([]byte, 8<<10); ; {
		n, err := unix.Read(fd, part)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", request, err)
		}
		if n == 0 {
			break
		}
		reply = append(reply, part[:n]...)
	}
	head, body, _ := strings.Cut(string(reply), "\r\n\r\n")
	if !strings.HasPrefix(head, "HTTP/1.1 200") && !strings.HasPrefix(head, "HTTP/1.0 200") {
		return "", fmt.Errorf("%s: %.60q", request, head)
	}
	return body, nil
}

// load returns how many requests a second are answered, and the 99th percentile of their times in milliseconds.
func (m *measure) load(at, request string) (rate, p99 float64) {
	times := make([][]float64, measuredAtOnce)
	start := time.Now()
	m.asking(measuredAtOnce, func(k int) error {
		for n := range measuredAsks / measuredAtOnce {
			began := time.Now()
			if _, err := ask1((k+n*measuredAtOnce)%200, at, request); err != nil {
				return err
			}
			times[k] = append(times[k], time.Since(began).Seconds()*1000)
		}
		return nil
	})
	all := slices.Sorted(slices.Values(slices.Concat(times...)))
	return float64(len(all)) / time.Since(start).Seconds(), all[len(all)*99/100]
}

func say(t *testing.T, name string, raw []float64) {
	t.Helper()
	line, err := json.Marshal(map[string]any{"name": name, "raw": raw})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("MEASURED %s\n", line)
}

func TestMeasureAnswers(t *testing.T) {
	if os.Getenv("ICHIRO_MEASURE") == "" {
		t.Skip("it measures: set ICHIRO_MEASURE")
	}
	m := newMeasure(t)
	m.publish(0, 1)
	m.ours = m.serve("ours")
	m.serve("bare")
	const leaf, token = "GET /latest/meta-data/instance-id HTTP/1.1", "PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60"
	m.asking(1, func(int) error { return m.await(1, oursAt) })
	before := resident(t, m.ours)
	m.publish(1, measuredGuests)
	m.asking(1, func(int) error { return m.await(measuredGuests, oursAt) })
	say(t, "resident MB of 1000", []float64{resident(t, m.ours) - before})

	type kind struct{ name, at, request string }
	kinds := []kind{{"get", oursAt, leaf}, {"put", oursAt, token}, {"bare", bareAt, leaf}}
	if os.Getenv("ICHIRO_MOCK") != "" {
		m.serve("mock")
		m.asking(1, func(int) error { return m.await(1, mockAt) })
		kinds = append(kinds, kind{"mock", mockAt, leaf})
	}
	rates, slowest := map[string][]float64{}, map[string][]float64{}
	for range measuredRounds {
		for _, k := range kinds {
			rate, p99 := m.load(k.at, k.request)
			rates[k.name], slowest[k.name] = append(rates[k.name], rate), append(slowest[k.name], p99)
		}
	}
	for _, k := range kinds {
		say(t, k.name, rates[k.name])
		say(t, k.name+" p99", slowest[k.name])
	}
	m.crawls()
}

// await asks as each guest until it is answered: servers read what is new when the kernel tells them, and begin when they do.
func (m *measure) await(guests int, at string) error {
	end := time.Now().Add(20 * time.Second)
	for k := range guests {
		for {
			_, err := ask1(k, at, "GET /latest/meta-data/instance-id HTTP/1.1")
			if err == nil {
				break
			}
			if time.Now().After(end) {
				return err
			}
			runtime.Gosched()
		}
	}
	return nil
}

// crawls has 200 guests read all as cloud-init does, at once.
func (m *measure) crawls() {
	var worst []float64
	var mu sync.Mutex
	requests := 0
	for range 3 {
		longest := 0.0
		m.asking(200, func(k int) error {
			start := time.Now()
			n, err := crawlAll(k)
			mu.Lock()
			defer mu.Unlock()
			longest, requests = max(longest, time.Since(start).Seconds()), n
			return err
		})
		worst = append(worst, longest)
	}
	say(m.t, "crawl of 200", worst)
	say(m.t, "requests of a crawl", []float64{float64(requests)})
}

// crawlAll reads what cloud-init reads, and returns how many requests that took.
func crawlAll(guest int) (int, error) {
	token, err := ask1(guest, oursAt, "PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 21600")
	if err != nil {
		return 0, err
	}
	n := 1
	get := func(path string) (string, error) {
		n++
		return ask1(guest, oursAt, "GET "+path+" HTTP/1.1\r\nX-aws-ec2-metadata-token: "+token)
	}
	var walk func(dir string) error
	walk = func(dir string) error {
		names, err := get(dir)
		if err != nil {
			return err
		}
		for name := range strings.SplitSeq(names, "\n") {
			index, _, isKey := strings.Cut(name, "=")
			switch {
			case name == "security-credentials/":
			case isKey:
				err = walk(dir + index + "/")
			case strings.HasSuffix(name, "/"):
				err = walk(dir + name)
			default:
				_, err = get(dir + name)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	if _, err := get("/2021-03-23/meta-data/instance-id"); err != nil {
		return n, err
	}
	if _, err := get("/2021-03-23/user-data"); err != nil {
		return n, err
	}
	return n, errors.Join(walk("/2021-03-23/meta-data/"), walk("/2021-03-23/dynamic/instance-identity/"))
}

// resident returns the megabytes of a process that are its own.
func resident(t *testing.T, pid int) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Rss:" {
			kb, err := strconv.ParseFloat(f[1], 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb / 1024
		}
	}
	t.Fatal("the kernel does not say how much memory it has")
	return 0
}
