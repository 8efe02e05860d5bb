package tools

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ping asks an address for echoes, as iputils' does: ping [-q] [-c COUNT] [-i SECONDS] [-W SECONDS] [-w SECONDS] [-s BYTES] [-I ADDRESS] ADDRESS.
// Without -c it asks four times, since nobody may be there to stop it. The exit code is 0 if an answer came.
func ping(ctx context.Context, c *Call) int {
	const usage = "[-q] [-c COUNT] [-i SECONDS] [-W SECONDS] [-w SECONDS] [-s BYTES] [-I ADDRESS] ADDRESS"
	set, rest, err := options(c.Args, "qnc:i:W:w:s:I:")
	if err != nil || len(rest) != 1 {
		return c.usage(usage)
	}
	p := pinger{count: 4, size: 56, interval: time.Second, patience: time.Second, total: time.Hour}
	if p.to, err = netip.ParseAddr(rest[0]); err != nil || p.to.Zone() != "" {
		return c.fail(fmt.Errorf("%s is not an address", rest[0]))
	}
	p.to = p.to.Unmap()
	for letter, text := range set {
		switch letter {
		case 'c':
			p.count, err = strconv.Atoi(text)
		case 's':
			p.size, err = strconv.Atoi(text)
		case 'i':
			p.interval, err = seconds(text)
		case 'W':
			p.patience, err = seconds(text)
		case 'w':
			p.total, err = seconds(text)
			p.patience = p.total
		case 'I':
			if p.from, err = netip.ParseAddr(text); err == nil && p.from.Is4() != p.to.Is4() {
				err = fmt.Errorf("not of the version of %s", p.to)
			}
		}
		if err != nil {
			return c.fail(fmt.Errorf("-%c %s: %w", letter, text, err))
		}
	}
	if p.size < 8 || p.size > 65507-8 || p.count < 1 {
		return c.usage(usage)
	}
	_, quiet := set['q']
	fmt.Fprintf(c.Stdout, "PING %s: %d data bytes\n", p.to, p.size)
	got := 0
	sent, err := p.run(ctx, func(seq int, took time.Duration) {
		got++
		if !quiet {
			fmt.Fprintf(c.Stdout, "%d bytes from %s: icmp_seq=%d time=%.3f ms\n", p.size+8, p.to, seq, float64(took.Microseconds())/1000)
		}
	})
	if sent > 0 {
		fmt.Fprintf(c.Stdout, "\n%d packets transmitted, %d received, %d%% packet loss\n", sent, got, (sent-got)*100/sent)
	}
	if err != nil {
		return c.fail(err)
	}
	if got == 0 {
		return 1
	}
	return 0
}

// pinger sends echo requests, the next when the last was answered or given up.
type pinger struct {
	to, from                  netip.Addr
	count, size               int
	interval, patience, total time.Duration
}

// run returns how many requests were sent.
func (p pinger) run(ctx context.Context, answered func(seq int, took time.Duration)) (sent int, err error) {
	family, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	if p.to.Is6() {
		family, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return 0, fmt.Errorf("open ICMP socket: %w", err)
	}
	defer unix.Close(fd)
	if p.from.IsValid() {
		if err := unix.Bind(fd, sockaddr(p.from)); err != nil {
			return 0, fmt.Errorf("send from %s: %w", p.from, err)
		}
	}
	ends := time.Now().Add(p.total)
	id := uint16(os.Getpid())
	for seq := 1; seq <= p.count && time.Now().Before(ends) && ctx.Err() == nil; seq++ {
		at := time.Now()
		if err := unix.Sendto(fd, echo(p.to.Is6(), id, uint16(seq), p.size), 0, sockaddr(p.to)); err != nil {
			return sent, fmt.Errorf("send to %s: %w", p.to, err)
		}
		sent++
		until := at.Add(p.patience)
		if until.After(ends) {
			until = ends
		}
		ok, err := p.await(fd, id, uint16(seq), until)
		if err != nil {
			return sent, err
		}
		if ok {
			answered(seq, time.Since(at))
		}
		if seq < p.count {
			pause(ctx, min(p.interval-time.Since(at), time.Until(ends)))
		}
	}
	return sent, nil
}

// await reads until the answer to seq comes, or its time is over.
func (p pinger) await(fd int, id, seq uint16, until time.Time) (bool, error) {
	buf := make([]byte, p.size+128)
	for {
		left := time.Until(until)
		if left <= 0 {
			return false, nil
		}
		wait := unix.NsecToTimeval(left.Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
			return false, err
		}
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("receive: %w", err)
		}
		switch a := from.(type) {
		case *unix.SockaddrInet4:
			if netip.AddrFrom4(a.Addr) == p.to && answers(buf[:n], id, seq) {
				return true, nil
			}
		case *unix.SockaddrInet6: // without the header of IPv6 (RFC 3542)
			if netip.AddrFrom16(a.Addr) == p.to && replies(buf[:n], echoReply6, id, seq) {
				return true, nil
			}
		}
	}
}

// The types of echoes of ICMP (RFC 792) and ICMPv6 (RFC 4443).
const (
	echoRequest, echoReply   = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

func sockaddr(a netip.Addr) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Addr: a.As16()}
}

// echo is an echo request. The kernel computes the checksum of one of ICMPv6.
func echo(six bool, id, seq uint16, size int) []byte {
	b := make([]byte, 8+size)
	b[0] = echoRequest
	if six {
		b[0] = echoRequest6
	}
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	for i := range size {
		b[8+i] = byte(i)
	}
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum))
	return b
}

// answers reports whether an IPv4 packet is the echo reply to a request.
func answers(packet []byte, id, seq uint16) bool {
	if len(packet) < 20 {
		return false
	}
	head := int(packet[0]&15) * 4
	if head < 20 || len(packet) < head {
		return false
	}
	return replies(packet[head:], echoReply, id, seq)
}

// replies reports whether a message is the echo reply of the type to a request.
func replies(m []byte, kind byte, id, seq uint16) bool {
	return len(m) >= 8 && m[0] == kind && binary.BigEndian.Uint16(m[4:]) == id && binary.BigEndian.Uint16(m[6:]) == seq
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
