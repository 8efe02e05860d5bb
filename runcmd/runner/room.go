package runner

import (
	"os"
	"sync"

	"github.com/ichiro-metal/ichiro/runcmd/journal"
	"github.com/ichiro-metal/ichiro/runcmd/spool"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// rooms hands out directories for commands, with their outputs opened and, where a shell can wait, one that does. One room
// is always made in advance: making it takes a guest under TCG a third of what a shell takes, and a shell is in it.
type rooms struct {
	cfg    Config
	groups *cgroups

	mu    sync.Mutex
	spare *room
}

type room struct {
	*journal.Spare
	streams [wire.Streams]*spool.Stream
	out     [wire.Streams]*os.File // the ends that processes are given
	early   *early                 // nil where no shell waits
}

// prepare makes the spare room, if there is none.
func (r *rooms) prepare() (err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.spare == nil {
		r.spare, err = r.create()
	}
	return err
}

// take returns a room that nobody has.
func (r *rooms) take() (*room, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.spare; m != nil {
		r.spare = nil
		return m, nil
	}
	return r.create()
}

func (r *rooms) create() (*room, error) {
	spare, err := r.cfg.Journal.Spare()
	if err != nil {
		return nil, err
	}
	m := &room{Spare: spare}
	var pipes []*os.File
	for n := range wire.Streams {
		if m.streams[n], err = spool.Open(m.Dir, n.String(), 0, nil); err == nil {
			pipes = append(pipes, m.streams[n].Pipe())
			m.out[n], err = m.streams[n].Writer()
		}
		if err != nil {
			r.leave(m)
			return nil, err
		}
	}
	r.cfg.Keep(m.Dir, pipes)
	if r.cfg.Shell == "" {
		return m, nil
	}
	if m.early, err = startEarly(r.cfg.Shell, m.out, r.groups); err == nil {
		err = m.Early(m.early.progress())
	}
	if err != nil { // it only makes the next command slower
		r.cfg.Log.Warn("start a shell in advance", "err", err)
		if m.early != nil {
			m.early.leave(r.groups)
			m.early = nil
		}
	}
	return m, nil
}

// leave gives up a room that no command has.
func (r *rooms) leave(m *room) {
	if m.early != nil {
		m.early.leave(r.groups)
	}
	for n := range wire.Streams {
		if m.streams[n] != nil {
			m.streams[n].Close()
		}
	}
	closeAll(m.out)
	r.cfg.Release(m.Dir)
	if err := m.Discard(); err != nil {
		r.cfg.Log.Warn("remove a directory that no command has", "err", err)
	}
}

// close gives up the spare room.
func (r *rooms) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.spare != nil {
		r.leave(r.spare)
		r.spare = nil
	}
}
