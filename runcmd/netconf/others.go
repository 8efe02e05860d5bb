package netconf

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/network"
)

// patience is how long a manager that runs may take to say what it thinks of a new interface; they take some
// hundred milliseconds.
const patience = 5 * time.Second

// managed looks for the traces that other managers leave of an interface:
//
//	systemd-networkd   /run/systemd/netif/links/INDEX    ADMIN_STATE: unmanaged is not theirs, pending not decided
//	NetworkManager     /run/NetworkManager/devices/INDEX managed=true is theirs
//	ifupdown           /run/network/ifstate              a line NAME=...
//
// cloud-init and netplan work through one of these. What leaves no trace is known by the address that it sets.
func managed(root string, i network.Interface) Managed {
	result := Unmanaged
	for _, m := range []struct {
		running string
		file    string
		says    func(text string) Managed
	}{
		{"run/systemd/netif/state", fmt.Sprintf("run/systemd/netif/links/%d", i.Index), networkd},
		{"run/NetworkManager/NetworkManager.pid", fmt.Sprintf("run/NetworkManager/devices/%d", i.Index), networkManager},
	} {
		if !exists(filepath.Join(root, m.running)) && !exists(filepath.Join(root, m.file)) {
			continue
		}
		said := Undecided
		if text, err := os.ReadFile(filepath.Join(root, m.file)); err == nil {
			said = m.says(string(text))
		}
		result = max(result, said)
	}
	if text, err := os.ReadFile(filepath.Join(root, "run/network/ifstate")); err == nil {
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, i.Name+"=") {
				return Elsewhere
			}
		}
	}
	return result
}

func networkd(text string) Managed {
	switch value(text, "ADMIN_STATE") {
	case "unmanaged":
		return Unmanaged
	case "configuring", "configured", "failed", "linger":
		return Elsewhere
	}
	return Undecided
}

func networkManager(text string) Managed {
	switch value(text, "managed") {
	case "true", "1":
		return Elsewhere
	case "false", "0":
		return Unmanaged
	}
	return Undecided
}

// value returns what a file of lines KEY=VALUE has for a key.
func value(text, key string) string {
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && k == key {
			return v
		}
	}
	return ""
}
