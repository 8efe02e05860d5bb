// Package iam knows who may do what: users, access keys, roles, policies,
// instance profiles and sessions, and the decision about every API request.
//
// What a policy means is decided by versitygw's IAM engine (iamapi/policy), called as
// a library; trust policies are put to it statement by statement. The rest is here:
// that engine's own actions lack roles for services, managed policies, profiles and
// AssumeRole, and know one account only.
//
// Records lie in etcd below iam/. A change is written only if all that it read is
// unchanged. Requests are judged from a mirror in memory, so they cost no round trip.
// Secrets never reach etcd in the clear: access keys are sealed with a key file, a
// session's secret follows from its id, and its token is sealed and says all.
//
//	root: keys/root, may do everything     user: AKIA...       role: ASIA... with a token
package iam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/ichiro-metal/ichiro/internal/store"
)

// Config is what an Engine needs to know.
type Config struct {
	KeyDir  string // holds the files root and seal; made when missing
	Account string // 12 digits
	Log     *slog.Logger
	Now     func() time.Time // nil: the clock
}

// Engine answers all questions of identity. It is safe for concurrent use, and
// several may run over one store.
type Engine struct {
	client  *store.Client
	mirror  *store.Mirror
	account string
	root    RootKey
	since   time.Time // when the root key was made
	vault   *vault
	log     *slog.Logger
	clock   func() time.Time
}

var accountPattern = regexp.MustCompile(`^[0-9]{12}$`)

// New returns an engine over the store. Its keys are made when there are none.
func New(client *store.Client, cfg Config) (*Engine, error) {
	if !accountPattern.MatchString(cfg.Account) {
		return nil, fmt.Errorf("account %q is not 12 digits", cfg.Account)
	}
	root, err := LoadRoot(cfg.KeyDir)
	if err != nil {
		return nil, err
	}
	made, err := os.Stat(filepath.Join(cfg.KeyDir, rootFile))
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	v, err := loadVault(cfg.KeyDir)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		client: client, mirror: store.NewMirror(client, store.IAMPrefix(entities)),
		account: cfg.Account, root: root, since: made.ModTime().UTC().Truncate(time.Second), vault: v, log: cfg.Log, clock: cfg.Now,
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.clock == nil {
		e.clock = time.Now
	}
	return e, nil
}

// sweepEvery is how often records of finished sessions are removed. They are
// refused from the second on which they end; this is only tidiness.
const sweepEvery = 10 * time.Minute

// Run keeps the mirror true and sweeps, until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	mirrored := make(chan error, 1)
	go func() { mirrored <- e.mirror.Run(ctx) }()
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-mirrored:
			return err
		case <-tick.C:
			if n, err := e.Sweep(ctx); err != nil && !errors.Is(err, context.Canceled) {
				e.log.Warn("sessions not swept", "err", err)
			} else if n > 0 {
				e.log.Info("sessions swept", "count", n)
			}
		}
	}
}

// Ready is closed when requests can be judged.
func (e *Engine) Ready() <-chan struct{} { return e.mirror.Ready() }

// OnChange has f called after every change of a user, role, policy or profile, but not of a session; f must not block. Call it
// before Run.
func (e *Engine) OnChange(f func()) { e.mirror.OnChange(f) }

// String names the engine as a task.
func (e *Engine) String() string { return "iam" }

// Account returns the account's twelve digits.
func (e *Engine) Account() string { return e.account }

// RootKey returns the root's key, for those who run the host.
func (e *Engine) RootKey() RootKey { return e.root }

// Since returns when the account began: when its root key was made.
func (e *Engine) Since() time.Time { return e.since }

// now is the clock in UTC and whole seconds, which is what answers carry.
func (e *Engine) now() time.Time { return e.clock().UTC().Truncate(time.Second) }

func (e *Engine) arn(resource string) string { return "arn:aws:iam::" + e.account + ":" + resource }

func (e *Engine) isReady() bool {
	select {
	case <-e.mirror.Ready():
		return true
	default:
		return false
	}
}
