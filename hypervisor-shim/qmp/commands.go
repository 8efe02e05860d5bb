package qmp

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
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
