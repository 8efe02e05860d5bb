package service

import (
	"sync"
	"time"
)

// quiet is how long nothing more is said of a subject about which something was said: who flaps, once a packet of a
// guest even, gets six lines a minute.
const quiet = 10 * time.Second

// News decides which of many equal reports are worth a line in the log, where requests of guests run into the same
// trouble again and again: a change is told, what stays is not, and a change that comes right after another is told
// when the subject is quiet enough, if it still differs from what was told. The zero News has nothing told. It is safe
// for concurrent use.
type News struct {
	mu   sync.Mutex
	told map[string]told
}

type told struct {
	trouble string // "" that it is over
	at      time.Time
}

// Is reports whether the trouble of a subject, or with nil that it has none, is news at now, and then counts as told.
// That a subject of which nothing was told has no trouble is no news.
func (n *News) Is(subject string, trouble error, now time.Time) bool {
	text := ""
	if trouble != nil {
		text = trouble.Error()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	last, ok := n.told[subject]
	switch {
	case text == last.trouble:
		if ok && text == "" && now.Sub(last.at) >= quiet {
			delete(n.told, subject) // as if nothing had been
		}
		return false
	case ok && now.Sub(last.at) < quiet:
		return false
	}
	if n.told == nil {
		n.told = map[string]told{}
	}
	n.told[subject] = told{text, now}
	return true
}

// Forget drops a subject that is gone.
func (n *News) Forget(subject string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.told, subject)
}
