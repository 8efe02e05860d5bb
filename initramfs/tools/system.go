package tools

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

func uname(_ context.Context, c *Call) int {
	set, rest, err := options(c.Args, "asnrvmo")
	if err != nil || len(rest) > 0 {
		return c.usage("[-asnrvmo]")
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return c.fail(err)
	}
	if len(set) == 0 {
		set['s'] = ""
	}
	var out []string
	for _, f := range []struct {
		letter byte
		value  string
	}{
		{'s', unix.ByteSliceToString(u.Sysname[:])}, {'n', unix.ByteSliceToString(u.Nodename[:])},
		{'r', unix.ByteSliceToString(u.Release[:])}, {'v', unix.ByteSliceToString(u.Version[:])},
		{'m', unix.ByteSliceToString(u.Machine[:])}, {'o', "GNU/Linux"},
	} {
		if has(set, f.letter) || has(set, 'a') {
			out = append(out, f.value)
		}
	}
	fmt.Fprintln(c.Stdout, strings.Join(out, " "))
	return 0
}

func hostname(_ context.Context, c *Call) int {
	if len(c.Args) > 0 && !strings.HasPrefix(c.Args[0], "-") {
		if err := unix.Sethostname([]byte(c.Args[0])); err != nil {
			return c.fail(err)
		}
		return 0
	}
	name, err := os.Hostname()
	if err != nil {
		return c.fail(err)
	}
	if slices.Contains(c.Args, "-s") {
		name, _, _ = strings.Cut(name, ".")
	}
	fmt.Fprintln(c.Stdout, name)
	return 0
}

// halt is poweroff, reboot and halt: it asks PID 1; with -f the kernel.
func halt(_ context.Context, c *Call) int {
	ask, how := unix.SIGUSR2, unix.LINUX_REBOOT_CMD_POWER_OFF
	if c.Name == "reboot" {
		ask, how = unix.SIGTERM, unix.LINUX_REBOOT_CMD_RESTART
	}
	var err error
	if slices.Contains(c.Args, "-f") {
		unix.Sync()
		err = unix.Reboot(how)
	} else {
		err = unix.Kill(1, ask)
	}
	if err != nil {
		return c.fail(err)
	}
	return 0
}

func syncAll(context.Context, *Call) int {
	unix.Sync()
	return 0
}

func nproc(_ context.Context, c *Call) int {
	fmt.Fprintln(c.Stdout, runtime.NumCPU())
	return 0
}

func whoami(_ context.Context, c *Call) int {
	fmt.Fprintln(c.Stdout, userName(os.Geteuid()))
	return 0
}

func seconds(s string) (time.Duration, error) {
	unit := time.Second
	switch {
	case strings.HasSuffix(s, "s"):
		s = s[:len(s)-1]
	case strings.HasSuffix(s, "m"):
		s, unit = s[:len(s)-1], time.Minute
	case strings.HasSuffix(s, "h"):
		s, unit = s[:len(s)-1], time.Hour
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || v < 0 {
		return 0, fmt.Errorf("%q is no length of time", s)
	}
	return time.Duration(v * float64(unit)), nil
}

func sleep(ctx context.Context, c *Call) int {
	var total time.Duration
	for _, a := range c.Args {
		d, err := seconds(a)
		if err != nil {
			return c.fail(err)
		}
		total += d
	}
	if len(c.Args) == 0 {
		return c.usage("TIME[smh]...")
	}
	select {
	case <-time.After(total):
		return 0
	case <-ctx.Done():
		return 130
	}
}

func date(_ context.Context, c *Call) int {
	now, format := time.Now(), "%a %b %e %H:%M:%S %Z %Y"
	for _, a := range c.Args {
		switch {
		case a == "-u":
			now = now.UTC()
		case strings.HasPrefix(a, "+"):
			format = a[1:]
		default:
			return c.usage("[-u] [+FORMAT]")
		}
	}
	names := map[byte]string{'a': "Mon", 'b': "Jan", 'e': "_2", 'd': "02", 'H': "15", 'M': "04", 'S': "05", 'Z': "MST", 'z': "-0700",
		'Y': "2006", 'm': "01", 'y': "06", 'F': "2006-01-02", 'T': "15:04:05", 'A': "Monday", 'B': "January", 'N': "000000000"}
	var out strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			out.WriteByte(format[i])
			continue
		}
		i++
		switch letter := format[i]; letter {
		case 's':
			fmt.Fprint(&out, now.Unix())
		case 'N':
			fmt.Fprintf(&out, "%09d", now.Nanosecond())
		case '%':
			out.WriteByte('%')
		default:
			layout, ok := names[letter]
			if !ok {
				return c.fail(fmt.Errorf("unknown format %%%c", letter))
			}
			out.WriteString(now.Format(layout))
		}
	}
	fmt.Fprintln(c.Stdout, out.String())
	return 0
}

var signalNames = map[string]syscall.Signal{"HUP": 1, "INT": 2, "QUIT": 3, "KILL": 9, "USR1": 10, "USR2": 12, "PIPE": 13, "ALRM": 14,
	"TERM": 15, "CHLD": 17, "CONT": 18, "STOP": 19}

func parseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil && n >= 0 && n < 65 {
		return syscall.Signal(n), nil
	}
	if n, ok := signalNames[strings.TrimPrefix(strings.ToUpper(s), "SIG")]; ok {
		return n, nil
	}
	return 0, fmt.Errorf("unknown signal %q", s)
}

func kill(_ context.Context, c *Call) int {
	what, args := syscall.SIGTERM, c.Args
	if len(args) > 1 && strings.HasPrefix(args[0], "-") {
		name := args[0][1:]
		args = args[1:]
		if name == "s" {
			name, args = args[0], args[1:]
		}
		var err error
		if what, err = parseSignal(name); err != nil {
			return c.fail(err)
		}
	}
	if len(args) == 0 {
		return c.usage("[-SIGNAL] PID...")
	}
	code := 0
	for _, a := range args {
		pid, err := strconv.Atoi(a)
		if err == nil {
			err = syscall.Kill(pid, what)
		}
		if err != nil {
			code = c.fail(fmt.Errorf("%s: %w", a, err))
		}
	}
	return code
}

func ps(_ context.Context, c *Call) int {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return c.fail(err)
	}
	slices.SortFunc(dirs, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	fmt.Fprintf(c.Stdout, "%5s %5s %1s %8s %s\n", "PID", "PPID", "S", "RSS", "COMMAND")
	for _, d := range dirs {
		status, err := os.ReadFile(d + "/status")
		if err != nil {
			continue // it has ended
		}
		f := map[string]string{}
		for line := range strings.Lines(string(status)) {
			k, v, _ := strings.Cut(line, ":")
			f[k] = strings.TrimSpace(v)
		}
		command, _ := os.ReadFile(d + "/cmdline")
		text := strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " "))
		if text == "" {
			text = "[" + f["Name"] + "]"
		}
		state, _, _ := strings.Cut(f["State"], " ")
		fmt.Fprintf(c.Stdout, "%5s %5s %1s %8s %s\n", filepath.Base(d), f["PPid"], state, strings.TrimSuffix(f["VmRSS"], " kB"), text)
	}
	return 0
}

func dmesg(_ context.Context, c *Call) int {
	buf := make([]byte, 1<<20)
	n, err := unix.Klogctl(3, buf) // SYSLOG_ACTION_READ_ALL
	if err != nil {
		return c.fail(err)
	}
	for line := range strings.Lines(string(buf[:n])) {
		if _, text, ok := strings.Cut(line, ">"); ok && strings.HasPrefix(line, "<") {
			line = text
		}
		fmt.Fprint(c.Stdout, line)
	}
	return 0
}

func lsmod(_ context.Context, c *Call) int {
	text, err := os.ReadFile("/proc/modules")
	if err != nil {
		return c.fail(err)
	}
	fmt.Fprintln(c.Stdout, "Module                  Size  Used by")
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 3 {
			fmt.Fprintf(c.Stdout, "%-20s %8s  %s %s\n", f[0], f[1], f[2], strings.Trim(f[3], "-,"))
		}
	}
	return 0
}

func uptime(_ context.Context, c *Call) int {
	up, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return c.fail(err)
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return c.fail(err)
	}
	s, _, _ := strings.Cut(string(up), " ")
	f := strings.Fields(string(load))
	fmt.Fprintf(c.Stdout, "up %s s, load average: %s\n", s, strings.Join(f[:min(3, len(f))], ", "))
	return 0
}

func free(_ context.Context, c *Call) int {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return c.fail(err)
	}
	v := map[string]int{}
	for line := range strings.Lines(string(text)) {
		k, rest, _ := strings.Cut(line, ":")
		if f := strings.Fields(rest); len(f) > 0 {
			v[k], _ = strconv.Atoi(f[0])
		}
	}
	fmt.Fprintf(c.Stdout, "%13s %11s %11s %11s %11s\n", "total", "used", "free", "cache", "available")
	fmt.Fprintf(c.Stdout, "Mem: %8d %11d %11d %11d %11d\n", v["MemTotal"], v["MemTotal"]-v["MemAvailable"], v["MemFree"],
		v["Cached"]+v["Buffers"], v["MemAvailable"])
	return 0
}

func env(ctx context.Context, c *Call) int {
	environ, args := os.Environ(), c.Args
	for len(args) > 0 {
		if args[0] == "-i" || args[0] == "-" {
			environ = nil
		} else if strings.Contains(args[0], "=") {
			environ = append(environ, args[0])
		} else {
			break
		}
		args = args[1:]
	}
	if len(args) == 0 {
		for _, e := range environ {
			fmt.Fprintln(c.Stdout, e)
		}
		return 0
	}
	return c.run(ctx, environ, args)
}

func printenv(ctx context.Context, c *Call) int {
	if len(c.Args) == 0 {
		return env(ctx, c)
	}
	code := 0
	for _, a := range c.Args {
		if v, ok := c.Env(a); ok {
			fmt.Fprintln(c.Stdout, v)
		} else {
			code = 1
		}
	}
	return code
}

// run runs a program and returns its exit code in the shell's numbers.
func (c *Call) run(ctx context.Context, environ, args []string) int {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Dir, environ, c.Stdin, c.Stdout, c.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() {
			return 128 + int(s.Signal())
		}
		return exit.ExitCode()
	}
	c.fail(err)
	return 127
}

func nohup(ctx context.Context, c *Call) int {
	if len(c.Args) == 0 {
		return c.usage("COMMAND [ARGUMENT]...")
	}
	signal.Ignore(unix.SIGHUP) // inherited by what we run
	return c.run(ctx, os.Environ(), c.Args)
}

func timeout(ctx context.Context, c *Call) int {
	if len(c.Args) < 2 {
		return c.usage("TIME[smh] COMMAND [ARGUMENT]...")
	}
	d, err := seconds(c.Args[0])
	if err != nil {
		return c.fail(err)
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	code := c.run(ctx, os.Environ(), c.Args[1:])
	if ctx.Err() != nil {
		return 124
	}
	return code
}

func which(_ context.Context, c *Call) int {
	path, _ := c.Env("PATH")
	code := 0
	for _, name := range c.Args {
		found := false
		for _, dir := range filepath.SplitList(path) {
			file := filepath.Join(dir, name)
			if info, err := os.Stat(file); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
				fmt.Fprintln(c.Stdout, file)
				found = true
				break
			}
		}
		if !found {
			code = 1
		}
	}
	return code
}
