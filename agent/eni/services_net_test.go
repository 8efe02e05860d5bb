//go:build net

package eni

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/handover"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// services is a run directory with what the daemons need, and a name server in the world.
type services struct {
	t    *testing.T
	root bundle.Root
	dir  string
	bin  string
	pool *handover.Server
	end  func()
}

const imdsUser = 65534

// builtIMDS is the program, built once.
var builtIMDS = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "ichiro-imds")
	if err != nil {
		return "", err
	}
	built = dir
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "ichiro-imds")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/ichiro-metal/ichiro/imds").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build ichiro-imds: %v\n%s", err, out)
	}
	return bin, nil
})

// newServices builds ichiro-imds, opens the sockets of the manager's VPCs and writes what the resolver may say.
func newServices(t *testing.T, m *Manager, vpcs ...cloud.HostNetwork) *services {
	t.Helper()
	dir, err := os.MkdirTemp("", "services") // t.TempDir is root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &services{t: t, dir: dir, root: bundle.Root(filepath.Join(dir, "run"))}
	if s.bin, err = builtIMDS(); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, s.root.Networks(), s.root.Instances(), filepath.Dir(s.root.Admin("imds")), filepath.Join(dir, "key")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{filepath.Join(dir, "key"), filepath.Dir(s.root.Admin("imds"))} {
		if err := os.Chown(d, imdsUser, imdsUser); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range vpcs {
		n := bundle.Network{VPC: v.VPC.ID, Region: "ichiro-1", Resolver: true, Prefixes: v.VPC.Prefixes(), Public: v.Public}
		if err := bundle.Write(s.root.Network(v.VPC.ID), n, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.agent(m, vpcs)
	t.Cleanup(func() { s.end() })
	return s
}

// agent is the agent's end of the handover; called again, that of its successor.
func (s *services) agent(m *Manager, vpcs []cloud.HostNetwork) {
	s.t.Helper()
	if s.end != nil {
		s.end()
	}
	s.pool = handover.NewServer(s.root.Handover(), slog.New(slog.DiscardHandler))
	for _, v := range vpcs {
		for _, one := range Services(v.VPC) {
			if one.Name == "runcmd" {
				continue // its gateway does not run here
			}
			s.pool.Admit(one.Name, imdsUser)
			if err := s.pool.Offer(one.Name, v.VPC.ID, one.Socket(), func() (*os.File, error) { return m.Listen(v.VPC.ID, one) }); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.pool.Run(ctx); err != nil {
			s.t.Error(err)
		}
	})
	<-s.pool.Ready()
	s.end = func() { cancel(); running.Wait() }
}

// start runs ichiro-imds without privileges until it says that it is ready.
func (s *services) start(args ...string) *exec.Cmd {
	s.t.Helper()
	ready, told, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	defer ready.Close()
	cmd := exec.Command(s.bin, append([]string{"--run", string(s.root), "--token-key", filepath.Join(s.dir, "key", "token"), "--trust-clock", "--resolvers", "203.0.113.53"}, args...)...)
	cmd.Env = []string{"ICHIRO_READY_FD=3"}
	cmd.ExtraFiles = []*os.File{told}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: &syscall.Credential{Uid: imdsUser, Gid: imdsUser}}
	// Pdeathsig is about the thread, and those that were in a namespace end: this one stays the test's own.
	runtime.LockOSThread()
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	told.Close()
	s.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if line, err := bufio.NewReader(ready).ReadString('\n'); line != "READY\n" {
		s.t.Fatalf("ichiro-imds says %q, %v", line, err)
	}
	return cmd
}

// nameServer answers every question in the world with 192.0.2.99, until the test ends.
func nameServer(t *testing.T, n *nstest.Namespace, at string) {
	t.Helper()
	var p net.PacketConn
	if err := n.Do(func() (err error) { p, err = net.ListenPacket("udp4", at); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			k, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			end := 12
			for end < k && buf[end] != 0 { // the question's name
				end += int(buf[end]) + 1
			}
			a := append([]byte{}, buf[:min(k, end+5)]...)
			a[2], a[3] = 0x81, 0x80
			copy(a[4:], []byte{0, 1, 0, 1, 0, 0, 0, 0})
			a = append(a, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 192, 0, 2, 99) // A, not to be kept
			p.WriteTo(a, from)
		}
	}()
}

// require skips a test without a program.
func require(t *testing.T, program, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed: apt-get install %s", program, pkg)
	}
}

// withVPC is a configuration's copy under another VPC's name: the same addresses again.
func withVPC(c Config, id cloud.VPCID) Config {
	v := c.VPCs[0]
	v.VPC.ID = id
	c.VPCs = []cloud.HostNetwork{v}
	for i := range c.Interfaces {
		c.Interfaces[i].VPC = id
		c.Interfaces[i].ID = "eni-" + cloud.InterfaceID(id)
	}
	return c
}

func TestGuestsResolveNames(t *testing.T) {
	require(t, "dig", "bind9-dnsutils")
	require(t, "busybox", "busybox")
	world := nstest.Internet(t, "203.0.113.53")
	nameServer(t, world, "203.0.113.53:53")
	m := start(t, "esa")
	c := config("esa", guestInterface(1, "sg-default"))
	c.VPCs[0].Public = []cloud.PublicAddress{{Public: netip.MustParseAddr("203.0.113.7"), Private: guestAddr(1)}}
	apply(t, m, c)
	newServices(t, m, c.VPCs...).start()
	g := configured(t, m, 1)
	const own = "ip-172-31-0-11.ichiro-1.compute.internal"
	for _, at := range []string{"172.31.0.2", "169.254.169.253"} {
		for _, way := range []string{"+notcp", "+tcp"} {
			for _, q := range []struct{ ask, want string }{
				{own, "172.31.0.11\n"},
				{"-x 172.31.0.11", own + ".\n"},
				{"ec2-203-0-113-7.ichiro-1.compute.amazonaws.com", "172.31.0.11\n"},
				{"www.example.com", "192.0.2.99\n"},
				{"ip-10-0-0-5.ichiro-1.compute.internal", ""},
			} {
				out, err := g.Run("dig", append([]string{"+short", "+time=5", "+tries=1", "@" + at, way}, strings.Fields(q.ask)...)...)
				if err != nil || out != q.want {
					t.Errorf("dig %s @%s %s: got %q, %v; want %q\n%v", way, at, q.ask, out, err, q.want, m.Counters())
				}
			}
		}
		// dig complains when an answer comes from elsewhere.
		if out, err := g.Run("busybox", "nslookup", own, at); err != nil || !strings.Contains(out, "Address: 172.31.0.11") && !strings.Contains(out, "172.31.0.11") {
			t.Errorf("busybox nslookup @%s: %v\n%s", at, err, out)
		}
	}
	if out, err := g.Run("dig", "+time=1", "+tries=1", "+notcp", "@172.31.0.1", own); err == nil {
		t.Errorf("the gateway answers too:\n%s", out)
	}
	// The stub of the C library, which most programs use.
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("search ichiro-1.compute.internal\nnameserver 172.31.0.2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"ip-172-31-0-11": "172.31.0.11", "www.example.com": "192.0.2.99", "172.31.0.11": own} {
		out, err := g.Run("unshare", "-m", "sh", "-c", "mount --bind "+resolv+" /etc/resolv.conf && exec getent hosts "+name)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("getent hosts %s: got %q, %v; want %s", name, out, err, want)
		}
	}
}

func TestTheSameAddressInTwoVPCsIsTwoGuests(t *testing.T) {
	require(t, "dig", "bind9-dnsutils")
	m := start(t, "esb")
	one := config("esb", guestInterface(1, "sg-default"))
	two := withVPC(config("esb", guestInterface(1, "sg-default")), "vpc-2")
	one.VPCs[0].Public = []cloud.PublicAddress{{Public: netip.MustParseAddr("203.0.113.7"), Private: guestAddr(1)}}
	two.VPCs[0].Public = []cloud.PublicAddress{{Public: netip.MustParseAddr("203.0.113.7"), Private: guestAddr(9)}}
	both := one
	both.VPCs = append(both.VPCs, two.VPCs...)
	both.Interfaces = append(both.Interfaces, two.Interfaces...)
	apply(t, m, both)
	newServices(t, m, both.VPCs...).start()
	a := configured(t, m, 1)
	tap, err := m.Tap(two.Interfaces[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	b := nstest.NewGuest(t, "esbother", two.Interfaces[0].MAC, tap)
	b.IP("addr add %s/20 dev eth0", guestAddr(1))
	for g, want := range map[*nstest.Guest]string{a: "172.31.0.11\n", b: "172.31.0.19\n"} {
		out, err := g.Run("dig", "+short", "+time=5", "+tries=1", "@172.31.0.2", "ec2-203-0-113-7.ichiro-1.compute.amazonaws.com")
		if err != nil || out != want {
			t.Errorf("%s: got %q, %v; want %q", g.Name, out, err, want)
		}
	}
}

// While ichiro-imds is killed and started again, and the agent's end is replaced, guests get every answer: at worst to the second
// datagram, which stubs send after 5 s and this one after one.
func TestNamesAreResolvedThroughKills(t *testing.T) {
	require(t, "dig", "bind9-dnsutils")
	m := start(t, "esc")
	c := config("esc", guestInterface(1, "sg-default"))
	apply(t, m, c)
	s := newServices(t, m, c.VPCs...)
	program := s.start()
	g := configured(t, m, 1)
	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	answered := make(chan struct{})
	for _, way := range []string{"+notcp", "+tcp"} {
		asking.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("ip-172-31-9-%d", i%256)
				out, err := g.Run("dig", "+short", "+time=1", "+tries=5", way, "@172.31.0.2", name+".ichiro-1.compute.internal")
				if want := strings.ReplaceAll(name[3:], "-", ".") + "\n"; err != nil || !strings.HasSuffix(out, want) {
					t.Errorf("dig %s: got %q, %v; want %q", way, out, err, want)
				}
				select {
				case answered <- struct{}{}:
				case <-ctx.Done():
				}
			}
		})
	}
	for range 5 {
		program.Process.Kill()
		program.Wait()
		program = s.start()
		// Two answers may be older. When there are more, the program has its sockets: were both ends gone at once, the
		// kernel would close them, which the agent's end in this process cannot show.
		for range 6 {
			<-answered
		}
		s.agent(m, c.VPCs)
		for s.pool.Health() != nil { // until all are given back
		}
		for range 6 {
			<-answered
		}
	}
	stop()
	asking.Wait()
}

func TestGuestsGetTheTime(t *testing.T) {
	chronyd := "/usr/local/lib/ichiro/chrony/usr/sbin/chronyd" // deploy/scripts/needs unpacks it
	require(t, chronyd, "chrony")
	m := start(t, "esd")
	c := config("esd", guestInterface(1, "sg-default"))
	apply(t, m, c)
	s := newServices(t, m, c.VPCs...)
	s.start()
	g := configured(t, m, 1)
	// -Q says what the clock's error is and changes nothing; at its end chronyd removes its pidfile, whatever that is.
	out, err := g.Run(chronyd, "-Q", "-t", "20", "-u", "root", "server 169.254.169.123 iburst maxsamples 4", "cmdport 0", "bindcmdaddress /", "pidfile "+filepath.Join(t.TempDir(), "pid"))
	var wrong float64
	if _, rest, ok := strings.Cut(out, "System clock wrong by "); ok {
		fmt.Sscanf(rest, "%g", &wrong)
	} else {
		t.Errorf("chronyd: %v\n%s%v", err, out, m.Counters())
	}
	if wrong > 0.05 || wrong < -0.05 {
		t.Errorf("the guest's clock, which is ours, is said to be wrong by %g s", wrong)
	}
	t.Logf("chronyd: %s", out)
}

// What leaves by a UDP socket has no more than the beginning of a checksum where the device says that it will do the rest, and a
// tap says so as soon as its guest has. The guest's kernel knows that from the virtio header, so whoever reads from a socket
// gets the answer; whoever reads frames sees a checksum that is wrong.
func TestAnswersAreGoodWithAndWithoutOffload(t *testing.T) {
	require(t, "dig", "bind9-dnsutils")
	for _, offload := range []bool{false, true} {
		t.Run(fmt.Sprintf("offload %t", offload), func(t *testing.T) {
			m := start(t, "ese")
			c := config("ese", guestInterface(1, "sg-default"))
			apply(t, m, c)
			newServices(t, m, c.VPCs...).start()
			g := configured(t, m, 1)
			if offload {
				g.Offload()
			}
			g.Forget()
			out, err := g.Run("dig", "+short", "+time=5", "+tries=1", "@172.31.0.2", "ip-172-31-0-11.ichiro-1.compute.internal")
			if err != nil || out != "172.31.0.11\n" {
				t.Errorf("got %q, %v", out, err)
			}
			f := g.Await(func(f []byte) bool { return len(f) > 42 && f[23] == 17 && f[34] == 0 && f[35] == 53 })
			t.Logf("the frame's checksum is right: %t", udpChecksumIsRight(f))
			if !offload && !udpChecksumIsRight(f) {
				t.Errorf("a frame with a wrong checksum, and no offload")
			}
		})
	}
}

// udpChecksumIsRight sums a frame's pseudo header and datagram.
func udpChecksumIsRight(f []byte) bool {
	udp := f[34:]
	udp = udp[:int(udp[4])<<8|int(udp[5])]
	pseudo := append(append([]byte{}, f[26:34]...), 0, 17, udp[4], udp[5])
	return nstest.Sum(uint32(nstest.Sum(0, pseudo)), udp) == 0xffff
}
