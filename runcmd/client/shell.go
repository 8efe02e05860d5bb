package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/client"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
)

// shell connects this process's terminal, or its files, with a session's.
func shell(ctx context.Context, a *api, s session) (int, error) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	leave := context.AfterFunc(ctx, cancel) // the session goes on, for whoever resumes it
	defer leave()
	c := open(a, s)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(run) }()
	select {
	case <-c.Begun():
	case err := <-ended:
		if _, text := c.Ended(); err == nil {
			err = fmt.Errorf("the session did not begin: %s", text)
		}
		return failed, err
	}
	// The user wants the session's end. The client's word for it stands behind input that nobody may take, and the API's is a matter of
	// policies: whichever comes first.
	end := func() {
		time.AfterFunc(obey, cancel)
		go c.Terminate()
		_ = a.terminate(run, s.SessionId)
	}
	var caught context.Context
	kind, _ := c.Session()
	batch := kind == string(cloud.SessionBatch)
	unread := make(chan error, 1)
	switch {
	case batch && leave():
		// Nobody resumes a command whose output so far is here: it ends with this process, also when nobody reads that any more.
		signal.Ignore(syscall.SIGPIPE)
		var release context.CancelFunc
		caught, release = signal.NotifyContext(ctx, os.Interrupt)
		defer release()
		defer context.AfterFunc(caught, func() {
			release() // another Ctrl-C ends this process
			end()
		})()
		go func() {
			if err := copyTo(c, os.Stdin); err != nil {
				unread <- err
				end()
				return
			}
			c.CloseInput()
		}()
	case term.IsTerminal(int(os.Stdin.Fd())):
		state, err := term.MakeRaw(int(os.Stdin.Fd()))
		if err != nil {
			return failed, err
		}
		defer term.Restore(int(os.Stdin.Fd()), state)
		go follow(run, c)
		go func() {
			if typed(c, os.Stdin) {
				end()
			}
		}()
	default:
		go script(c, os.Stdin)
	}
	var unsaid error
	if batch {
		unsaid = show(c, end)
	} else {
		show(c, func() {}) // a terminal may be gone, and its session be resumed from another
	}
	err := <-ended
	code, text := c.Ended()
	select {
	case err := <-unread:
		return failed, fmt.Errorf("the command was ended: %w", err)
	default:
	}
	switch {
	case unsaid != nil:
		return failed, fmt.Errorf("the command was ended: %w", unsaid)
	case caught != nil && caught.Err() != nil:
		return failed, errors.New("stopped, and the command with it")
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

// obey is how long a guest may take to end a command that was stopped.
const obey = 5 * time.Second

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

// show writes what the session says until it has ended. It calls lost when something cannot be written, and writes no more.
func show(c *client.Client, lost func()) (unsaid error) {
	for {
		kind, b, err := c.Read()
		if err != nil {
			return unsaid
		}
		to := os.Stdout
		if kind == frame.Stderr {
			to = os.Stderr
		}
		if unsaid != nil {
			continue
		}
		if _, unsaid = to.Write(b); unsaid != nil {
			go lost()
		}
	}
}

// typed sends what is typed at a terminal, and reports whether the user has asked for the session's end.
func typed(c *client.Client, in io.Reader) bool {
	e := escape{line: true}
	buf := make([]byte, 16<<10)
	for {
		n, err := in.Read(buf)
		out, end := e.filter(buf[:n])
		if len(out) > 0 && c.Write(frame.Data, out) != nil {
			return false
		}
		if err != nil {
			c.Write(frame.Data, []byte{endOfInput})
		}
		if end || err != nil {
			return end
		}
	}
}

// endOfInput is what a terminal says when there is no more: Ctrl-D.
const endOfInput = 4

// script sends a file to the session's terminal as if it were typed: to the end of its last line, and then that there is no more.
func script(c *client.Client, in io.Reader) {
	last := &lastByte{Reader: in, b: '\n'}
	_ = copyTo(c, last) // what cannot be read is the end, too
	end := []byte{endOfInput}
	if last.b != '\n' && last.b != '\r' {
		end = []byte{'\n', endOfInput}
	}
	c.Write(frame.Data, end)
}

// copyTo sends what is read until its end, or until the session's. The error is that of reading.
func copyTo(c *client.Client, in io.Reader) error {
	buf := make([]byte, 16<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 && c.Write(frame.Data, buf[:n]) != nil || errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// lastByte remembers what was read last.
type lastByte struct {
	io.Reader
	b byte
}

func (l *lastByte) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	if n > 0 {
		l.b = p[n-1]
	}
	return n, err
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
