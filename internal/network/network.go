// Package network is what programs in a guest do to its network: the hands to package lease's head.
//
// It speaks to the kernel in route netlink messages that it writes itself, and to the DHCP
// server through a packet socket. A general netlink library would be four times the size of
// everything else here, and every byte of init is unpacked at every boot.
// Configure applies a whole answer, as init does for the first interface; Addresses, Routes and Rules are for
// whoever compares what there is with what there should be, each with its Add and Delete.
// All of it may be called again with the same or another wish.
package network

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/lease"
)

// Interface is one network interface of this machine.
type Interface struct {
	Name  string
	Index int
	MAC   [6]byte
}

// ErrNone is returned by First when the machine has only its loopback.
var ErrNone = errors.New("no network interface")

// First returns the interface with the lowest index that is not the loopback.
func First() (Interface, error) {
	dirs, _ := filepath.Glob("/sys/class/net/*")
	best := Interface{}
	for _, d := range dirs {
		i, err := read(d)
		if err != nil || i.Name == "lo" {
			continue
		}
		if best.Name == "" || i.Index < best.Index {
			best = i
		}
	}
	if best.Name == "" {
		return best, ErrNone
	}
	return best, nil
}

func read(dir string) (Interface, error) {
	i := Interface{Name: filepath.Base(dir)}
	text, err := os.ReadFile(filepath.Join(dir, "ifindex"))
	if err != nil {
		return i, fmt.Errorf("read the index of %s: %v", i.Name, err)
	}
	if i.Index, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
		return i, fmt.Errorf("read the index of %s: %v", i.Name, err)
	}
	text, err = os.ReadFile(filepath.Join(dir, "address"))
	if err != nil {
		return i, fmt.Errorf("read the address of %s: %v", i.Name, err)
	}
	for n, part := range strings.Split(strings.TrimSpace(string(text)), ":") {
		v, err := strconv.ParseUint(part, 16, 8)
		if err != nil || n >= len(i.MAC) {
			return i, fmt.Errorf("read the address of %s: %q is no Ethernet address", i.Name, text)
		}
		i.MAC[n] = byte(v)
	}
	return i, nil
}

// first tries are close together: on a tap the server is there or it is not, and a guest that
// came up before its server should not lose a second by it. Doubled up to slowest.
const (
	firstTry = 250 * time.Millisecond
	slowest  = 8 * time.Second
)

// Acquire asks until a server answers or the context ends. It calls asked whenever a
// question is out, that is, when there is nothing to do but to wait.
func Acquire(ctx context.Context, i Interface, asked func()) (lease.Answer, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(swap(unix.ETH_P_IP)))
	if err != nil {
		return lease.Answer{}, fmt.Errorf("open a packet socket: %v", err)
	}
	f := os.NewFile(uintptr(fd), "packet socket of "+i.Name)
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swap(unix.ETH_P_IP), Ifindex: i.Index}); err != nil {
		return lease.Answer{}, fmt.Errorf("bind the packet socket to %s: %v", i.Name, err)
	}
	defer context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })()
	var id [4]byte
	rand.Read(id[:])
	c := conversation{file: f, fd: fd, index: i.Index, asked: asked,
		t: lease.Transaction{ID: binary.BigEndian.Uint32(id[:]), MAC: i.MAC}}
	for wait := firstTry; ; wait = min(2*wait, slowest) {
		a, err := c.try(ctx, wait)
		if err == nil {
			return a, nil
		}
		if ctx.Err() != nil {
			return lease.Answer{}, context.Cause(ctx)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return lease.Answer{}, fmt.Errorf("ask for an address on %s: %v", i.Name, err)
		}
	}
}

type conversation struct {
	file  *os.File
	fd    int
	index int
	asked func()
	t     lease.Transaction
}

// try has one conversation; os.ErrDeadlineExceeded if it is not finished in time.
func (c conversation) try(ctx context.Context, wait time.Duration) (lease.Answer, error) {
	if err := c.send(c.t.Discover()); err != nil {
		return lease.Answer{}, err
	}
	c.asked()
	if ctx.Err() == nil {
		c.file.SetReadDeadline(time.Now().Add(wait))
	}
	buf := make([]byte, 2048)
	for {
		n, err := c.file.Read(buf)
		if err != nil {
			return lease.Answer{}, err
		}
		a, err := c.t.Parse(buf[:n])
		if err != nil {
			continue
		}
		switch a.Type {
		case lease.ACK:
			return a, nil
		case lease.Offer:
			if err := c.send(c.t.Request(a)); err != nil {
				return lease.Answer{}, err
			}
		case lease.NAK:
			return lease.Answer{}, os.ErrDeadlineExceeded // ask anew
		}
	}
}

func (c conversation) send(packet []byte) error {
	to := &unix.SockaddrLinklayer{Protocol: swap(unix.ETH_P_IP), Ifindex: c.index, Halen: 6,
		Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	err := unix.Sendto(c.fd, packet, 0, to)
	if err == unix.EAGAIN || err == unix.ENOBUFS || err == unix.ENETDOWN {
		return nil // as good as lost on the way: the next try will do
	}
	if err != nil {
		return fmt.Errorf("send: %v", err)
	}
	return nil
}

func swap(v uint16) uint16 { return v<<8 | v>>8 }
