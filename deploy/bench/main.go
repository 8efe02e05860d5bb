// Command bench measures what ichiro promises of its speed and size, and prints each figure beside
// what it is compared with.
//
// It brings up a host of its own in a directory of its own and takes it down again. Nothing is asserted
// from inside: times are taken where a user would take them, at the API and at the guest's console, and
// the reference runs in turns with ours, so that a busy machine is unfair to both alike. A figure is the
// median of its runs; the runs themselves are printed below the table, and written as JSON lines to the
// file that BENCH_OUT names.
//
//	ichiro-bench [--bin DIR] [--dir DIR] [--only up,idle,launch,ramdisk,command,runcmd,network,dhcp,imds,provision,describe]
//
// It needs root, like a host does. A figure that is missed makes the exit code 1.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/service"
)

func main() { os.Exit(service.Main("bench", run)) }

// errMissed is what a run ends with that measured everything and found a target missed.
var errMissed = errors.New("not every target is met")

// bench is one run: the host it measures and what it has found.
type bench struct {
	bin, dir string
	runDir   string // on a tmpfs, as /run is
	log      *slog.Logger
	host     *host
	figures  []figure
}

// patience is how long a section may take: ten times what it does on a busy machine would hide what hangs.
const patience = 4 * time.Minute

// patienceOf is for the section that boots a whole distribution, under emulation, and may have to make it first.
var patienceOf = map[string]time.Duration{"provision": 25 * time.Minute}

// section is a group of figures that are measured together.
type section struct {
	name    string
	measure func(*bench, context.Context) error
}

// sections are in the order in which they are run: those on an idle, empty host come first, and the one
// that fills the store is the last.
var sections = []section{
	{"up", (*bench).upEmpty},
	{"idle", (*bench).idle},
	{"launch", (*bench).launch},
	{"ramdisk", (*bench).ramdisk},
	{"command", (*bench).command},
	{"runcmd", (*bench).runcmd},
	{"network", (*bench).network},
	{"dhcp", (*bench).dhcp},
	{"imds", (*bench).imds},
	{"provision", (*bench).provision},
	{"describe", (*bench).describe},
}

func run(ctx context.Context, args []string, log *slog.Logger) (err error) {
	fs := flag.NewFlagSet("ichiro-bench", flag.ContinueOnError)
	bin := fs.String("bin", "bin", "`directory` of the programs")
	dir := fs.String("dir", "", "short `directory` for the host; it is made and removed (default: a new one below the system's)")
	only := fs.String("only", "", "comma separated `sections` (default: all)")
	if err := service.Parse(fs, args); err != nil {
		return err
	}
	wanted := strings.FieldsFunc(*only, func(r rune) bool { return r == ',' })
	for _, w := range wanted {
		if !slices.ContainsFunc(sections, func(s section) bool { return s.name == w }) {
			return service.Usagef("there is no section %q", w)
		}
	}
	if os.Geteuid() != 0 {
		return errors.New("a host needs root: run this as root")
	}
	b := &bench{log: log}
	if b.bin, err = filepath.Abs(*bin); err != nil {
		return err
	}
	if b.dir, err = workDir(*dir); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.runDir, err = runDir(b.dir); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, b.stop(context.WithoutCancel(ctx)))
		os.Remove(b.runDir) // is empty where no section needed a host
	}()
	var failed []error
	for _, s := range sections {
		if len(wanted) > 0 && !slices.Contains(wanted, s.name) || ctx.Err() != nil {
			continue
		}
		log.Info("measuring", "section", s.name)
		patience := cmp.Or(patienceOf[s.name], patience)
		limited, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it took longer than %v", patience))
		err := s.measure(b, limited)
		if errors.Is(err, context.DeadlineExceeded) {
			err = errors.Join(err, context.Cause(limited))
		}
		cancel()
		if err != nil {
			failed = append(failed, fmt.Errorf("measure %s: %w", s.name, err))
			log.Error("not measured", "section", s.name, "err", err)
		}
	}
	failed = append(failed, report(os.Stdout, b.figures))
	if err := errors.Join(failed...); err != nil {
		return err
	}
	if slices.ContainsFunc(b.figures, func(f figure) bool { return !f.Met }) {
		return errMissed
	}
	return nil
}

// runDir makes the run directory where a machine has it: on a tmpfs, if there is one.
func runDir(dir string) (string, error) {
	const memory = "/dev/shm"
	var st unix.Statfs_t
	if err := unix.Statfs(memory, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		return filepath.Join(dir, "r"), nil
	}
	name := filepath.Join(memory, filepath.Base(dir))
	return name, os.Mkdir(name, 0o755)
}

// workDir makes the directory of the host, which the daemons' users must be able to pass.
func workDir(name string) (string, error) {
	var err error
	if name == "" {
		name, err = os.MkdirTemp("", "ib-")
	} else if name, err = filepath.Abs(name); err == nil {
		err = os.Mkdir(name, 0o755)
	}
	if err != nil {
		return "", err
	}
	return name, os.Chmod(name, 0o755)
}
