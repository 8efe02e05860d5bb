package control

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/ichiro-metal/ichiro/hypervisor-shim/machine"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// serve answers at the control socket until the returned function is called, which gives those who
// follow the console a moment to read its end.
func (s *Shim) serve(l *net.UnixListener) (stop func()) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", s.getStatus)
	mux.HandleFunc("GET /console", s.getConsole)
	mux.HandleFunc("POST /stop", s.postStop)
	mux.HandleFunc("POST /reboot", func(w http.ResponseWriter, r *http.Request) {
		s.request(w, r, happening{event: machine.Reboot})
	})
	mux.HandleFunc("POST /kill", func(w http.ResponseWriter, r *http.Request) {
		s.request(w, r, happening{event: machine.Kill})
	})
	mux.HandleFunc("POST /plug", s.postPlug)
	mux.HandleFunc("POST /unplug", s.postUnplug)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ConnContext: shim.WithTaking}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(shim.TakingListener{UnixListener: l}); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("control socket ended", "err", err)
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), drain)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
		<-done
	}
}

func (s *Shim) getStatus(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.status.get()) // whoever asked may be gone
}

func (s *Shim) postStop(w http.ResponseWriter, r *http.Request) {
	after, err := time.ParseDuration(r.FormValue("force_after"))
	if err != nil || after < 0 {
		http.Error(w, "force_after: give a duration such as 90s", http.StatusBadRequest)
		return
	}
	s.request(w, r, happening{event: machine.Stop, forceAfter: after})
}

// request puts a wish before the loop and answers with what became of it.
func (s *Shim) request(w http.ResponseWriter, r *http.Request, h happening) {
	refused := make(chan error, 1)
	h.refused = refused
	if !s.tell(r.Context(), h) {
		http.Error(w, "the machine's keeper is ending", http.StatusConflict)
		return
	}
	if err := <-refused; err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

func (s *Shim) getConsole(w http.ResponseWriter, r *http.Request) {
	var offset int64
	if v := r.FormValue("offset"); v != "" {
		var err error
		if offset, err = strconv.ParseInt(v, 10, 64); err != nil {
			http.Error(w, "offset: give a number of bytes", http.StatusBadRequest)
			return
		}
	}
	from, err := s.console.Locate(offset)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-Console-Offset", strconv.FormatInt(from, 10))
	if r.FormValue("follow") == "" {
		_, _ = s.console.Copy(w, from)
		return
	}
	flush := http.NewResponseController(w).Flush
	if err := flush(); err != nil { // the headers, before there is anything to read
		return
	}
	_ = s.console.Follow(r.Context(), w, from, flush)
}
