// Package config reads ichiro.toml: what an operator sets for a host that flags are too small for.
//
// That is the table of instance types, and where notifications of commands may go beside other machines' addresses:
//
//	notify_allow = ["127.0.0.0/8"]
//
//	[[instance_type]]
//	Name = "lab.small"
//	VCPUs = 1
//	MemoryMiB = 256
//	Interfaces = 2
//	Addresses = 4
//	Virtualizations = ["paravirtual"]
//
// A file that is not there is an empty one; a field that nobody knows is an error, not a surprise later.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/BurntSushi/toml"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// Config is the content of the file.
type Config struct {
	InstanceTypes []cloud.InstanceType `toml:"instance_type"`
	NotifyAllow   []netip.Prefix       `toml:"notify_allow"`
}

// Read reads the file. Its instance types are the built-in ones with those of the file.
func Read(path string) (Config, error) {
	var c Config
	meta, err := toml.DecodeFile(path, &c)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("read %s: %w", path, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return c, fmt.Errorf("read %s: %q is not known", path, unknown[0])
	}
	if c.InstanceTypes, err = cloud.Extend(cloud.Types, c.InstanceTypes); err != nil {
		return c, fmt.Errorf("read %s: %w", path, err)
	}
	return c, nil
}
