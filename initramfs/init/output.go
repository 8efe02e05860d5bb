package main

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// output carries what a script prints to its log and to the console. A script may leave
// processes behind that go on printing: copy serves them for as long as they live, and
// drain makes sure that all which the script itself printed is out before its end is said.
type output struct {
	in      *os.File
	log     *os.File
	child   uintptr // the end that the script gets
	drained chan struct{}
	once    sync.Once
}

func newOutput(path string) (*output, error) {
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open the script's log: %w", err)
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		log.Close()
		return nil, fmt.Errorf("open a pipe: %w", err)
	}
	unix.SetNonblock(p[0], true) // ours only; the script gets an ordinary pipe
	return &output{in: os.NewFile(uintptr(p[0]), "script output"), log: log, child: uintptr(p[1]),
		drained: make(chan struct{})}, nil
}

// handedOver closes our copy of the script's end, after the script has got its own.
func (o *output) handedOver() { unix.Close(int(o.child)) }

func (o *output) copy() {
	defer o.log.Close()
	defer o.in.Close()
	defer o.once.Do(func() { close(o.drained) })
	buf := make([]byte, 16<<10)
	for {
		n, err := o.in.Read(buf)
		o.write(buf[:n])
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded): // drain was called
			o.in.SetReadDeadline(time.Time{})
			o.empty(buf)
			o.once.Do(func() { close(o.drained) })
		case err != nil:
			return
		}
	}
}

// empty takes what is in the pipe now.
func (o *output) empty(buf []byte) {
	raw, err := o.in.SyscallConn()
	if err != nil {
		return
	}
	raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.Read(int(fd), buf)
			if n <= 0 || err != nil {
				return true
			}
			o.write(buf[:n])
		}
	})
}

func (o *output) write(b []byte) {
	if len(b) > 0 {
		o.log.Write(b)
		os.Stdout.Write(b)
	}
}

// drain returns when everything printed until now has been written.
func (o *output) drain() {
	o.in.SetReadDeadline(time.Unix(1, 0))
	<-o.drained
}
