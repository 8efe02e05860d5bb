package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/bundle"
)

// Status is the answer of query-status.
type Status struct {
	Running bool
	Status  string // running, paused, shutdown, guest-panicked, io-error, internal-error, ...
}

// QueryStatus asks how the guest is.
func (c *Client) QueryStatus(ctx context.Context) (Status, error) {
	var s Status
	err := c.Do(ctx, "query-status", nil, &s)
	return s, err
}

// Powerdown presses the ACPI power button.
func (c *Client) Powerdown(ctx context.Context) error {
	return c.Do(ctx, "system_powerdown", nil, nil)
}

// Reset resets the machine. A guest that is paused stays so.
func (c *Client) Reset(ctx context.Context) error { return c.Do(ctx, "system_reset", nil, nil) }

// Continue lets a paused guest run. A guest that panicked or powered off must be reset before.
func (c *Client) Continue(ctx context.Context) error { return c.Do(ctx, "cont", nil, nil) }

// Quit ends QEMU. The connection may be gone before the answer comes, which is no error.
func (c *Client) Quit(ctx context.Context) error {
	err := c.Do(ctx, "quit", nil, nil)
	select {
	case <-c.done:
		return nil
	default:
		return err
	}
}

// AddFile gives QEMU an open file, which it then knows by the returned name, for use wherever a
// file name stands. Its jail cannot open any.
func (c *Client) AddFile(ctx context.Context, set int, f *os.File) (string, error) {
	args := map[string]any{"fdset-id": set}
	if err := c.DoWithFile(ctx, "add-fd", args, f, nil); err != nil {
		return "", err
	}
	return fmt.Sprintf("/dev/fdset/%d", set), nil
}

// peripheral is where QEMU's object tree has the devices with an ID.
const peripheral = "/machine/peripheral"

// list returns the names of what lies below a path of QEMU's object tree.
func (c *Client) list(ctx context.Context, path string) ([]string, error) {
	var found []struct{ Name string }
	if err := c.Do(ctx, "qom-list", map[string]any{"path": path}, &found); err != nil {
		return nil, err
	}
	names := make([]string, len(found))
	for i, f := range found {
		names[i] = f.Name
	}
	return names, nil
}

// Devices returns the IDs of all devices that were given one.
func (c *Client) Devices(ctx context.Context) ([]string, error) { return c.list(ctx, peripheral) }

// FreePort returns the first of n PCI Express ports (port0, port1 ...) that no device sits in.
func (c *Client) FreePort(ctx context.Context, n int) (string, error) {
	for i := range n {
		port := fmt.Sprintf("port%d", i)
		names, err := c.list(ctx, peripheral+"/"+port+"/"+port) // a port's bus has its name
		if err != nil {
			return "", err
		}
		if !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, "child[") }) {
			return port, nil
		}
	}
	return "", fmt.Errorf("all of the machine's %d ports for further devices are taken", n)
}

// NetworkCard is a virtio network card that is added while the guest runs.
type NetworkCard struct {
	ID, MAC, Port string
	MTU           int // told to the guest; 0 tells nothing
}

// AddNetworkCard puts a card on a tap into a port. All of it happens, or nothing.
func (c *Client) AddNetworkCard(ctx context.Context, n NetworkCard, tap *os.File) error {
	name := bundle.Netdev(n.ID)
	if err := c.DoWithFile(ctx, "getfd", map[string]any{"fdname": name}, tap, nil); err != nil {
		return err
	}
	if err := c.Do(ctx, "netdev_add", map[string]any{"type": "tap", "id": name, "fd": name}, nil); err != nil {
		return errors.Join(err, c.Do(ctx, "closefd", map[string]any{"fdname": name}, nil))
	}
	device := map[string]any{
		"driver": "virtio-net-pci", "netdev": name, "id": n.ID, "mac": n.MAC, "bus": n.Port, "romfile": "", "disable-legacy": "on",
	}
	if n.MTU != 0 {
		device["host_mtu"] = n.MTU
	}
	if err := c.Do(ctx, "device_add", device, nil); err != nil {
		return errors.Join(err, c.RemoveNetwork(ctx, n.ID))
	}
	return nil
}

// RemoveDevice asks the guest to let go of a device. DEVICE_DELETED tells when it has.
func (c *Client) RemoveDevice(ctx context.Context, id string) error {
	return c.Do(ctx, "device_del", map[string]any{"id": id}, nil)
}

// RemoveNetwork takes the tap away from a card, if it has one: also one that QEMU was given for it, and that never
// got as far as a card.
func (c *Client) RemoveNetwork(ctx context.Context, id string) error {
	// QEMU has no word for a descriptor that it does not know but GenericError, which it also says to all else.
	_ = c.Do(ctx, "closefd", map[string]any{"fdname": bundle.Netdev(id)}, nil)
	err := c.Do(ctx, "netdev_del", map[string]any{"id": bundle.Netdev(id)}, nil)
	var refused *Error
	if errors.As(err, &refused) && refused.Class == "DeviceNotFound" {
		return nil
	}
	return err
}

// DeletedData is the data of a DEVICE_DELETED event.
type DeletedData struct{ Device string }

// ShutdownData is the data of a SHUTDOWN or RESET event.
type ShutdownData struct {
	Guest  bool
	Reason string // guest-shutdown, guest-reset, host-qmp-quit, host-signal, ...
}

// PanicData is the data of a GUEST_PANICKED event.
type PanicData struct {
	Action string
	Info   json.RawMessage
}

// Decode decodes an event's data.
func (e Event) Decode(v any) error {
	if err := json.Unmarshal(e.Data, v); err != nil {
		return fmt.Errorf("read event %s: %w", e.Name, err)
	}
	return nil
}
