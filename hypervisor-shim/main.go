// Command ichiro-shim keeps one virtual machine: `ichiro-shim [-run DIR] [-taps N] INSTANCE`.
//
// It reads machine.json in the instance's directory, starts QEMU or adopts the one that an earlier
// shim started, answers at shim.sock, and writes status.json. N open taps follow stderr, in the
// order of the machine's interfaces. It ends with exit code 0 when this boot of the machine is
// over, and also on SIGTERM, which leaves QEMU running. `ichiro-shim jail` is the way on which it
// starts QEMU.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/hypervisor-shim/control"
	"github.com/ichiro-metal/ichiro/hypervisor-shim/jail"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/service"
)

func main() { os.Exit(service.Main("ichiro-shim", run)) }

func run(ctx context.Context, args []string, log *slog.Logger) error {
	if len(args) > 0 && args[0] == "jail" {
		return jail.Enter(args[1:])
	}
	dir, taps, err := parse(args)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(dir.Path("machine.json"))
	if err != nil {
		return err
	}
	m, err := bundle.ParseMachine(data)
	if err != nil {
		return err
	}
	if m.ID != dir.ID() {
		return fmt.Errorf("%s is of another instance, %s", dir.Path("machine.json"), m.ID)
	}
	return control.New(dir, m, taps, log).Run(ctx)
}

func parse(args []string) (bundle.Dir, []*os.File, error) {
	flags := flag.NewFlagSet("ichiro-shim", flag.ContinueOnError)
	root := flags.String("run", "/run/ichiro", "the host's run `directory`")
	n := flags.Int("taps", 0, "how many open taps follow stderr")
	if err := flags.Parse(args); err != nil {
		return "", nil, service.Usage{Err: err}
	}
	if flags.NArg() != 1 || !cloud.WellFormed(cloud.InstanceID(flags.Arg(0)), "i") {
		return "", nil, service.Usagef("give one instance ID")
	}
	// Nothing that the shim inherited goes on to QEMU but what is listed for it.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return "", nil, os.NewSyscallError("close_range", err)
	}
	var taps []*os.File
	for i := range *n {
		taps = append(taps, os.NewFile(uintptr(3+i), fmt.Sprintf("tap%d", i)))
	}
	return bundle.Root(*root).Instance(cloud.InstanceID(flags.Arg(0))), taps, nil
}
