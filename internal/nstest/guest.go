package nstest

import (
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// vnetHeader is the size of the virtio-net header before each frame of a tap that QEMU would hold.
const vnetHeader = 10

// Guest is a kernel behind a tap.
type Guest struct {
	*Namespace
	MAC  net.HardwareAddr // of eth0
	wire *os.File         // of eth0
	taps []*os.File       // both ends of all cards

	mu       sync.Mutex
	received [][]byte
	arrived  chan struct{}
}

// NewGuest makes a guest named name with the MAC, on the queue of a host's tap. It owns the queue, as QEMU does.
func NewGuest(t testing.TB, name, mac string, wire *os.File) *Guest {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	g := &Guest{Namespace: New(t, name), MAC: hw, wire: wire, arrived: make(chan struct{}, 1)}
	g.Sysctl("ipv6/conf/all/disable_ipv6", "1")
	g.Plug("eth0", mac, wire)
	return g
}

// Plug gives the guest one more network card, on the queue of a host's tap. What it receives is in Received too.
func (g *Guest) Plug(name, mac string, wire *os.File) {
	g.t.Helper()
	var fd int
	err := g.Do(func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	})
	if err != nil {
		g.t.Fatalf("make %s of %s: %v", name, g.Name, err)
	}
	card := os.NewFile(uintptr(fd), name)
	g.IP("link set %s address %s", name, mac)
	g.IP("link set %s up", name)
	g.taps = append(g.taps, wire, card)
	var pumps sync.WaitGroup
	pumps.Go(func() { pump(wire, card, g.record) })
	pumps.Go(func() { pump(card, wire, nil) })
	g.t.Cleanup(func() {
		wire.Close()
		card.Close()
		pumps.Wait()
	})
}

// Offload says on both sides what a virtio driver says: that checksums may be left to whoever takes the frames.
func (g *Guest) Offload() {
	g.t.Helper()
	for _, tap := range g.taps {
		raw, err := tap.SyscallConn()
		if err != nil {
			g.t.Fatal(err)
		}
		var inner error
		err = raw.Control(func(fd uintptr) { inner = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, unix.TUN_F_CSUM) })
		if err := errors.Join(err, inner); err != nil {
			g.t.Fatalf("set offload: %v", err)
		}
	}
}

// Sysctl sets a value below /proc/sys/net of the guest.
func (g *Guest) Sysctl(key, value string) {
	g.t.Helper()
	if err := g.Do(func() error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0) }); err != nil {
		g.t.Fatal(err)
	}
}

// pump copies frames until one side is closed.
func pump(from, to *os.File, see func([]byte)) {
	buf := make([]byte, 1<<16)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if see != nil && n > vnetHeader {
			see(slices.Clone(buf[vnetHeader:n]))
		}
		_, _ = to.Write(buf[:n]) // a link that is down loses frames, as a wire does
	}
}

func (g *Guest) record(frame []byte) {
	g.mu.Lock()
	g.received = append(g.received, frame)
	g.mu.Unlock()
	select {
	case g.arrived <- struct{}{}:
	default:
	}
}

// Inject puts a frame on the guest's wire as the guest would.
func (g *Guest) Inject(frame []byte) {
	g.t.Helper()
	if _, err := g.wire.Write(append(make([]byte, vnetHeader), frame...)); err != nil {
		g.t.Fatalf("inject: %v", err)
	}
}

// Received returns the frames that the host has sent to the guest since the last Forget.
func (g *Guest) Received() [][]byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.received)
}

// Forget empties what Received returns.
func (g *Guest) Forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.received = nil
}

// Await blocks until a frame that match accepts has been received, and returns it.
func (g *Guest) Await(match func(frame []byte) bool) []byte {
	for {
		for _, f := range g.Received() {
			if match(f) {
				return f
			}
		}
		<-g.arrived
	}
}
