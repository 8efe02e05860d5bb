package link

import (
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Listen opens a listening TCP socket inside the namespace. The address need not be there yet (IP_FREEBIND).
func (s *Space) Listen(at netip.AddrPort) (*os.File, error) {
	var fd int
	err := s.Do(func() (err error) {
		fd, err = listen(at)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s in %s: %w", at, s.name, err)
	}
	return os.NewFile(uintptr(fd), at.String()), nil
}

func listen(at netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	for _, o := range [][3]int{
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		{unix.SOL_IP, unix.IP_FREEBIND, 1},
	} {
		if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if err := unix.Listen(fd, 1024); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
