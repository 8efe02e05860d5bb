package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// grace is how long processes have between TERM and KILL when the machine goes down.
const grace = 700 * time.Millisecond

// signals is what other programs send us to end the machine; the numbers are busybox's.
// SIGINT is the kernel's, for control-alt-delete.
var signals = map[os.Signal]int{
	unix.SIGUSR1: unix.LINUX_REBOOT_CMD_POWER_OFF,
	unix.SIGUSR2: unix.LINUX_REBOOT_CMD_POWER_OFF,
	unix.SIGTERM: unix.LINUX_REBOOT_CMD_RESTART,
	unix.SIGINT:  unix.LINUX_REBOOT_CMD_RESTART,
}

// hearSignals ends the machine when somebody asks for it.
func (m *machine) hearSignals() {
	unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	heard := make(chan os.Signal, 1)
	for s := range signals {
		signal.Notify(heard, s)
	}
	for s := range heard {
		m.end(signals[s], s.String())
	}
}

// hearButtons listens to every input device there is for the power button.
func (m *machine) hearButtons() error {
	devices, _ := filepath.Glob("/dev/input/event*")
	if len(devices) == 0 {
		return fmt.Errorf("no input device: the power button will not be heard")
	}
	for _, d := range devices {
		f, err := os.Open(d)
		if err != nil {
			return fmt.Errorf("listen for the power button: %w", err)
		}
		go guard("power button", func() {
			defer f.Close()
			buf := make([]byte, 24*16)
			for {
				n, err := f.Read(buf)
				if err != nil {
					return // unplugged
				}
				if pressed(buf[:n]) {
					m.end(unix.LINUX_REBOOT_CMD_POWER_OFF, "power button")
				}
			}
		})
	}
	return nil
}

// pressed looks for the power key going down in struct input_event records of 24 bytes:
// two words of time, then type, code, value (include/uapi/linux/input.h).
func pressed(events []byte) bool {
	const evKey, keyPower, down = 1, 116, 1
	for ; len(events) >= 24; events = events[24:] {
		if binary.NativeEndian.Uint16(events[16:]) == evKey &&
			binary.NativeEndian.Uint16(events[18:]) == keyPower &&
			binary.NativeEndian.Uint32(events[20:]) == down {
			return true
		}
	}
	return false
}

// end takes the machine down in order: TERM to all, their end or the grace, KILL, sync.
// It does not return. Only the first call counts.
func (m *machine) end(how int, why string) {
	m.ending.Lock() // never unlocked
	m.children.stop()
	say("going down (%s)", why)
	unix.Kill(-1, unix.SIGTERM)
	unix.Kill(-1, unix.SIGCONT) // a stopped process hears nothing
	deadline := time.After(grace)
	tick := time.NewTicker(10 * time.Millisecond)
wait:
	for m.children.collect() {
		select {
		case <-deadline:
			break wait
		case <-tick.C:
		}
	}
	unix.Kill(-1, unix.SIGKILL)
	unix.Sync()
	say("down")
	if err := unix.Reboot(how); err != nil {
		complain(fmt.Errorf("reboot(%#x): %w", how, err))
	}
	select {}
}
