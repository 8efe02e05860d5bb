//go:build linux

// The build tag lets deciders that read the formats above be checked for js/wasm, where there is no inotify.

package bundle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// ErrNobody is the error of Find when no instance has the address.
var ErrNobody = errors.New("no instance has this address")

// ErrTwoOwners is the error of Find when two bundles claim one address. Neither is believed: to answer
// for the previous owner of an address would be to give its secrets away.
var ErrTwoOwners = errors.New("two instances claim this address")

// Index finds the instance that an address belongs to. It keeps what it has read, and before each
// answer it empties an inotify queue. The kernel fills that queue before the writer's rename returns, so
// whoever asks after a file has appeared, changed or gone gets the answer that the files give. There
// is no goroutine and no interval. Where inotify is refused every question reads all files again: slow,
// and still right; Health says so.
type Index struct {
	root    Root
	inotify func(flags int) (fd int, err error)
	owner   bool // only that is kept

	// mu is held while files are read: they are small, on tmpfs, and only read after a change.
	mu      sync.Mutex
	fd      int // inotify, or -1: nothing that has been read can be relied on
	health  error
	top     int32 // watch of instances/
	watches map[int32]cloud.InstanceID
	entries map[cloud.InstanceID]*indexEntry
	owners  map[indexKey][]*indexEntry
	buf     [16 << 10]byte // some 400 events of the names used here
}

// indexKey is an address, or a prefix that is delegated.
type indexKey struct {
	vpc cloud.VPCID
	of  netip.Prefix
}

// What EC2 delegates: a /28 of IPv4, a /80 of IPv6.
const (
	delegated4 = 28
	delegated6 = 80
)

func own(vpc cloud.VPCID, a netip.Addr) indexKey {
	return indexKey{vpc, netip.PrefixFrom(a, a.BitLen())}
}

type indexEntry struct {
	id       cloud.InstanceID
	watch    int32
	claims   []indexKey
	metadata *Metadata // nil: no file, or err, or nobody wants it
	err      error

	credentials     *Credentials
	credentialsErr  error
	credentialsRead bool
}

// Found is the answer of Find. The metadata must not be changed: others hold it too. NewOwners leaves it out.
type Found struct {
	ID       cloud.InstanceID
	Dir      Dir
	Metadata *Metadata
}

// indexMask is what can change an answer: names that come and go. A write in place ends with CLOSE_WRITE.
const indexMask = syscall.IN_CREATE | syscall.IN_DELETE | syscall.IN_MOVED_FROM | syscall.IN_MOVED_TO |
	syscall.IN_CLOSE_WRITE | syscall.IN_DELETE_SELF | syscall.IN_MOVE_SELF | syscall.IN_ONLYDIR

const (
	metadataFile    = "metadata.json"
	credentialsFile = "credentials.json"
)

// NewIndex returns an Index of a run directory, which need not exist yet.
func NewIndex(root Root) *Index { return &Index{root: root, inotify: syscall.InotifyInit1, fd: -1} }

// NewOwners returns an Index for who wants no more than to know whose an address is: ten thousand instances' metadata would be
// half of all that it holds.
func NewOwners(root Root) *Index {
	x := NewIndex(root)
	x.owner = true
	return x
}

// Find returns the instance that has the address in the VPC; ErrNobody or ErrTwoOwners if there is not exactly one.
func (x *Index) Find(vpc cloud.VPCID, addr netip.Addr) (Found, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.refresh()
	return x.found(vpc, addr, x.owners[own(vpc, addr.Unmap())])
}

// Behind is Find for those who are behind an instance, too: its containers, with the addresses of the prefixes that are delegated to it.
func (x *Index) Behind(vpc cloud.VPCID, addr netip.Addr) (Found, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.refresh()
	return x.found(vpc, addr, x.behind(vpc, addr))
}

// Lately is whom Behind would have returned when the files were last looked at; "" for nobody. It takes a tenth of the time: for
// counting, where a moment's error does no harm.
func (x *Index) Lately(vpc cloud.VPCID, addr netip.Addr) cloud.InstanceID {
	x.mu.Lock()
	defer x.mu.Unlock()
	if owners := x.behind(vpc, addr); len(owners) == 1 {
		return owners[0].id
	}
	return ""
}

func (x *Index) behind(vpc cloud.VPCID, addr netip.Addr) []*indexEntry {
	addr = addr.Unmap()
	bits := delegated4
	if addr.Is6() {
		bits = delegated6
	}
	owners := x.owners[own(vpc, addr)]
	if p, err := addr.Prefix(bits); err == nil {
		for _, e := range x.owners[indexKey{vpc, p}] {
			if !slices.Contains(owners, e) {
				owners = append(slices.Clip(owners), e)
			}
		}
	}
	return owners
}

func (x *Index) found(vpc cloud.VPCID, addr netip.Addr, owners []*indexEntry) (Found, error) {
	switch len(owners) {
	case 1:
		e := owners[0]
		return Found{ID: e.id, Dir: x.root.Instance(e.id), Metadata: e.metadata}, nil
	case 0:
		return Found{}, fmt.Errorf("find %s in %s: %w%s", addr, vpc, ErrNobody, x.broken())
	default:
		return Found{}, fmt.Errorf("find %s in %s: %w: %s and %s", addr, vpc, ErrTwoOwners, owners[0].id, owners[1].id)
	}
}

// Credentials returns the role credentials of an instance; fs.ErrNotExist if it has none.
func (x *Index) Credentials(id cloud.InstanceID) (*Credentials, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.refresh()
	e := x.entries[id]
	if e == nil {
		return nil, fmt.Errorf("credentials of %s: %w", id, fs.ErrNotExist)
	}
	if !e.credentialsRead {
		e.credentialsRead = true
		e.credentials, e.credentialsErr = nil, nil
		if c, err := Read[Credentials](x.root.Instance(id).Path(credentialsFile)); err != nil {
			e.credentialsErr = err
		} else {
			e.credentials = &c
		}
	}
	return e.credentials, e.credentialsErr
}

// Health says what makes answers slow or missing.
func (x *Index) Health() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.refresh()
	if b := x.broken(); b != "" {
		return errors.Join(x.health, errors.New(strings.TrimPrefix(b, "; ")))
	}
	return x.health
}

// Close gives the kernel's queue back. The next Find opens another.
func (x *Index) Close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.drop()
	return nil
}

// broken names a file that could not be read, or "".
func (x *Index) broken() string {
	for _, e := range x.entries {
		if e.err != nil {
			return fmt.Sprintf("; %s could not be read: %v", x.root.Instance(e.id).Path(metadataFile), e.err)
		}
	}
	return ""
}

// refresh brings what is known up to the moment of the call.
func (x *Index) refresh() {
	if x.fd >= 0 && !x.drain() {
		x.drop()
	}
	if x.fd < 0 {
		x.scan()
	}
}

func (x *Index) drop() {
	if x.fd >= 0 {
		syscall.Close(x.fd)
	}
	x.fd, x.top, x.watches = -1, -1, nil
	x.entries, x.owners = nil, nil
}

// scan reads everything, watching first so that nothing is missed in between.
func (x *Index) scan() {
	x.drop()
	x.entries = map[cloud.InstanceID]*indexEntry{}
	x.owners = map[indexKey][]*indexEntry{}
	x.watches = map[int32]cloud.InstanceID{}
	x.health = nil
	fd, err := x.inotify(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		x.health = fmt.Errorf("open inotify: %w: raise fs.inotify.max_user_instances", err)
	} else {
		x.fd = fd
		top, err := syscall.InotifyAddWatch(fd, x.root.Instances(), indexMask)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				x.health = unwatched(x.root.Instances(), err)
			}
			x.unwatchable()
		}
		x.top = int32(top)
	}
	ids, err := x.root.List()
	if err != nil {
		x.health = errors.Join(x.health, err)
		x.unwatchable()
	}
	for _, id := range ids {
		x.add(id)
	}
}

// unwatchable makes the next question scan again.
func (x *Index) unwatchable() {
	if x.fd >= 0 {
		syscall.Close(x.fd)
	}
	x.fd = -1
}

// unwatched says what is to be done about a directory that cannot be watched.
func unwatched(path string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("watch %s: %w: raise fs.inotify.max_user_watches", path, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("watch %s: %w: let this user list it (mode 0755)", path, err)
	}
	return fmt.Errorf("watch %s: %w", path, err)
}

// add begins to follow an instance directory.
func (x *Index) add(id cloud.InstanceID) {
	x.remove(id)
	e := &indexEntry{id: id, watch: -1}
	if x.fd >= 0 {
		wd, err := syscall.InotifyAddWatch(x.fd, string(x.root.Instance(id)), indexMask)
		switch {
		case err == nil:
			e.watch = int32(wd)
			x.watches[e.watch] = id
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			return // gone again, and its removal is in the queue
		default:
			x.health = unwatched(string(x.root.Instance(id)), err)
			x.unwatchable()
		}
	}
	x.entries[id] = e
	x.load(e)
}

// remove forgets an instance directory that is gone or has been replaced.
func (x *Index) remove(id cloud.InstanceID) {
	e := x.entries[id]
	if e == nil {
		return
	}
	x.disown(e)
	delete(x.entries, id)
	if e.watch >= 0 && x.fd >= 0 {
		delete(x.watches, e.watch)
		syscall.InotifyRmWatch(x.fd, uint32(e.watch)) // fails when the directory is gone: so is the watch
	}
}

// load reads metadata.json, whatever it was before.
func (x *Index) load(e *indexEntry) {
	x.disown(e)
	e.metadata, e.err = nil, nil
	m, err := Read[Metadata](x.root.Instance(e.id).Path(metadataFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		e.err = err
		return
	case m.Instance != e.id:
		e.err = fmt.Errorf("it speaks of %q", m.Instance)
		return
	}
	e.claims = claims(&m)
	for _, k := range e.claims {
		x.owners[k] = append(x.owners[k], e)
	}
	if !x.owner {
		e.metadata = &m
	}
}

func (x *Index) disown(e *indexEntry) {
	for _, k := range e.claims {
		owners := slices.DeleteFunc(x.owners[k], func(o *indexEntry) bool { return o == e })
		if len(owners) == 0 {
			delete(x.owners, k)
		} else {
			x.owners[k] = owners
		}
	}
	e.claims = nil
}

// claims returns the addresses of an instance and the prefixes that are delegated to it, each once.
func claims(m *Metadata) (keys []indexKey) {
	add := func(k indexKey) {
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	for _, n := range m.Interfaces {
		for _, a := range slices.Concat(n.Addresses, n.IPv6) {
			add(own(n.VPC, a.Unmap()))
		}
		for _, p := range n.Prefixes {
			add(indexKey{n.VPC, p.Masked()})
		}
	}
	return keys
}

// drain applies what the kernel has queued. False means that all must be read again.
func (x *Index) drain() bool {
	for {
		n, err := syscall.Read(x.fd, x.buf[:])
		if err == syscall.EINTR {
			continue
		}
		if err == syscall.EAGAIN {
			return true
		}
		if err != nil || n < syscall.SizeofInotifyEvent {
			return false
		}
		for b := x.buf[:n]; len(b) >= syscall.SizeofInotifyEvent; {
			// struct inotify_event { int wd; uint32_t mask, cookie, len; char name[]; }, inotify(7)
			wd := int32(binary.NativeEndian.Uint32(b))
			mask := binary.NativeEndian.Uint32(b[4:])
			end := syscall.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
			name := strings.TrimRight(string(b[syscall.SizeofInotifyEvent:end]), "\x00")
			b = b[end:]
			if !x.event(wd, mask, name) || x.fd < 0 {
				return false
			}
		}
	}
}

// event applies one change. False means that all must be read again.
func (x *Index) event(wd int32, mask uint32, name string) bool {
	const gone = syscall.IN_IGNORED | syscall.IN_DELETE_SELF | syscall.IN_MOVE_SELF
	if mask&syscall.IN_Q_OVERFLOW != 0 {
		return false
	}
	if wd == x.top {
		id := cloud.InstanceID(filepath.Base(name))
		switch {
		case mask&gone != 0:
			return false
		case !cloud.WellFormed(id, "i"):
		case mask&(syscall.IN_CREATE|syscall.IN_MOVED_TO) != 0:
			x.add(id)
		case mask&(syscall.IN_DELETE|syscall.IN_MOVED_FROM) != 0:
			x.remove(id)
		}
		return true
	}
	id, known := x.watches[wd]
	if !known {
		return true // the end of a watch that was given up
	}
	switch {
	case mask&(syscall.IN_IGNORED|syscall.IN_DELETE_SELF) != 0:
		x.remove(id)
	case name == metadataFile:
		x.load(x.entries[id])
	case name == credentialsFile:
		x.entries[id].credentialsRead = false
	}
	return true
}
