package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batch      = 32      // packets in one system call
	inputSize  = 2048    // a request is smaller, or not for us
	outputSize = 1514    // Ethernet without jumbo frames: what every tap can carry
	backlog    = 4 << 20 // bytes that may wait to be received: 4,000 guests that boot at once, at 1 KiB each in the kernel
)

// message is the kernel's struct mmsghdr.
type message struct {
	header unix.Msghdr
	len    uint32
	_      [4]byte
}

// slot is the room of one packet and of its answer, with all that the kernel wants pointers to.
type slot struct {
	in      [inputSize]byte
	control [64]byte // IP_PKTINFO takes 28 (cmsg(3): header of 16, struct in_pktinfo of 12), and 4 of padding
	from    unix.RawSockaddrLinklayer
	vector  unix.Iovec

	answer   Answer
	out      [outputSize]byte
	to       unix.RawSockaddrLinklayer
	relay    unix.RawSockaddrInet4
	outbound unix.Iovec
}

// socket is one network's pair of sockets, and the buffers of the goroutine that serves it.
type socket struct {
	in      *os.File
	raw     syscall.RawConn
	out     *os.File
	rawOut  syscall.RawConn // keeps the descriptor ours while it sends, whoever closes the file meanwhile
	packets bool            // in is a packet socket
	handle  atomic.Pointer[Handler]
	closed  atomic.Bool
	serving bool // guarded by Server.mu

	slots    [batch]slot
	incoming [batch]message
	frames   [batch]message // answers by out
	relayed  [batch]message // answers by in

	read           func(fd uintptr) bool // these three are made once: a closure for each call would be garbage
	sendFrames     func(fd uintptr)
	sendRelayed    func(fd uintptr)
	got            int
	err            error
	nframes, nback int
	lost           int
}

// UDP returns an opener of a UDP port. The tap of a packet is told by IP_PKTINFO.
func UDP(port int) func() (int, error) {
	return func() (int, error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return -1, err
		}
		for _, o := range [][3]int{{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}, {unix.SOL_IP, unix.IP_PKTINFO, 1}} {
			if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
				unix.Close(fd)
				return -1, err
			}
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
			unix.Close(fd)
			return -1, err
		}
		return fd, nil
	}
}

// Frames returns an opener of a packet socket for frames of this EtherType that the filter (classic BPF, from the
// Ethernet header on) lets through, whatever the namespace's rules say of them.
func Frames(kind uint16, filter []unix.SockFilter) func() (int, error) {
	return func() (int, error) {
		// Protocol 0 until the filter is there, or other frames would come in meanwhile.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return -1, err
		}
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: network(kind)})
		}
		if err != nil {
			unix.Close(fd)
			return -1, err
		}
		return fd, nil
	}
}

func open(n Network, opener func() (int, error)) (*socket, error) {
	in, out := -1, -1
	err := n.Enter(func() (err error) {
		if in, err = opener(); err != nil {
			return err
		}
		// FORCE passes the machine's limit, which is for users; who lacks the right for it gets what the limit allows.
		if unix.SetsockoptInt(in, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, backlog) != nil {
			_ = unix.SetsockoptInt(in, unix.SOL_SOCKET, unix.SO_RCVBUF, backlog)
		}
		// Protocol 0: this socket receives nothing.
		out, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		if in >= 0 {
			unix.Close(in)
		}
		return nil, err
	}
	k := &socket{in: os.NewFile(uintptr(in), "guests of "+n.Name), out: os.NewFile(uintptr(out), "answers to "+n.Name)}
	domain, err := unix.GetsockoptInt(in, unix.SOL_SOCKET, unix.SO_DOMAIN)
	k.packets = domain == unix.AF_PACKET
	if err == nil {
		k.raw, err = k.in.SyscallConn()
	}
	if err == nil {
		k.rawOut, err = k.out.SyscallConn()
	}
	if err != nil {
		k.close()
		return nil, fmt.Errorf("use socket: %w", err)
	}
	k.prepare()
	return k, nil
}

// prepare points the kernel's structures at the buffers, once.
func (k *socket) prepare() {
	for i := range k.slots {
		s := &k.slots[i]
		s.vector.Base = &s.in[0]
		s.vector.SetLen(len(s.in))
		h := &k.incoming[i].header
		h.Iov, h.Iovlen = &s.vector, 1
		s.to = unix.RawSockaddrLinklayer{Family: unix.AF_PACKET, Halen: 6}
		s.relay = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: network(67)}
	}
	k.sendFrames = func(fd uintptr) { k.lost += send(fd, k.frames[:k.nframes]) }
	k.sendRelayed = func(fd uintptr) { k.lost += send(fd, k.relayed[:k.nback]) }
	k.read = func(fd uintptr) bool {
		n, err := mmsg(unix.SYS_RECVMMSG, fd, k.incoming[:])
		if err == unix.EAGAIN {
			return false
		}
		k.got, k.err = n, nil
		if err != 0 {
			k.got, k.err = 0, err
		}
		return true
	}
}

// receive waits for packets and returns how many there are.
func (k *socket) receive() (int, error) {
	for i := range k.incoming {
		s, h := &k.slots[i], &k.incoming[i].header
		if k.packets {
			h.Name, h.Namelen = (*byte)(unsafe.Pointer(&s.from)), unix.SizeofSockaddrLinklayer
		} else {
			h.Control = &s.control[0]
			h.SetControllen(len(s.control))
		}
	}
	if err := k.raw.Read(k.read); err != nil {
		return 0, err
	}
	return k.got, k.err
}

// answer hands the first n packets to the handler and sends what it answers. It returns how many answers were lost.
func (k *socket) answer(n int, handle Handler) (lost int) {
	k.nframes, k.nback, k.lost = 0, 0, 0
	for i := range n {
		s := &k.slots[i]
		index := k.index(i)
		s.answer = Answer{Index: index, Data: s.out[:0]}
		if k.incoming[i].header.Flags&unix.MSG_TRUNC == 0 && handle(Packet{index, s.in[:k.incoming[i].len]}, &s.answer) {
			k.queue(s)
		}
	}
	if k.nframes > 0 && k.rawOut.Control(k.sendFrames) != nil {
		k.lost += k.nframes
	}
	if k.nback > 0 && k.raw.Control(k.sendRelayed) != nil {
		k.lost += k.nback
	}
	return k.lost
}

func (k *socket) queue(s *slot) {
	s.outbound.Base = &s.answer.Data[0]
	s.outbound.SetLen(len(s.answer.Data))
	if s.answer.Relay != [4]byte{} {
		s.relay.Addr = s.answer.Relay
		k.relayed[k.nback].header = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&s.relay)), Namelen: unix.SizeofSockaddrInet4, Iov: &s.outbound, Iovlen: 1}
		k.nback++
		return
	}
	s.to.Ifindex = int32(s.answer.Index)
	k.frames[k.nframes].header = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&s.to)), Namelen: unix.SizeofSockaddrLinklayer, Iov: &s.outbound, Iovlen: 1}
	k.nframes++
}

// send sends all messages and returns how many the kernel refused: one that cannot go does not hold up the rest.
func send(fd uintptr, messages []message) (lost int) {
	for len(messages) > 0 {
		n, err := mmsg(unix.SYS_SENDMMSG, fd, messages)
		if err == unix.EINTR {
			continue
		}
		if err != 0 || n == 0 {
			lost, n = lost+1, 1
		}
		messages = messages[n:]
	}
	return lost
}

// network is a number of 16 bits in the order of the network, as the kernel's structures want it.
func network(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func mmsg(trap, fd uintptr, messages []message) (int, syscall.Errno) {
	n, _, err := unix.Syscall6(trap, fd, uintptr(unsafe.Pointer(&messages[0])), uintptr(len(messages)), 0, 0, 0)
	return int(n), err
}

// index returns the link that the i-th packet came in by, 0 if the kernel did not say.
func (k *socket) index(i int) int {
	s := &k.slots[i]
	if k.packets {
		return int(s.from.Ifindex)
	}
	const head = unix.SizeofCmsghdr
	for b := s.control[:k.incoming[i].header.Controllen]; len(b) >= head; {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		size := int(h.Len)
		if size < head || size > len(b) {
			return 0
		}
		if h.Level == unix.SOL_IP && h.Type == unix.IP_PKTINFO && size >= head+4 {
			return int(binary.NativeEndian.Uint32(b[head:]))
		}
		b = b[min((size+7)&^7, len(b)):]
	}
	return 0
}

func (k *socket) sendOne(index int, frame []byte) error {
	var sent error
	err := k.rawOut.Control(func(fd uintptr) {
		sent = unix.Sendto(int(fd), frame, 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6})
	})
	return errors.Join(err, sent)
}

func (k *socket) close() {
	k.closed.Store(true)
	k.in.Close()
	k.out.Close()
}
