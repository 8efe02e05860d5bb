package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
)

// What an object is known by is looked for where it was written, whatever the file system could do by now.
func TestAttributesStayWhereTheyAre(t *testing.T) {
	for _, c := range []struct {
		name string
		side bool // files beside the objects were chosen before
	}{
		{"with the objects where the file system can", false},
		{"beside them where that was chosen once", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(t.TempDir()) // the store moves into its own
			dir := t.TempDir()
			if c.side {
				if err := os.Mkdir(filepath.Join(dir, beside), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				s, err := open(dir)
				if err != nil {
					t.Fatal(err)
				}
				s.Shutdown()
			}
			var opt posix.PosixOpts
			got, err := storer(dir, &opt)
			if err != nil {
				t.Fatal(err)
			}
			if _, side := got.(meta.SideCar); side != c.side || (opt.SideCarDir != "") != c.side {
				t.Errorf("attributes are in %T, beside in %q; want beside: %t", got, opt.SideCarDir, c.side)
			}
		})
	}
}
