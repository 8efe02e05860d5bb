package link

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/ichiro-metal/ichiro/agent/notice"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const spaceDir = "/run/netns" // where ip(8) looks

// Space is one network namespace, held open.
type Space struct {
	name string
	id   uint64
	h    *netlink.Handle          // guarded by work
	raw  map[int]*nl.SocketHandle // for requests that the library cannot make; guarded by work

	work    sync.Mutex // one change at a time: it guards the namespace, and so is held over I/O
	notices *notice.Socket
	memory  *memory             // nil: the kernel must be read
	far     *far                // good as long as memory is
	stale   bool                // somebody has changed what the last Attach left
	unsure  bool                // what came while we changed something may have been a stranger's
	blame   []string            // what made the memory doubtful
	off     map[int]settings    // of links: what is not as a tap should have it
	owed    map[netip.Addr]bool // addresses taken away whose connections are not forgotten yet
	six     bool                // it has IPv6

	mu     sync.RWMutex // held over f in With: a descriptor must not become another file's meanwhile
	file   *os.File
	closed bool
}

// With calls f with the namespace's descriptor, for libraries that open sockets in it. The descriptor is good only until f
// returns; f is not called, and the error wraps fs.ErrClosed, when the network has been dropped.
func (s *Space) With(f func(fd int) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return fmt.Errorf("use namespace %s: %w", s.name, fs.ErrClosed)
	}
	return f(int(s.file.Fd()))
}

// Closed reports whether the network has been dropped, or replaced by another of its name.
func (s *Space) Closed() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.closed
}

// Name is the namespace's, as ip(8) shows it.
func (s *Space) Name() string { return s.name }

// ID tells a namespace from another that had or will have its name.
func (s *Space) ID() uint64 { return s.id }

// Do runs f on a thread inside the namespace. f must not start goroutines that rely on being there.
func (s *Space) Do(f func() error) error {
	return s.With(func(fd int) error {
		done := make(chan error, 1)
		go func() { done <- inside(fd, f) }()
		if err := <-done; err != nil {
			return fmt.Errorf("in namespace %s: %w", s.name, err)
		}
		return nil
	})
}

// inside runs f in the namespace fd. A thread that cannot be brought back is not unlocked: it ends with the goroutine.
func inside(fd int, f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = f()
	if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

func (s *Space) close() {
	s.work.Lock()
	defer s.work.Unlock()
	if s.notices != nil {
		s.notices.Close()
	}
	s.notices, s.memory = nil, nil
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.h.Close()
	for _, r := range s.raw {
		r.Close()
	}
	s.file.Close()
}

// createSpace makes a namespace under spaceDir unless there is one already, and reports whether it did.
func createSpace(name string) (made bool, err error) {
	path := filepath.Join(spaceDir, name)
	if isSpace(path) {
		return false, nil
	}
	if err := os.MkdirAll(spaceDir, 0o755); err != nil {
		return false, fmt.Errorf("make namespace %s: %w", name, err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return false, fmt.Errorf("make namespace %s: %w", name, err)
	}
	f.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is in the new namespace and ends here
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, "")
	}()
	if err := <-done; err != nil {
		os.Remove(path)
		return false, fmt.Errorf("make namespace %s: %w", name, err)
	}
	return true, nil
}

// isSpace tells a mounted namespace from the empty file that a crash may have left.
func isSpace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

func openSpace(name string) (*Space, error) {
	path := filepath.Join(spaceDir, name)
	if !isSpace(path) {
		return nil, fmt.Errorf("open namespace %s: %w", name, fs.ErrNotExist)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", name, err)
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(f.Fd()), unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open netlink of namespace %s: %w", name, err)
	}
	raw, err := nl.GetNetlinkSocketAt(netns.NsHandle(f.Fd()), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		f.Close()
		h.Close()
		return nil, fmt.Errorf("open netlink of namespace %s: %w", name, err)
	}
	// A conntrack dump of a busy VPC does not fit into the default buffer.
	if err := h.SetSocketReceiveBufferSize(4<<20, true); err != nil {
		f.Close()
		h.Close()
		raw.Close()
		return nil, fmt.Errorf("size netlink buffer of namespace %s: %w", name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		h.Close()
		raw.Close()
		return nil, fmt.Errorf("identify namespace %s: %w", name, err)
	}
	return &Space{name: name, id: st.Ino, file: f, h: h, raw: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: raw}}, off: map[int]settings{}, owed: map[netip.Addr]bool{}}, nil
}

func deleteSpace(name string) error {
	path := filepath.Join(spaceDir, name)
	for isSpace(path) { // mounted twice if two agents raced
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("delete namespace %s: %w", name, err)
		}
	}
	err := os.Remove(path)
	if errors.Is(err, syscall.EBUSY) {
		err = uncover(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete namespace %s: %w", name, err)
	}
	return nil
}

// uncover deletes the file of a namespace that is mounted where nobody sees it: when ip(8) or a container engine makes the machine's
// first namespace it lays spaceDir over itself, and what is mounted there already is then mounted in both layers. The upper one
// is not ours to take away. So it is taken away in a copy of all mounts, and the file deleted there: that takes the mounts on it
// away in every copy (unlink, since Linux 3.18).
func uncover(path string) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread has the copy and ends here
		err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		for err == nil {
			if gone := os.Remove(path); !errors.Is(gone, syscall.EBUSY) {
				done <- gone
				return
			}
			if unix.Unmount(path, unix.MNT_DETACH) != nil {
				err = unix.Unmount(spaceDir, unix.MNT_DETACH)
			}
		}
		done <- err
	}()
	return <-done
}

// listSpaces returns the names, without prefix, of a host's namespaces, also of half-made ones.
func listSpaces(prefix string) ([]string, error) {
	entries, err := os.ReadDir(spaceDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		if n, ok := strings.CutPrefix(e.Name(), prefix+"-"); ok {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names, nil
}

// sysctl writes a value below /proc/sys/net of the calling thread's namespace unless it is there already.
func sysctl(key, value string) error {
	path := "/proc/sys/net/" + key
	have, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(key, "ipv6/") {
		return nil // a kernel without IPv6 has it disabled
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if strings.TrimSpace(string(have)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s to %s: %w", path, value, err)
	}
	return nil
}

// write sets values that a new link does not have: to read them first would be half of the work.
func write(values [][2]string) error {
	for _, v := range values {
		if err := os.WriteFile("/proc/sys/net/"+v[0], []byte(v[1]), 0); err != nil {
			return fmt.Errorf("set %s to %s: %w", v[0], v[1], err)
		}
	}
	return nil
}

func sysctls(values [][2]string) error {
	for _, v := range values {
		if err := sysctl(v[0], v[1]); err != nil {
			return err
		}
	}
	return nil
}

// dump repeats a dump that the kernel marks as torn by a concurrent change.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for range 20 {
		got, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return got, err
		}
	}
	return nil, netlink.ErrDumpInterrupted
}

func listLinks(h *netlink.Handle) ([]netlink.Link, error) { return dump(h.LinkList) }

func deleteLink(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err == nil {
		err = h.LinkDel(link)
	}
	var none netlink.LinkNotFoundError
	if err == nil || errors.As(err, &none) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return fmt.Errorf("delete link %s: %w", name, err)
}
