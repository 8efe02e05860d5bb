//go:build vm || bench

package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/vmtest"
)

// host is the test's end of a guest's wire: one DHCP answer and a metadata tree.
type host struct {
	wire     *vmtest.Wire
	userData []byte
	silent   atomic.Bool // DHCP questions are not answered
}

const guestAddress = "172.31.0.20"

func newHost(t testing.TB, userData string) *host {
	t.Helper()
	h := &host{userData: []byte(userData)}
	h.wire = vmtest.NewWire(t, netip.MustParsePrefix("172.31.0.1/20"), netip.MustParsePrefix("169.254.169.254/32"))
	var imds net.Listener
	var dhcp int
	h.wire.Do(t, func() (err error) {
		if imds, err = net.Listen("tcp", "169.254.169.254:80"); err != nil {
			return err
		}
		dhcp, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0x0008) // ETH_P_IP, swapped
		return err
	})
	f := os.NewFile(uintptr(dhcp), "dhcp")
	done := make(chan struct{})
	go func() { defer close(done); h.lease(f, dhcp) }()
	server := &http.Server{Handler: h}
	go server.Serve(imds)
	t.Cleanup(func() {
		server.Close()
		f.Close()
		<-done
	})
	return h
}

// lease answers every DISCOVER with an OFFER and every REQUEST with an ACK.
func (h *host) lease(f *os.File, fd int) {
	buf := make([]byte, 2048)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		p := buf[:n]
		if h.silent.Load() || n < 28+240+3 || p[9] != 17 || binary.BigEndian.Uint16(p[22:]) != 67 {
			continue
		}
		to := &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: 2, Halen: 6}
		copy(to.Addr[:], p[28+28:])
		unix.Sendto(fd, answer(p[28:], p[28+242]), 0, to)
	}
}

// answer makes the packet that answers a BOOTP message whose first option is its type.
func answer(request []byte, kind byte) []byte {
	b := append([]byte(nil), request[:240]...)
	b[0] = 2
	copy(b[16:], net.ParseIP(guestAddress).To4())
	reply := map[byte]byte{1: 2, 3: 5}[kind]
	b = append(b, 53, 1, reply, 54, 4, 172, 31, 0, 1, 1, 4, 255, 255, 240, 0, 51, 4, 0, 0, 14, 16, 26, 2, 1400>>8, 1400&0xff)
	b = append(b, 121, 5+9+8, 0, 172, 31, 0, 1, 32, 169, 254, 169, 254, 0, 0, 0, 0, 24, 10, 9, 8, 172, 31, 0, 9)
	b = append(b, 255)
	p := make([]byte, 28, 28+len(b))
	p[0], p[8], p[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(b)))
	copy(p[12:], []byte{172, 31, 0, 1, 255, 255, 255, 255})
	binary.BigEndian.PutUint16(p[20:], 67)
	binary.BigEndian.PutUint16(p[22:], 68)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(b)))
	return append(p, b...)
}

func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == "PUT" && r.URL.Path == "/latest/api/token" {
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "300")
		w.Header().Set("Connection", "close")
		io.WriteString(w, "a-token")
		return
	}
	if r.Header.Get("X-Aws-Ec2-Metadata-Token") != "a-token" {
		http.Error(w, "no token", http.StatusUnauthorized)
		return
	}
	tree := map[string]string{
		"/latest/meta-data/instance-id":               "i-0123456789abcdef0",
		"/latest/meta-data/hostname":                  "ip-172-31-0-20.ichiro-1.compute.internal",
		"/latest/meta-data/public-keys/0/openssh-key": "ssh-ed25519 AAAAC3Nza test\n",
	}
	if h.userData != nil && r.URL.Path == "/latest/user-data" {
		w.Write(h.userData)
		return
	}
	body, ok := tree[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	io.WriteString(w, body)
}

// guest starts the small guest on the host's wire.
func (h *host) guest(t testing.TB, options string, args ...string) *vmtest.Guest {
	t.Helper()
	b := build(t, "zstd", "")
	return vmtest.Start(t, vmtest.Config{Kernel: b.kernel, Ramdisk: b.ramdisk, CommandLine: b.commandLine + " " + options,
		Args: append(h.wire.Args(), args...), Files: []*os.File{h.wire.Tap}})
}

type built struct {
	kernel, ramdisk, commandLine string
	vmtest.Kernel
}

// build makes our programs and a ramdisk of them, as the Makefile does.
func build(t testing.TB, packing, agent string) built {
	t.Helper()
	dir := t.TempDir()
	compile := func(name, pkg string) string {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", filepath.Join(dir, name), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOAMD64=v1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", pkg, err, out)
		}
		return filepath.Join(dir, name)
	}
	k := vmtest.FindKernel(t)
	b := built{Kernel: k, kernel: filepath.Join(dir, "vmlinux"), ramdisk: filepath.Join(dir, "ramdisk")}
	args := []string{"build", "--kernel", k.Image, "--modules", k.Modules, "--init", compile("init", "./init"),
		"--out", b.ramdisk, "--pvh-out", b.kernel, "--compress", packing}
	if agent != "" {
		agent = compile("ichiro-runcmd", agent)
	}
	args = append(args, "--runcmd", agent)
	if err := run(t.Context(), args, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatalf("build the ramdisk: %v", err)
	}
	line, err := os.ReadFile(b.ramdisk + ".cmdline")
	if err != nil {
		t.Fatal(err)
	}
	b.commandLine = strings.TrimSpace(string(line))
	return b
}

// figure is one line of make bench.
type figure struct {
	Name      string    `json:"name"`
	Ours      float64   `json:"ours"`
	Reference float64   `json:"reference"`
	Ratio     float64   `json:"ratio"`
	Target    float64   `json:"target"`
	Met       bool      `json:"met"`
	Unit      string    `json:"unit"`
	OursRaw   []float64 `json:"ours_raw,omitempty"`
	RefRaw    []float64 `json:"reference_raw,omitempty"`
}

// print writes the figure to standard output and adds it to $BENCH_OUT.
func (f figure) print(t testing.TB) {
	t.Helper()
	f.Ratio = f.Ours / f.Reference
	f.Met = f.Ratio <= f.Target
	line, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(line))
	name := os.Getenv("BENCH_OUT")
	if name == "" {
		return
	}
	out, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := out.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
}

// start starts a guest without a network.
func start(t testing.TB, b built, options string) *vmtest.Guest {
	t.Helper()
	return vmtest.Start(t, vmtest.Config{Kernel: b.kernel, Ramdisk: b.ramdisk, CommandLine: b.commandLine + " " + options})
}
