// Package door is where the object store asks whom an S3 request is from, and what
// they may do.
//
// It speaks the private protocol of versitygw's IAM service (derive-signing-key,
// evaluate-policy, resolve-identity, resolve-principals) over a unix socket, so that
// versitygw's own client can be used on the other side. No secret of ours and no
// policy passes it: a signature is verified with a key that is good for one day, one
// region and one service. The protocol's own server knows one account and no root; and it is a
// second HTTP server to link. This one answers from the engine that judges all other requests, so
// users, roles, sessions of both and the account's root mean the same for both.
//
// Whoever may ask could act as anybody, so the socket answers the object store's user
// and nobody else: the kernel says who has connected.
package door

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/ichiro-metal/ichiro/control/iam"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/service"
)

// The protocol, as versitygw 1.8 speaks it.
const (
	header  = "X-Vgw-Private-Protocol"
	version = 1

	// maxQuestion holds the largest question: DeleteObjects names 1,000 keys of 1,024 bytes, each of
	// which JSON may write in six.
	maxQuestion = 8 << 20
)

// Door serves the questions, as a task.
type Door struct {
	engine *iam.Engine
	path   string
	peers  []uint32
	log    *slog.Logger
	ready  chan struct{}
}

// New returns a door on the unix socket path for the users with these numbers; our own always may ask.
func New(e *iam.Engine, path string, log *slog.Logger, peers ...uint32) *Door {
	return &Door{engine: e, path: path, peers: append(peers, uint32(os.Getuid())), log: log, ready: make(chan struct{})}
}

// Run serves until ctx ends.
func (d *Door) Run(ctx context.Context) error {
	l, err := service.Listen(d.path, 0o666) // its directory and the check of who connects are what protects it
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: d.Handler(), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	close(d.ready)
	known := service.Guarded{UnixListener: l.(*net.UnixListener), Users: d.peers, Stranger: func(uid uint32, err error) {
		d.log.Warn("a stranger at the object store's door", "uid", uid, "err", err)
	}}
	if err := srv.Serve(known); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", d.path, err)
	}
	return ctx.Err()
}

// Ready is closed when the door listens.
func (d *Door) Ready() <-chan struct{} { return d.ready }

// String names the door as a task.
func (d *Door) String() string { return "object store's door" }

// Handler answers the questions of whoever reaches it.
func (d *Door) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /private/version", answer(func(context.Context, struct{}) (about, error) {
		return about{Protocol: version, MinClient: version, ServerVersion: "ichiro", AccountID: d.engine.Account()}, nil
	}))
	mux.Handle("POST /private/derive-signing-key", answer(d.derive))
	mux.Handle("POST /private/evaluate-policy", answer(d.evaluate))
	mux.Handle("POST /private/resolve-identity", answer(d.identities))
	mux.Handle("POST /private/resolve-principals", answer(d.principals))
	return mux
}

// answer decodes a question, asks f and encodes what it says.
func answer[Q, A any](f func(context.Context, Q) (A, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(header, strconv.Itoa(version))
		w.Header().Set("Content-Type", "application/json")
		var q Q
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxQuestion)).Decode(&q); err != nil {
			refuse(w, http.StatusBadRequest, "BadRequest", err)
			return
		}
		a, err := f(r.Context(), q)
		switch {
		case errors.Is(err, iam.ErrUnknownKey):
			refuse(w, http.StatusForbidden, "NoSuchIdentity", err)
		case errors.Is(err, iam.ErrBadToken):
			refuse(w, http.StatusForbidden, "InvalidToken", err)
		case errors.Is(err, iam.ErrExpired):
			refuse(w, http.StatusForbidden, "ExpiredToken", err)
		case cloud.Code(err) == "ServiceUnavailable":
			refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable", err)
		case err != nil:
			refuse(w, http.StatusInternalServerError, "InternalError", err)
		default:
			_ = json.NewEncoder(w).Encode(a) // who went away asks again
		}
	})
}

func refuse(w http.ResponseWriter, status int, code string, err error) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"code": code, "error": err.Error()})
}
