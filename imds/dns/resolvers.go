package dns

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// silence is how long a resolver that did not answer is asked after the others.
const silence = 30 * time.Second

// maxResolvers is how many lines of the file count (MAXNS of resolv.h).
const maxResolvers = 3

// Resolvers are those of the host: named once, or in a file that is read again when it has changed.
type Resolvers struct {
	path  string // empty: fixed
	fixed []netip.AddrPort

	mu     sync.Mutex
	info   fs.FileInfo
	read   []netip.AddrPort
	silent map[netip.AddrPort]time.Time // until when
}

// ResolversOf reads a file such as /etc/resolv.conf.
func ResolversOf(path string) *Resolvers {
	return &Resolvers{path: path, silent: map[netip.AddrPort]time.Time{}}
}

// ResolversAt are named once and for all.
func ResolversAt(at ...netip.AddrPort) *Resolvers {
	return &Resolvers{fixed: at, silent: map[netip.AddrPort]time.Time{}}
}

// list returns the resolvers in the order in which they are to be asked; an error if there are none.
func (r *Resolvers) list(now time.Time) ([]netip.AddrPort, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	servers := r.fixed
	if r.path != "" {
		if err := r.refresh(); err != nil {
			return nil, err
		}
		servers = r.read
	}
	if len(servers) == 0 {
		return nil, errors.New("the host has no resolver: name one in " + r.path)
	}
	return order(servers, r.silent, now), nil
}

// refresh reads the file if it is another than the last time; r.mu is held. While it is away what it said last counts: those who
// replace it do not all rename.
func (r *Resolvers) refresh() error {
	info, err := os.Stat(r.path)
	if err == nil && r.info != nil && os.SameFile(info, r.info) && info.ModTime().Equal(r.info.ModTime()) && info.Size() == r.info.Size() {
		return nil
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(r.path)
	}
	if err != nil {
		if len(r.read) > 0 {
			return nil
		}
		return fmt.Errorf("read the host's resolvers: %w", err)
	}
	if found := parseResolvConf(string(text)); len(found) > 0 || len(r.read) == 0 {
		r.read = found
	}
	r.info = info
	clear(r.silent)
	return nil
}

// parseResolvConf returns the name servers of a resolv.conf(5).
func parseResolvConf(text string) (out []netip.AddrPort) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" || len(out) == maxResolvers {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, netip.AddrPortFrom(a, 53))
		}
	}
	return out
}

func (r *Resolvers) blame(server netip.AddrPort, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.silent[server] = now.Add(silence)
}

func (r *Resolvers) praise(server netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.silent, server)
}
