//go:build vm

package e2e

import (
	"strings"
	"testing"
)

// The guest's second way to its host: a serial port, when its network is away.
func TestAGuestWithoutANetworkIsReachedByItsPort(t *testing.T) {
	h := the(t)
	id := *h.guest(t, nil).InstanceId
	// The card itself goes: whatever else were taken away, the agent would put back.
	h.sh(t, id, "cd /sys/bus/virtio/drivers/virtio_net && for card in virtio*; do echo $card >unbind; done")
	if got := h.sh(t, id, "ls /sys/class/net"); strings.Contains(got, "eth") {
		t.Errorf("its network is %s", got)
	}
	if out, code := h.shell(t, id, "echo through the $((1+1))nd way; exit 7\n"); code != 7 || !strings.Contains(out, "through the 2nd way") {
		t.Errorf("a shell has code %d and says %q", code, out)
	}
}
