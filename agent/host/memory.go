package host

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
)

// kept is what a host keeps for itself of its memory: the daemons take some 150 MiB, QEMU's own overhead
// and the system the rest.
const kept = 768 // MiB

// memTotal returns the memory for instances from the text of /proc/meminfo.
func memTotal(meminfo []byte) (int, error) {
	for s := bufio.NewScanner(bytes.NewReader(meminfo)); s.Scan(); {
		var kib int
		if n, _ := fmt.Sscanf(s.Text(), "MemTotal: %d kB", &kib); n == 1 {
			return max(0, kib/1024-kept), nil
		}
	}
	return 0, errors.New("read /proc/meminfo: it has no MemTotal")
}
