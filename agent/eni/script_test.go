//go:build net

package eni

import (
	"os"
	"path/filepath"
	"testing"
)

// script writes udhcpc's configuration script: it prints what it was told and sets the address.
func script(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bound")
	text := `#!/bin/sh
case $1 in bound|renew)
	env
	ip addr replace $ip/20 dev $interface
	ip route replace default via $router
	echo "set $ip"
esac
`
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}
