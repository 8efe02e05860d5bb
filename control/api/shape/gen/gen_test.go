package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestCommittedShapesAreWhatTheGeneratorWrites(t *testing.T) {
	if err := run("../../../..", true); err != nil {
		t.Error(err)
	}
}

func TestACheckTellsOfAChange(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join("../../../..", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, svc := range services() {
		if err := os.MkdirAll(filepath.Join(root, "control/api/shape", svc.pkg), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(root, true); err == nil {
		t.Error("nothing is there and the check found nothing missing")
	}
	if err := run(root, false); err != nil {
		t.Fatal(err)
	}
	if err := run(root, true); err != nil {
		t.Errorf("the generator does not write the same twice: %v", err)
	}
	left := filepath.Join(root, "control/api/shape/ec2/zz_old.go")
	if err := os.WriteFile(left, []byte("package ec2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(root, true); err == nil {
		t.Error("the check did not see a file left over")
	}
}
