package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/ichiro-metal/ichiro/runcmd/mgs/client"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
)

// shell connects this process's terminal, or its files, with a session's.
func shell(ctx context.Context, a *api, s session) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := open(a, s)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	select {
	case <-c.Begun():
	case err := <-ended:
		if _, text := c.Ended(); err == nil {
			err = fmt.Errorf("the session did not begin: %s", text)
		}
		return failed, err
	}
	tty := term.IsTerminal(int(os.Stdin.Fd()))
	if tty {
		state, err := term.MakeRaw(int(os.Stdin.Fd()))
		if err != nil {
			return failed, err
		}
		defer term.Restore(int(os.Stdin.Fd()), state)
		go follow(ctx, c)
	}
	go func() {
		if send(c, os.Stdin, tty) {
			c.Terminate()
		}
	}()
	show(c)
	err := <-ended
	code, text := c.Ended()
	switch {
	case err != nil:
		fmt.Fprintf(os.Stderr, "\r\nThe connection is lost. The session may go on: ichiro shell --resume %s\r\n", s.SessionId)
		return failed, err
	case code >= 0:
		return code, nil
	case text != "":
		return failed, fmt.Errorf("%s", text)
	}
	return failed, nil
}

// follow tells the session of the window's size.
func follow(ctx context.Context, c *client.Client) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	defer signal.Stop(changed)
	for {
		if columns, rows, err := term.GetSize(int(os.Stdin.Fd())); err == nil {
			c.Resize(columns, rows)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// show writes what the session says until it has ended.
func show(c *client.Client) {
	for {
		kind, b, err := c.Read()
		if err != nil {
			return
		}
		if kind == frame.Stderr {
			os.Stderr.Write(b)
		} else {
			os.Stdout.Write(b)
		}
	}
}

// send sends what is typed, and reports whether the user has asked for the session's end.
func send(c *client.Client, in io.Reader, tty bool) bool {
	e := escape{line: true}
	buf := make([]byte, 16<<10)
	for {
		n, err := in.Read(buf)
		out, end := buf[:n], false
		if tty {
			out, end = e.filter(out)
		}
		if len(out) > 0 && c.Write(frame.Data, out) != nil {
			return false
		}
		if end {
			return true
		}
		if err != nil {
			c.Write(frame.Data, []byte{4}) // what a terminal says at the end of its input
			return false
		}
	}
}

// escape finds ~. and ~~ at the beginning of a line, as ssh does.
type escape struct{ line, tilde bool }

func (e *escape) filter(in []byte) (out []byte, end bool) {
	for _, b := range in {
		switch {
		case e.tilde && b == '.':
			return out, true
		case e.tilde:
			e.tilde = false
			out = append(out, '~')
			if b == '~' {
				e.line = false
				continue
			}
		case e.line && b == '~':
			e.tilde = true
			continue
		}
		e.line = b == '\r' || b == '\n'
		out = append(out, b)
	}
	return out, false
}
