//go:build net

package firewall

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/ichiro-metal/ichiro/internal/nstest"
	"golang.org/x/sys/unix"
)

// The bench runs this test alone, with ICHIRO_MEASURE set, and reads what it prints: a JSON line for each way of
// filtering, with the nanoseconds of processor that a packet cost in each round.
//
// A guest sends 60-byte UDP frames (AF_PACKET, sendmmsg, no queueing discipline) into a router's namespace, whose
// guest they leave to. A veth pair delivers in the sender's own softirq, so the processor time of its thread, and
// of the ksoftirqd that may take over, is that of the whole way. The two guests are the last of all interfaces.
func TestMeasurePackets(t *testing.T) {
	if os.Getenv("ICHIRO_MEASURE") == "" {
		t.Skip("it measures: make bench runs it")
	}
	const rounds, packets = 15, 20000
	ways := []*way{
		{name: "none", interfaces: 0}, {name: "1", interfaces: 2}, {name: "100", interfaces: 100}, {name: "4000", interfaces: 4000},
		{name: "16000", interfaces: 16000}, {name: "100 rules", interfaces: 100, rules: 100}, {name: "5000 rules", interfaces: 100, rules: 5000},
	}
	for n, w := range ways {
		w.build(t, n)
	}
	for range rounds {
		for _, w := range ways {
			w.raw = append(w.raw, w.send(t, packets))
		}
	}
	for _, w := range ways {
		line, err := json.Marshal(map[string]any{"name": w.name, "raw": w.raw})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("MEASURED %s\n", line)
	}
}

// way is a router with two guests.
type way struct {
	name              string
	interfaces, rules int

	guest, sink *nstest.Namespace
	frame       []byte
	raw         []float64
}

func (w *way) build(t *testing.T, n int) {
	guest, sink := nstest.New(t, fmt.Sprintf("g%d", n)), nstest.New(t, fmt.Sprintf("s%d", n))
	router, fd := space(t, fmt.Sprintf("r%d", n))
	w.guest, w.sink = guest, sink
	for i, g := range []*nstest.Namespace{guest, sink} {
		nstest.IP(t, "-n %s link add tap%d group 10 type veth peer name eth0 netns %s", router.Name, i, g.Name)
		router.IP("link set tap%d up", i)
		g.IP("link set eth0 up")
		router.IP("route add 10.250.0.%d/32 dev tap%d", i+1, i)
		router.IP("neigh add 10.250.0.%d lladdr 02:00:00:00:ff:0%d nud permanent dev tap%d", i+1, i+1, i)
	}
	guest.IP("link set eth0 address 02:00:00:00:ff:01")
	sink.IP("link set eth0 address 02:00:00:00:ff:02")
	mac := strings.Fields(nstest.IP(t, "-n %s -o link show tap0", router.Name))
	for i, f := range mac {
		if f == "link/ether" {
			w.frame = frame(t, mac[i+1])
		}
	}
	for _, s := range []string{"ipv4/ip_forward 1", "ipv4/conf/all/rp_filter 0", "ipv4/conf/tap0/rp_filter 0", "ipv4/conf/tap1/rp_filter 0"} {
		key, value, _ := strings.Cut(s, " ")
		if err := router.Do(func() error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0) }); err != nil {
			t.Fatal(err)
		}
	}
	if w.interfaces > 0 {
		if _, err := Apply(fd, w.config()); err != nil {
			t.Fatal(err)
		}
	}
	before := w.arrived(t)
	w.send(t, 1000) // warms caches, and proves that packets pass
	if got := w.arrived(t) - before; got < 990 {
		t.Fatalf("%s: %d of 1000 packets arrived: the measurement would prove nothing", w.name, got)
	}
}

// config lets everybody in by UDP, after so many other rules.
func (w *way) config() Config {
	c := many(w.interfaces - 2)
	for i := range 2 {
		c.Interfaces = append(c.Interfaces, &Interface{
			Name: fmt.Sprintf("tap%d", i), MAC: [6]byte{2, 0, 0, 0, 0xff, byte(i + 1)}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 250, 0, byte(i + 1)})},
			Groups: []string{"sg-1"},
		})
	}
	g := &c.Groups[0]
	for i := range w.rules {
		g.In = append(g.In, Rule{Protocol: protoTCP, From: 1 + i, To: 1 + i, Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 32)})
	}
	g.In = append(g.In, Rule{Protocol: protoUDP, From: 9, To: 9, Prefix: netip.MustParsePrefix("10.0.0.0/8")})
	return c
}

// frame is 60 bytes from the first guest to the second.
func frame(t *testing.T, router string) []byte {
	var to [6]byte
	if n, err := fmt.Sscanf(router, "%02x:%02x:%02x:%02x:%02x:%02x", &to[0], &to[1], &to[2], &to[3], &to[4], &to[5]); n != 6 {
		t.Fatalf("MAC %q: %v", router, err)
	}
	f := make([]byte, 60)
	copy(f, to[:])
	copy(f[6:], []byte{2, 0, 0, 0, 0xff, 1, 0x08, 0x00})
	ip := f[14:]
	copy(ip, []byte{0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, protoUDP, 0, 0, 10, 250, 0, 1, 10, 250, 0, 2})
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	copy(ip[20:], []byte{0x30, 0x39, 0, 9, 0, 26, 0, 0}) // no checksum
	return f
}

func (w *way) arrived(t *testing.T) (n int) {
	if err := w.sink.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/dev")
		for _, l := range strings.Split(string(b), "\n") {
			if name, rest, ok := strings.Cut(strings.TrimSpace(l), ":"); ok && name == "eth0" {
				var bytes int
				fmt.Sscan(rest, &bytes, &n)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	_   uint32 // how much was sent
	_   [4]byte
}

// send returns the nanoseconds of processor time of a packet.
func (w *way) send(t *testing.T, packets int) float64 {
	const burst = 64
	var cost time.Duration
	err := w.guest.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
			return err
		}
		b, err := os.ReadFile("/sys/class/net/eth0/ifindex")
		var index int
		if err == nil {
			_, err = fmt.Sscan(string(b), &index)
		}
		if err != nil { // /sys shows the namespace that mounted it
			if index, err = ifindex("eth0"); err != nil {
				return err
			}
		}
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index, Protocol: 0}); err != nil {
			return err
		}
		iov := unix.Iovec{Base: &w.frame[0]}
		iov.SetLen(len(w.frame))
		var msgs [burst]mmsghdr
		for i := range msgs {
			msgs[i].hdr.Iov, msgs[i].hdr.Iovlen = &iov, 1
		}
		processor, restore, err := pin()
		if err != nil {
			return err
		}
		defer restore()
		before := threadTime() + softirqTime(processor)
		for left := packets; left > 0; {
			n, _, e := syscall.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs)), uintptr(min(left, burst)), 0, 0, 0)
			if e != 0 && e != syscall.ENOBUFS && e != syscall.EINTR {
				return e
			}
			left -= int(n)
		}
		cost = threadTime() + softirqTime(processor) - before
		runtime.KeepAlive(&iov)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return float64(cost) / float64(packets)
}

func ifindex(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req)
	}
	if err != nil {
		return 0, err
	}
	return int(req.Uint32()), nil
}

// pin keeps the thread on the processor that it is on.
func pin() (processor int, restore func(), err error) {
	var was, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &was); err != nil {
		return 0, nil, err
	}
	var cpu uint32
	if _, _, e := syscall.Syscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); e != 0 {
		return 0, nil, e
	}
	one.Set(int(cpu))
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return 0, nil, err
	}
	return int(cpu), func() { _ = unix.SchedSetaffinity(0, &was) }, nil
}

func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err) // the clock is always there
	}
	return time.Duration(ts.Nano())
}

// softirqTime is what the kernel's thread for softirqs on a processor has used.
func softirqTime(processor int) time.Duration {
	for pid := 2; pid < 200; pid++ { // they are among the first threads of a machine
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil || strings.TrimSpace(string(comm)) != fmt.Sprintf("ksoftirqd/%d", processor) {
			continue
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		if err != nil {
			return 0
		}
		var ns int64
		fmt.Sscan(string(b), &ns)
		return time.Duration(ns)
	}
	return 0 // hidden in a container: then only what the sender did is counted
}
