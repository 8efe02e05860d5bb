package tools

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// own are the tools that are written here.
func own() map[string]tool {
	return map[string]tool{
		"uname": uname,
	}
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

func uname(_ context.Context, c *Call) int {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return c.fail(err)
	}
	text := func(b []byte) string { return unix.ByteSliceToString(b) }
	fields := []struct{ letter, value string }{
		{"s", text(u.Sysname[:])}, {"n", text(u.Nodename[:])}, {"r", text(u.Release[:])},
		{"v", text(u.Version[:])}, {"m", text(u.Machine[:])}, {"o", "GNU/Linux"},
	}
	want := strings.Join(c.Args, "")
	want = strings.ReplaceAll(want, "-", "")
	if want == "" {
		want = "s"
	}
	var out []string
	for _, f := range fields {
		if strings.Contains(want, f.letter) || strings.Contains(want, "a") {
			out = append(out, f.value)
		}
	}
	if len(out) == 0 {
		return c.usage("[-asnrvmo]")
	}
	fmt.Fprintln(c.Stdout, strings.Join(out, " "))
	return 0
}
