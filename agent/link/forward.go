package link

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// forwardDir remembers, for each link that leads out, what its forwarding was before any host of ours switched it
// on ("was"), and which hosts want it (a file each, named for their prefix). The last to go restores it.
const forwardDir = "/run/ichiro-forwarding"

// forward lets a link of the root namespace pass packets on, for the host of this prefix.
func forward(outside, prefix string) error {
	setting := "ipv4/conf/" + outside + "/forwarding"
	dir := filepath.Join(forwardDir, outside)
	now, err := os.ReadFile("/proc/sys/net/" + setting)
	if err != nil {
		return err
	}
	_, kept := os.Stat(filepath.Join(dir, prefix))
	on := strings.TrimSpace(string(now)) == "1"
	if on && kept == nil {
		return nil
	}
	unlock, err := lockMachine()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(dir); on && errors.Is(err, fs.ErrNotExist) {
		return nil // it was on before us, and is nobody's of ours to restore
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "was")); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(filepath.Join(dir, "was"), now, 0o644); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, prefix), nil, 0o644); err != nil {
		return err
	}
	return sysctl(setting, "1")
}

// unforward takes back what forward did for the host of this prefix.
func unforward(prefix string) error {
	links, err := os.ReadDir(forwardDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	unlock, err := lockMachine()
	if errors.Is(err, fs.ErrNotExist) {
		unlock = func() {} // no namespace was ever made: nobody is there to meet
	} else if err != nil {
		return err
	}
	defer unlock()
	var errs []error
	for _, l := range links {
		dir := filepath.Join(forwardDir, l.Name())
		if err := os.Remove(filepath.Join(dir, prefix)); err != nil {
			continue // not ours
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) != 1 || left[0].Name() != "was" {
			errs = append(errs, err)
			continue
		}
		was, err := os.ReadFile(filepath.Join(dir, "was"))
		if err == nil {
			err = sysctl("ipv4/conf/"+l.Name()+"/forwarding", strings.TrimSpace(string(was)))
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil // the link is gone, and its settings with it
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("restore forwarding of %s: %w", l.Name(), err))
		}
		errs = append(errs, os.RemoveAll(dir))
	}
	if err := os.Remove(forwardDir); err != nil && !errors.Is(err, fs.ErrNotExist) && !isNotEmpty(forwardDir) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func isNotEmpty(dir string) bool {
	left, err := os.ReadDir(dir)
	return err == nil && len(left) > 0
}
