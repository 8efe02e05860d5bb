//go:build vm

package e2e

import "testing"

// The guest's second way to its host: a serial port, when its network is away.
func TestAGuestWithoutANetworkIsReachedByItsPort(t *testing.T) {
	h := the(t)
	id := *h.guest(t, nil).InstanceId
	h.sh(t, id, "ip link set eth0 down")
	if got := h.sh(t, id, "cat /sys/class/net/eth0/operstate"); got != "down" {
		t.Errorf("its network is %s", got)
	}
	h.sh(t, id, "ip link set eth0 up; echo back; until wget -qO /dev/null http://169.254.169.254/; do sleep 0.1; done")
}
