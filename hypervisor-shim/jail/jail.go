// Package jail confines a QEMU process before its first instruction.
//
// It works in two steps. The shim starts its own program again as `ichiro-shim jail ... -- qemu
// ...`: already with the user of that machine, in a session and in network, IPC and host name
// namespaces of its own. Enter, in that process, waits at a gate (a byte on stdin), then gives up
// what is left: no new privileges by any set-user-id file, no core dumps, first in line when memory
// is short, and a Landlock domain in which only QEMU's own libraries and firmware and the files
// named by number can be opened, no signal leaves, and no abstract socket is reached. Then it
// becomes QEMU, whose own seccomp filter adds the system calls.
//
// All that QEMU works on it inherits open: its network is a tap that the agent opened.
// Where the kernel offers less than asked, Enter goes on with what there is, and Strength tells.
package jail

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Config is one jail.
type Config struct {
	User, Group int   // 0: stay who we are
	KVM         bool  // allow /dev/kvm
	Files       []int // inherited files that are opened again by number, to read
}

// fullABI is the Landlock version that holds all we ask for: 6 brought the scoping of signals and
// abstract sockets (Linux 6.12).
const fullABI = 6

// oomScore makes the kernel prefer a guest to the daemons that keep all the others.
const oomScore = 300

// Command returns the command that runs program in the jail. Its ExtraFiles are what it inherits.
func (c Config) Command(program string, args []string) (*exec.Cmd, error) {
	self := []string{"jail"}
	for _, fd := range c.Files {
		self = append(self, "-file", strconv.Itoa(fd))
	}
	if c.KVM {
		self = append(self, "-kvm")
	}
	self = append(self, "--", program)
	// By this name the program starts even where its user may not look into the directory it is in.
	cmd := exec.Command("/proc/self/exe", append(self, args...)...)
	cmd.Args[0] = "ichiro-shim"
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() != 0 {
		if c.User != 0 && c.User != os.Geteuid() {
			return nil, fmt.Errorf("run QEMU as user %d: only root can", c.User)
		}
		return cmd, nil
	}
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS
	if c.User != 0 {
		cred := &syscall.Credential{Uid: uint32(c.User), Gid: uint32(c.Group)}
		if c.KVM {
			info, err := os.Stat("/dev/kvm")
			if err != nil {
				return nil, err
			}
			cred.Groups = []uint32{info.Sys().(*syscall.Stat_t).Gid}
		}
		cmd.SysProcAttr.Credential = cred
	}
	return cmd, nil
}

// Enter is the program's jail command: it does not return but with an error.
func Enter(args []string) error {
	var c Config
	flags := flag.NewFlagSet("jail", flag.ContinueOnError)
	flags.Func("file", "inherited file that may be opened again to read", func(s string) error {
		fd, err := strconv.Atoi(s)
		c.Files = append(c.Files, fd)
		return err
	})
	flags.BoolVar(&c.KVM, "kvm", false, "allow /dev/kvm")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("jail: no program given")
	}
	runtime.LockOSThread() // what follows holds for the thread that becomes QEMU
	if err := waitAtGate(); err != nil {
		return err
	}
	if err := c.confine(); err != nil {
		return fmt.Errorf("jail: %w", err)
	}
	return os.NewSyscallError("exec "+flags.Arg(0), unix.Exec(flags.Arg(0), flags.Args(), os.Environ()))
}

// waitAtGate reads one byte from stdin, and then leaves /dev/null there. Should the shim end before
// it has put this process on record, so does this process.
func waitAtGate() error {
	var b [1]byte
	if n, err := os.Stdin.Read(b[:]); n != 1 {
		return fmt.Errorf("jail: the shim is gone: %v", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return unix.Dup2(int(null.Fd()), 0)
}

func (c Config) confine() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	// The Go runtime has raised the soft limit for itself; QEMU uses a few dozen files.
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1024, Max: 4096}); err != nil {
		return fmt.Errorf("limit open files: %w", err)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(oomScore)), 0); err != nil {
		return fmt.Errorf("set the OOM score: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("renounce new privileges: %w", err)
	}
	rules := []landlock.Rule{
		landlock.RODirs("/usr", "/lib", "/lib64", "/sys/devices/system").IgnoreIfMissing(),
		landlock.ROFiles("/etc/ld.so.cache").IgnoreIfMissing(),
		landlock.ROFiles("/dev/urandom"),
		landlock.RWFiles("/dev/null"),
	}
	for _, fd := range c.Files {
		rules = append(rules, landlock.ROFiles("/proc/self/fd/"+strconv.Itoa(fd)))
	}
	if c.KVM {
		rules = append(rules, landlock.RWFiles("/dev/kvm").WithIoctlDev())
	}
	return landlock.V6.BestEffort().Restrict(rules...)
}

// Strength describes the jail in words for status.json, beginning with what is missing.
func Strength(c Config) string {
	var s []string
	switch abi, err := ll.LandlockGetABIVersion(); {
	case err != nil || abi <= 0:
		s = append(s, "WEAK: this kernel has no Landlock, so QEMU can open what its user can")
	case abi < fullABI:
		s = append(s, fmt.Sprintf("Landlock ABI %d, of %d wanted", abi, fullABI))
	default:
		s = append(s, fmt.Sprintf("Landlock ABI %d", abi))
	}
	if os.Geteuid() != 0 {
		s = append(s, "WEAK: not started by root, so QEMU shares the shim's user and network")
	} else {
		if c.User == 0 {
			s = append(s, "WEAK: QEMU runs as root")
		} else {
			s = append(s, "user "+strconv.Itoa(c.User))
		}
		s = append(s, "own network namespace")
	}
	return strings.Join(append(s, "seccomp", "no new privileges"), "; ")
}
