//go:build vm

package e2e

import (
	"testing"
)

func TestLife(t *testing.T) {
	h := the(t)
	i := h.guest(t, nil)
	t.Log(h.memory(t, *i.InstanceId))
}
