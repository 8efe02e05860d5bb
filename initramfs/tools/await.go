package tools

import (
	"errors"
	"io"
	"os"
	"strings"
)

// untold is the code of a shell that was started in advance and then not needed. What started it relies on the number.
const untold = 125

// await is sh --await: a shell that is started before anybody knows what it will run. Under emulation most of what a short
// script takes is the start of its shell, which is over by then.
//
// What to run comes on descriptor 3, up to its end: the script's file, the working directory, and the environment as
// NAME=value, each followed by a zero byte, and one more zero byte. Anything less is from somebody who died or changed his
// mind, and runs nothing.
func await() int {
	told := os.NewFile(3, "what to run")
	text, err := io.ReadAll(told)
	told.Close()
	if err != nil {
		return untold
	}
	file, dir, env, err := parseTold(string(text))
	if err != nil {
		return untold
	}
	os.Clearenv()
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		os.Setenv(name, value)
	}
	if err := os.Chdir(dir); err != nil {
		complain(err.Error())
		return 127
	}
	return shell([]string{file})
}

var errUntold = errors.New("not told what to run")

func parseTold(text string) (file, dir string, env []string, err error) {
	text, whole := strings.CutSuffix(text, "\x00\x00")
	f := strings.Split(text, "\x00")
	if !whole || len(f) < 2 || f[0] == "" || f[1] == "" {
		return "", "", nil, errUntold
	}
	return f[0], f[1], f[2:], nil
}
