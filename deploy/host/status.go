package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ichiro-metal/ichiro/deploy/process"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// Status writes a table of the daemons and one of the instances, from what they say themselves.
func Status(ctx context.Context, l Layout, out io.Writer) error {
	records := process.Recorded(l.records())
	if len(records) == 0 {
		return fmt.Errorf("no host is up in %s: start one with `ichiro up --run %s --state DIR`", l.Run, l.Run)
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "DAEMON\tPID\tSTATE")
	for _, name := range []string{"control", "agent", "imds", "gateway", "s3"} {
		p := records[name]
		state := "not running"
		if p.Alive() {
			state = l.ask(ctx, name, "/readyz")
		}
		fmt.Fprintf(w, "%s\t%d\t%s\n", name, p.PID, state)
	}
	ids, err := l.root().List()
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "\nINSTANCE\tQEMU\tSTATE\tBOOT\tSINCE")
	for _, id := range ids {
		s, err := shim.ReadStatus(string(l.root().Instance(id)))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			fmt.Fprintf(w, "%s\t-\tnot started\t-\t-\n", id)
		case err != nil:
			fmt.Fprintf(w, "%s\t-\t%v\t-\t-\n", id, err)
		default:
			if !s.State.Ended() && !s.QEMU.Alive() {
				s.State = "lost"
			}
			fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%s\n", id, s.QEMU.PID, s.State, s.Boot, time.Since(s.Since).Round(time.Second))
		}
	}
	l.network(ctx, w)
	return w.Flush()
}

// ask returns what a daemon says of itself at its admin socket, in one line.
func (l Layout) ask(ctx context.Context, daemon, path string) string {
	resp, err := l.get(ctx, daemon, path)
	if err != nil {
		return "does not answer"
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	line := strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", "; ")
	if resp.StatusCode == http.StatusOK {
		return "ready"
	}
	return line
}

// get asks a daemon at its admin socket.
func (l Layout) get(ctx context.Context, daemon, path string) (*http.Response, error) {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", l.root().Admin(daemon))
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin"+path, nil)
	if err != nil {
		return nil, err
	}
	return client.Do(req)
}

// Console returns what the instance has written to its console, and with follow what it will write.
func Console(ctx context.Context, l Layout, id cloud.InstanceID, follow bool) (io.ReadCloser, error) {
	dir := string(l.root().Instance(id))
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("instance %s is not on the host in %s", id, l.Run)
	}
	c := shim.NewClient(dir)
	if follow {
		r, _, err := c.Follow(ctx, 0)
		return r, err
	}
	r, _, err := c.Console(ctx, 0)
	if errors.Is(err, shim.ErrGone) { // an ended machine has no shim; its console is still there
		tail, err := shim.ConsoleTail(dir, 1<<20)
		return io.NopCloser(strings.NewReader(string(tail))), err
	}
	return r, err
}
