package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/lease"
	"github.com/ichiro-metal/ichiro/internal/network"
)

const (
	agent       = "/usr/bin/ichiro-runcmd"
	moduleList  = "/etc/ichiro/modules"
	searchPath  = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	settleAfter = time.Second     // from network up: a script that is short is not to share the processor
	noServer    = 2 * time.Second // from the first question
)

// environment of every process that init starts.
var environment = []string{searchPath, "HOME=/root", "SHELL=/bin/sh", "TERM=linux", "LANG=C.UTF-8"}

// machine is the state of PID 1.
type machine struct {
	children *children
	modules  []module
	options  map[string]string
	ending   sync.Mutex
}

func newMachine() *machine { return &machine{children: newChildren()} }

// boot does everything that a boot is made of. It returns when nothing is left but to serve.
func (m *machine) boot() {
	must := func(err error) {
		if err != nil {
			complain(err)
		}
	}
	go guard("children", m.children.run)
	must(mountAll(early))
	cmdline, err := os.ReadFile("/proc/cmdline")
	must(err)
	m.options = options(string(cmdline))
	go guard("signals", m.hearSignals)
	list, err := os.ReadFile(moduleList)
	must(err)
	m.modules = parseModules(string(list))
	must(load(m.modules, func(when string) bool { return when == "network" }))
	m.note("network modules loaded")

	// The machine is made complete while the DHCP server thinks, and not before it is asked. What is in
	// no hurry waits for the script to end, but neither for one that goes on nor for a server that is not there.
	settled := sync.OnceFunc(func() { guard("settle", m.settle) })
	late := time.AfterFunc(noServer, settled)
	asked := make(chan struct{})
	prepared := make(chan struct{})
	go guard("preparation", func() {
		defer close(prepared)
		<-asked
		must(m.prepare())
		if m.has("shell") {
			go guard("console shell", m.consoleShell)
		}
	})
	iface, term, err := m.connect(asked)
	<-prepared
	if err != nil {
		must(err)
		settled()
		return
	}
	late.Reset(settleAfter)
	m.become(context.Background())
	settled()
	go guard("lease", func() { m.renew(iface, term) })
}

// note says an event only to those who look for where the time goes: ichiro.trace.
func (m *machine) note(what string) {
	if m.has("trace") {
		say("%s", what)
	}
}

func (m *machine) has(option string) bool {
	_, ok := m.options[option]
	return ok
}

// prepare mounts the rest and loads the drivers of the devices that are here.
func (m *machine) prepare() error {
	err := mountAll(rest)
	links()
	types := virtioTypes()
	return errors.Join(err, load(m.modules, func(when string) bool { return types[when] }))
}

// settle does what no launch waits for: all other modules, the power button, the agent.
func (m *machine) settle() {
	if _, err := os.Stat(agent); err == nil {
		go guard("agent", m.keepAgent)
	}
	if err := load(m.modules, func(when string) bool { return when != "network" }); err != nil {
		complain(err)
	}
	if err := m.hearButtons(); err != nil {
		complain(err)
	}
	m.note("settled")
}

// connect brings the first interface up and returns it and how long it may keep its address. It closes
// asked after the first question is out.
func (m *machine) connect(asked chan struct{}) (network.Interface, time.Duration, error) {
	release := sync.OnceFunc(func() { close(asked) })
	defer release()
	if err := network.Up(1, 0); err != nil { // the loopback is always number 1
		complain(err)
	}
	i, err := network.First()
	if err != nil {
		return i, 0, err
	}
	if err := network.Up(i.Index, 0); err != nil {
		return i, 0, err
	}
	a, err := network.Acquire(context.Background(), i, release)
	if err != nil {
		return i, 0, err
	}
	if err := m.adopt(i, a); err != nil {
		return i, 0, err
	}
	say("network up %s %s", i.Name, a.Address)
	return i, a.Duration, nil
}

// adopt makes a DHCP answer true.
func (m *machine) adopt(i network.Interface, a lease.Answer) error {
	if err := network.Configure(i, a); err != nil {
		return err
	}
	var resolv strings.Builder
	if a.Domain != "" {
		fmt.Fprintf(&resolv, "search %s\n", a.Domain)
	}
	for _, s := range a.DNS {
		fmt.Fprintf(&resolv, "nameserver %s\n", s)
	}
	if err := os.WriteFile("/etc/resolv.conf", []byte(resolv.String()), 0o644); err != nil {
		complain(err)
	}
	if a.Hostname != "" {
		unix.Sethostname([]byte(short(a.Hostname)))
	}
	return nil
}

func short(hostname string) string {
	s, _, _ := strings.Cut(hostname, ".")
	return s[:min(len(s), 64)]
}

// renew asks again at half of the lease's time, for ever: an address here is a wish that
// the host repeats, so a question from the beginning is as good as a renewal.
func (m *machine) renew(i network.Interface, term time.Duration) {
	for {
		time.Sleep(max(term/2, 30*time.Second))
		a, err := network.Acquire(context.Background(), i, func() {})
		if err != nil {
			complain(err)
		} else if err := m.adopt(i, a); err != nil {
			complain(err)
		} else {
			term = a.Duration
		}
	}
}

// keepAgent runs the Run Command agent and starts it again when it dies, at once when it had
// lived, slower and slower when it had not.
func (m *machine) keepAgent() {
	const slowest = 5 * time.Second
	wait := 50 * time.Millisecond
	for {
		log, err := os.OpenFile("/var/log/ichiro-runcmd.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			complain(err)
			return
		}
		started := time.Now()
		_, ended, err := m.children.start([]string{agent, "--await-shell", "/bin/sh"}, &syscall.ProcAttr{
			Dir: "/", Env: environment, Files: []uintptr{devNull(), log.Fd(), log.Fd()},
			Sys: &syscall.SysProcAttr{Setsid: true},
		})
		log.Close()
		if errors.Is(err, errGoingDown) {
			return
		} else if err != nil {
			complain(err)
		} else {
			m.note("agent started")
			status := <-ended
			say("trouble: agent ended rc=%d", exitCode(status))
		}
		if time.Since(started) > 10*time.Second {
			wait = 50 * time.Millisecond
		}
		time.Sleep(wait)
		wait = min(2*wait, slowest)
	}
}

// consoleShell runs a shell on the console for whoever holds it: ichiro.shell.
func (m *machine) consoleShell() {
	for {
		name := "/dev/console"
		if text, err := os.ReadFile("/sys/class/tty/console/active"); err == nil {
			if f := strings.Fields(string(text)); len(f) > 0 {
				name = "/dev/" + f[len(f)-1]
			}
		}
		tty, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOCTTY, 0)
		if err != nil {
			complain(err)
			return
		}
		_, ended, err := m.children.start([]string{"/bin/sh", "-i"}, &syscall.ProcAttr{
			Dir: "/root", Env: environment, Files: []uintptr{tty.Fd(), tty.Fd(), tty.Fd()},
			Sys: &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0},
		})
		tty.Close()
		if err != nil {
			if !errors.Is(err, errGoingDown) {
				complain(err)
			}
			return
		}
		<-ended
	}
}

// devNull is opened once; children get it as their input.
var devNull = sync.OnceValue(func() uintptr {
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	return uintptr(fd)
})
