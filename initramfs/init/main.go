// Init is PID 1 of the small guest, and under its other names the guest's shell and tools.
//
// As PID 1 it makes an instance of a machine, in this order, with as little between the steps
// as can be, because every millisecond here is added to every launch:
//
//	mounts -> network modules -> DHCP -> metadata -> hostname, ssh key -> user-data script
//	                                                               \-> other modules, Run Command agent
//
// and then it stays: it reaps orphans, restarts the agent, hears the power button. It never
// exits; a step that fails says so on the console and the next one runs.
// The console shows one line for each of the events init, network up, user-data finished, with
// the seconds since the kernel started; tests and benchmarks read them.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/initramfs/tools"
)

func main() {
	if os.Getpid() == 1 && filepath.Base(os.Args[0]) == "init" {
		say("init")
		// The kernel panics when PID 1 ends. A heap of a few hundred kilobytes needs no collector
		// while the boot is in a hurry; the limit wakes it when something goes wrong.
		debug.SetGCPercent(-1)
		debug.SetMemoryLimit(32 << 20)
		guard("boot", newMachine().boot)
		select {}
	}
	os.Exit(tools.Main(os.Args))
}

// say prints an event and its time on the console.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stdout, "ichiro: %s at %s\n", fmt.Sprintf(format, args...), uptime())
}

// complain prints what went wrong; the boot goes on.
func complain(err error) { say("trouble: %v", err) }

func uptime() string {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return "?"
	}
	return fmt.Sprintf("%d.%03d", t.Sec, t.Nsec/1e6)
}

// guard runs f and survives its panics, for a panic of PID 1 is a panic of the machine.
func guard(name string, f func()) {
	defer func() {
		if p := recover(); p != nil {
			say("trouble: %s panicked: %v\n%s", name, p, debug.Stack())
		}
	}()
	f()
}
