package link

import (
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// datagramBuffer is what a UDP socket holds while nobody reads it: some 400 questions, which the kernel counts with their
// overhead, for as long as a daemon needs to be started again.
const datagramBuffer = 512 << 10

// Listen opens a socket inside the namespace that listens (tcp) or receives datagrams (udp). The address need
// not be there yet (IP_FREEBIND, which of IPv6 is another).
func (s *Space) Listen(network string, at netip.AddrPort) (*os.File, error) {
	var fd int
	err := s.Do(func() (err error) {
		fd, err = listen(network, at)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s %s in %s: %w", network, at, s.name, err)
	}
	return os.NewFile(uintptr(fd), network+" "+at.String()), nil
}

func listen(network string, at netip.AddrPort) (int, error) {
	kind, options := unix.SOCK_STREAM, [][3]int{{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}}
	if network == "udp" {
		// Without SO_REUSEADDR: two sockets would have one address, and the later one all datagrams. FORCE passes
		// net.core.rmem_max, and needs CAP_NET_ADMIN.
		kind, options = unix.SOCK_DGRAM, [][3]int{{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, datagramBuffer}}
	}
	var domain int
	var to unix.Sockaddr
	if at.Addr().Is6() {
		domain, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
		options = append(options, [3]int{unix.SOL_IPV6, unix.IPV6_FREEBIND, 1}, [3]int{unix.SOL_IPV6, unix.IPV6_V6ONLY, 1})
	} else {
		domain, to = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
		options = append(options, [3]int{unix.SOL_IP, unix.IP_FREEBIND, 1})
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	if err := unix.Bind(fd, to); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if kind == unix.SOCK_DGRAM {
		return fd, nil
	}
	if err := unix.Listen(fd, 1024); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
