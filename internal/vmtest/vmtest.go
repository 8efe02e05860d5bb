// Package vmtest runs a guest on a serial console for tests.
//
// A test starts QEMU with a kernel and a ramdisk, waits for what the console says, types into
// it, and looks at nothing else: what the guest shows is the truth. Guests run under TCG, with
// the lean machine that our hosts use, and die with the test, however it ends. A failed expectation
// prints the whole console. Wire gives the guest a network whose other end is the test itself, in
// a network namespace of its own.
// Nothing here has a time limit of its own: a guest that hangs is ended a little before the test
// run's would end everything, so that its console can be read.
package vmtest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Kernel is a kernel of this machine's /boot and what belongs to it.
type Kernel struct {
	Release string
	Image   string // bzImage
	Modules string // directory
	Initrd  string // the distribution's ramdisk; empty if there is none
}

// FindKernel returns Debian's cloud kernel, the newest if there are several. It ends the test with a
// reason if there is none.
func FindKernel(t testing.TB) Kernel {
	t.Helper()
	list, _ := filepath.Glob("/boot/vmlinuz-*-cloud-amd64")
	slices.Sort(list)
	slices.Reverse(list)
	for _, image := range list {
		k := Kernel{Image: image, Release: strings.TrimPrefix(filepath.Base(image), "vmlinuz-")}
		k.Modules = filepath.Join("/lib/modules", k.Release)
		if _, err := os.Stat(filepath.Join(k.Modules, "modules.dep")); err != nil {
			continue
		}
		if initrd := "/boot/initrd.img-" + k.Release; exists(initrd) {
			k.Initrd = initrd
		}
		return k
	}
	t.Fatal("no guest kernel: apt-get install linux-image-cloud-amd64")
	return Kernel{}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// Config describes a guest.
type Config struct {
	Kernel      string
	Ramdisk     string
	CommandLine string
	Memory      int        // MiB, 256 when 0
	Args        []string   // more arguments of QEMU
	Files       []*os.File // for Args: the first is descriptor 4 in QEMU
}

// FirstFile is the number under which QEMU gets the first of Config.Files.
const FirstFile = 4

// reading is how long before the end of the test run a hanging guest is ended.
const reading = 20 * time.Second

// Guest is a running QEMU and its console.
type Guest struct {
	t       testing.TB
	cmd     *exec.Cmd
	in      io.Writer
	monitor *os.File
	ended   chan struct{}

	mu      sync.Mutex
	more    *sync.Cond
	console []byte
	read    int // what Expect has consumed
	closed  bool
}

// Start runs a guest until it ends or the test does.
func Start(t testing.TB, c Config) *Guest {
	t.Helper()
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal("no QEMU: apt-get install qemu-system-x86")
	}
	g := &Guest{t: t, ended: make(chan struct{})}
	g.more = sync.NewCond(&g.mu)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("make the monitor's socket: %v", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "monitor of QEMU")
	g.monitor = os.NewFile(uintptr(pair[0]), "monitor")
	g.cmd = exec.Command(qemu, Arguments(c)...)
	g.cmd.Args = append(g.cmd.Args, "-chardev", "socket,id=mon,fd=3", "-mon", "chardev=mon,mode=readline")
	g.cmd.ExtraFiles = append([]*os.File{theirs}, c.Files...)
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	g.cmd.Stderr = console{g}
	g.cmd.Stdout = console{g}
	if g.in, err = g.cmd.StdinPipe(); err != nil {
		t.Fatalf("make the console's pipe: %v", err)
	}
	if err := g.cmd.Start(); err != nil {
		t.Fatalf("start QEMU: %v", err)
	}
	theirs.Close()
	go io.Copy(io.Discard, g.monitor) // prompts and echo; it ends with QEMU
	go func() {
		g.cmd.Wait()
		g.mu.Lock()
		g.closed = true
		g.more.Broadcast()
		g.mu.Unlock()
		close(g.ended)
	}()
	t.Cleanup(g.Close)
	if run, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if end, limited := run.Deadline(); limited {
			last := time.AfterFunc(time.Until(end)-reading, func() { g.cmd.Process.Kill() })
			t.Cleanup(func() { last.Stop() })
		}
	}
	return g
}

// Arguments are QEMU's for a guest whose console is its standard input and output.
func Arguments(c Config) []string {
	memory := c.Memory
	if memory == 0 {
		memory = 256
	}
	return append([]string{
		"-machine", "q35,usb=off,smbus=off,sata=off,vmport=off,graphics=off", "-accel", "tcg,tb-size=128", "-cpu", "max",
		"-m", fmt.Sprint(memory), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", c.Kernel, "-initrd", c.Ramdisk, "-append", c.CommandLine,
	}, c.Args...)
}

// console collects what the guest prints.
type console struct{ g *Guest }

func (c console) Write(b []byte) (int, error) {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	c.g.console = append(c.g.console, b...)
	if os.Getenv("VMTEST_LIVE") != "" { // to see what a hanging guest says
		os.Stderr.Write(b)
	}
	c.g.more.Broadcast()
	return len(b), nil
}

// Expect waits until the console shows the pattern after what was expected before, and returns the
// match and its groups. It ends the test if the guest ends first.
func (g *Guest) Expect(pattern string) []string {
	g.t.Helper()
	return g.ExpectAll(pattern)[0]
}

// ExpectAll waits for several patterns that may come in any order.
func (g *Guest) ExpectAll(patterns ...string) [][]string {
	g.t.Helper()
	found := make([][]string, len(patterns))
	end := 0
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, p := range patterns {
		re := regexp.MustCompile(p)
		for found[i] == nil {
			text := g.console[g.read:]
			if at := re.FindIndex(text); at != nil {
				end = max(end, at[1])
				for _, group := range re.FindSubmatch(text) {
					found[i] = append(found[i], string(group))
				}
				break
			}
			if g.closed {
				g.t.Fatalf("guest ended before it said %q\n%s", p, transcript(g.console))
			}
			g.more.Wait()
		}
	}
	g.read += end
	return found
}

// Run types a command into a shell on the console and returns what it prints, without the
// carriage returns, and its exit code. The marks around the output are typed in pieces, so that
// the terminal's echo, into which the prompt may fall at any place, is never taken for them.
func (g *Guest) Run(command string) (output string, code string) {
	g.t.Helper()
	g.Send(`echo "=be""gin="; ` + command + `; echo "="$?"=do""ne="`)
	found := g.Expect(`(?s)=begin=\r?\n(.*?)=(\d+)=done=`)
	return strings.ReplaceAll(found[1], "\r", ""), found[2]
}

// Send types a line.
func (g *Guest) Send(line string) {
	g.t.Helper()
	if _, err := io.WriteString(g.in, line+"\n"); err != nil {
		g.t.Fatalf("type %q: %v\n%s", line, err, transcript([]byte(g.Console())))
	}
}

// Monitor gives QEMU's human monitor a command, such as system_powerdown.
func (g *Guest) Monitor(command string) {
	g.t.Helper()
	if _, err := io.WriteString(g.monitor, command+"\n"); err != nil {
		g.t.Fatalf("tell QEMU %q: %v", command, err)
	}
}

// Console returns everything that the guest has printed.
func (g *Guest) Console() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return string(g.console)
}

// Wait returns when the guest has ended by itself, with QEMU's exit code.
func (g *Guest) Wait() int {
	<-g.ended
	return g.cmd.ProcessState.ExitCode()
}

// CPU returns the processor time in seconds that an ended guest has used.
func (g *Guest) CPU() float64 {
	<-g.ended
	s := g.cmd.ProcessState
	return (s.UserTime() + s.SystemTime()).Seconds()
}

// Close ends the guest at once. Calling it again does nothing.
func (g *Guest) Close() {
	g.cmd.Process.Kill() // by handle: never a stranger's number
	<-g.ended
	g.monitor.Close()
	if g.t.Failed() {
		g.t.Logf("console:\n%s", transcript([]byte(g.Console())))
	}
}

// transcript makes a console readable in a test's log.
func transcript(b []byte) string {
	b = bytes.ReplaceAll(b, []byte("\r"), nil)
	return "  | " + strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", "\n  | ")
}
