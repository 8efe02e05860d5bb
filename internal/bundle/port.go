package bundle

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// PortName is the name of the serial port by which a guest without a network finds its gateway.
const PortName = "org.ichiro.runcmd.0"

// PortSocket is that port's other end, in the instance's directory.
const PortSocket = "runcmd.sock"

// Port is the path of the guest's serial port.
func (d Dir) Port() string { return d.Path(PortSocket) }

// SharePort lets the gateway use the port: whoever may write the instance's commands. Where there are none, nobody may.
func (d Dir) SharePort() error {
	info, err := os.Lstat(d.Commands())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.Lchown(d.Port(), -1, int(info.Sys().(*syscall.Stat_t).Gid)); err != nil {
		return err
	}
	return os.Chmod(d.Port(), 0o660)
}
