package keeper

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Status is what the kernel says of a process.
type Status struct {
	Start  uint64 // in clock ticks since boot
	Parent int
	Ended  bool // a zombie
}

// Stat reads /proc/PID/stat.
func Stat(pid int) (Status, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Status{}, err
	}
	// The name in parentheses may hold anything; what follows the last one does not: state, parent ...
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(f) < 20 {
		return Status{}, fmt.Errorf("stat of process %d has %d fields", pid, len(f))
	}
	s := Status{Ended: f[0] == "Z" || f[0] == "X"}
	if s.Parent, err = strconv.Atoi(f[1]); err != nil {
		return s, err
	}
	s.Start, err = strconv.ParseUint(f[19], 10, 64)
	return s, err
}
