// Package keeper is the small process above the agent's worker, which makes the worker's death harmless.
//
// The kernel hands the children of a dead process to its nearest subreaper: the keeper. So it learns
// how commands end whose agent was killed, and tells the next worker, which it starts at once. It
// also holds the pipes of running commands open, so that what is in them is not lost. It has no other
// state and does nothing else: what can fail is in the worker.
//
//	keeper --- worker ("keep NAME" with descriptors, "release NAME", "settled", "exit PID START" over a socket pair)
//	   \--------- commands of a worker that was killed
package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Worker is the environment variable that tells a process that it is the worker. Its socket is at fd 3.
const Worker = "ICHIRO_RUNCMD_WORKER"

const (
	// remembered bounds the ends that are kept: background processes of commands end here, too.
	remembered = 1024
	// most is how many pipes come with one message.
	most = 8
	// A worker that dies young is not started again in a tight loop.
	firstPause = 20 * time.Millisecond
	maxPause   = 500 * time.Millisecond // with the start of a worker, a guest is without its agent for a second at most
	healthy    = 10 * time.Second
)

// Process names a process for ever: its number and when it was started, in clock ticks since boot.
type Process struct {
	PID   int
	Start uint64
}

// Keeper starts workers.
type Keeper struct {
	log *slog.Logger

	mu    sync.Mutex
	ends  map[Process]int
	order []Process // of ends, oldest first
	asked map[Process]bool
	pipes map[string]held
	sock  int // of the current worker, -1 without
	turn  int // how many workers there have been

	settled bool // one has gone on with what it found
}

// held are the descriptors of a command's pipes, and the worker that last asked for them to be held.
type held struct {
	fds  []int
	turn int
}

// New returns a keeper.
func New(log *slog.Logger) *Keeper {
	return &Keeper{
		log: log, ends: map[Process]int{}, asked: map[Process]bool{}, pipes: map[string]held{}, sock: -1,
	}
}

// Run keeps a worker running until ctx ends. The worker is this program with the same arguments.
func (k *Keeper) Run(ctx context.Context) error {
	// The kernel kills the worker when the thread that made it ends: so this one must not.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	pause := firstPause
	for {
		began := time.Now()
		status, err := k.work(ctx)
		if err != nil || ctx.Err() != nil {
			return err
		}
		if status.Exited() && status.ExitStatus() == 2 && !k.worked() { // a panic exits so, too
			return errors.New("the worker does not understand its arguments")
		}
		k.log.Warn("agent is started again", "status", describe(status))
		if time.Since(began) > healthy {
			pause = firstPause
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

// worked reports whether a worker has ever come so far as to understand its arguments.
func (k *Keeper) worked() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.settled
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return s.Signal().String()
	}
	return fmt.Sprintf("exit %d", s.ExitStatus())
}

// work runs one worker to its end and reaps whatever else ends meanwhile.
func (k *Keeper) work(ctx context.Context) (syscall.WaitStatus, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "worker")
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: os.Args, Env: append(os.Environ(), Worker+"=1"),
		Stdout: os.Stdout, Stderr: os.Stderr, ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		unix.Close(pair[0])
		return 0, fmt.Errorf("start the agent: %w", err)
	}
	pid := cmd.Process.Pid
	k.mu.Lock()
	k.sock = pair[0]
	k.turn++
	k.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { k.listen(pair[0]) })
	defer context.AfterFunc(ctx, func() { unix.Kill(pid, unix.SIGTERM) })()
	status, err := k.reap(pid)
	wg.Wait() // the worker's end of the socket is closed
	k.mu.Lock()
	k.sock, k.asked = -1, map[Process]bool{}
	k.mu.Unlock()
	unix.Close(pair[0])
	for err == nil { // commands that ended with the worker are on record before the next one asks
		var other int
		if other, _, err = k.next(unix.WNOHANG); other == 0 {
			break
		}
	}
	if errors.Is(err, unix.ECHILD) {
		err = nil
	}
	return status, err
}

// reap records the ends of all children until that of the worker.
func (k *Keeper) reap(worker int) (syscall.WaitStatus, error) {
	for {
		pid, status, err := k.next(0)
		if err != nil || pid == worker {
			return status, err
		}
	}
}

// next waits for a child to end and records how it did; 0 if flags is WNOHANG and none has.
func (k *Keeper) next(flags int) (int, syscall.WaitStatus, error) {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT|flags, nil)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return 0, 0, err
		}
	}
	// siginfo_t of SIGCHLD on 64 bit: si_pid at byte 16, after three ints and padding.
	pid := int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), 16)))
	if pid == 0 {
		return 0, 0, nil
	}
	p := Process{PID: pid}
	if s, err := Stat(pid); err == nil { // a zombie still tells
		p.Start = s.Start
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		return 0, 0, err
	}
	code := status.ExitStatus()
	if status.Signaled() {
		code = 128 + int(status.Signal())
	}
	k.record(p, code)
	return pid, status, nil
}

// record remembers how a process ended and answers the worker that waits for it.
func (k *Keeper) record(p Process, code int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.order) == remembered {
		delete(k.ends, k.order[0])
		k.order = k.order[1:]
	}
	k.ends[p] = code
	k.order = append(k.order, p)
	if k.asked[p] {
		delete(k.asked, p)
		k.answer(p, code, true)
	}
}

// answer tells the worker how a process ended. The lock is held: the answer is a few bytes, and a worker
// that does not read loses it rather than hold up the keeper.
func (k *Keeper) answer(p Process, code int, known bool) {
	if k.sock >= 0 {
		msg := fmt.Sprintf("%d %d %d %t", p.PID, p.Start, code, known)
		unix.Sendto(k.sock, []byte(msg), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
	}
}

// listen serves the worker until it closes its end.
func (k *Keeper) listen(sock int) {
	buf, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*most))
	for {
		n, m, _, _, err := unix.Recvmsg(sock, buf, rights, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		verb, rest, _ := strings.Cut(string(buf[:n]), " ")
		switch verb {
		case "keep":
			k.keep(rest, descriptors(rights[:m]))
		case "release":
			k.release(rest)
		case "settled":
			k.settle()
		case "exit":
			var p Process
			if _, err := fmt.Sscan(rest, &p.PID, &p.Start); err == nil {
				k.tell(p)
			}
		}
	}
}

// tell answers how a process ended: now, or when it does, or that it is not ours to know.
func (k *Keeper) tell(p Process) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if code, ok := k.ends[p]; ok {
		k.answer(p, code, true)
		return
	}
	if s, err := Stat(p.PID); err == nil && s.Start == p.Start && s.Parent == os.Getpid() {
		k.asked[p] = true
		return
	}
	k.answer(p, 0, false)
}

// descriptors returns what came with a message.
func descriptors(rights []byte) (fds []int) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if got, err := unix.ParseUnixRights(&m); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

// keep holds reading ends only: writers must be able to see when the last of them is gone.
func (k *Keeper) keep(name string, fds []int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop(name)
	k.pipes[name] = held{fds, k.turn}
}

// settle lets go of what only earlier workers had asked for: this one has opened by now whatever it goes on with.
func (k *Keeper) settle() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.settled = true
	for name, h := range k.pipes {
		if h.turn < k.turn {
			k.drop(name)
		}
	}
}

func (k *Keeper) release(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop(name)
}

func (k *Keeper) drop(name string) {
	for _, fd := range k.pipes[name].fds {
		unix.Close(fd)
	}
	delete(k.pipes, name)
}
