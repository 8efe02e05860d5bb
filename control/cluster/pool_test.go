package cluster_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/control/cluster"
	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
	"github.com/ichiro-metal/ichiro/internal/storetest"
)

func sum(c string) string { return strings.Repeat(c, 64) }

func TestThePoolIsRegistered(t *testing.T) {
	c, dir := storetest.New(t), t.TempDir()
	register := func() error { return cluster.RegisterPool(t.Context(), c, dir, account, start) }
	manifest := func(m cluster.ImageManifest) {
		t.Helper()
		if err := bundle.Write(filepath.Join(dir, "small.json"), m, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	named := func(name string) cloud.Image {
		t.Helper()
		id, err := store.Get(t.Context(), c, cluster.ImageNames(account), name)
		if err != nil {
			t.Fatal(err)
		}
		i, err := store.Get(t.Context(), c, store.Images, id.Value)
		if err != nil {
			t.Fatal(err)
		}
		return i.Value
	}
	m := cluster.ImageManifest{Name: "small", Kernel: sum("a") + ".kernel", Ramdisk: sum("b") + ".ramdisk", CommandLine: "one"}
	manifest(m)
	if err := register(); err != nil {
		t.Fatal(err)
	}
	first := named("small")
	was, _ := c.Head(t.Context())
	if err := register(); err != nil {
		t.Fatal(err)
	}
	if now, _ := c.Head(t.Context()); now != was {
		t.Error("registering the same again has written something")
	}
	m.CommandLine = "two"
	manifest(m)
	if err := register(); err != nil || named("small").CommandLine != "two" || named("small").ID != first.ID {
		t.Errorf("another command line: got %+v, %v", named("small"), err)
	}
	m.Ramdisk = sum("c") + ".ramdisk"
	manifest(m)
	if err := register(); err != nil || named("small").ID == first.ID {
		t.Errorf("another file: got %+v, %v", named("small"), err)
	}
	if _, err := store.Get(t.Context(), c, store.Images, first.ID); err == nil {
		t.Error("the image that lost its name is still there")
	}
	if _, err := store.Get(t.Context(), c, store.Images, first.Ramdisk); err != nil {
		t.Errorf("the ramdisk of running instances is gone: %v", err)
	}
}

// An image that a client of the API registered is its owner's, whatever the operator puts into the pool.
func TestThePoolTakesNobodysName(t *testing.T) {
	c, dir := storetest.New(t), t.TempDir()
	tx := store.NewTxn()
	store.Create(tx, cluster.ImageNames(account), "mine", cloud.ImageID("ami-1"))
	store.Create(tx, store.Images, "ami-1", cloud.Image{ID: "ami-1", Name: "mine", Kernel: "aki-" + cloud.ImageID(sum("a")[:17]), Ramdisk: "ari-" + cloud.ImageID(sum("b")[:17])})
	if _, err := c.Commit(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	m := cluster.ImageManifest{Name: "mine", Kernel: sum("a") + ".kernel", Ramdisk: sum("b") + ".ramdisk"}
	if err := bundle.Write(filepath.Join(dir, "mine.json"), m, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := cluster.RegisterPool(t.Context(), c, dir, account, start); cloud.Code(err) != "InvalidAMIName.Duplicate" {
		t.Errorf("got %v", err)
	}
	if _, err := store.Get(t.Context(), c, store.Images, "ami-1"); err != nil {
		t.Errorf("the owner's image: %v", err)
	}
}

func TestHostileManifestsAreRefusedAndOthersNot(t *testing.T) {
	c, dir := storetest.New(t), t.TempDir()
	good := `{"Name":"good","Kernel":"` + sum("a") + `.kernel","Ramdisk":"` + sum("b") + `.ramdisk"}`
	for name, text := range map[string]string{
		"good.json": good, "empty.json": "", "text.json": "hello", "list.json": "[]",
		"unknown.json": strings.Replace(good, `{`, `{"Evil":1,`, 1),
		"path.json":    strings.Replace(good, sum("a")+".kernel", "../../etc/shadow", 1),
		"short.json":   strings.Replace(good, sum("a")+".kernel", "a", 1),
		"swapped.json": `{"Name":"swapped","Kernel":"` + sum("b") + `.ramdisk","Ramdisk":"` + sum("a") + `.kernel"}`,
		"name.json":    strings.Replace(good, `"good"`, `"a\nb"`, 1),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	err := cluster.RegisterPool(t.Context(), c, dir, account, start)
	if err == nil || strings.Count(err.Error(), "register ") != 8 || strings.Contains(err.Error(), "good.json") {
		t.Errorf("got %v, want one error for each of the eight bad ones", err)
	}
	l, _ := store.List(t.Context(), c, store.Images, store.Range{})
	if len(l.Objects) != 3 {
		t.Errorf("got %d images, want the good one with its kernel and ramdisk", len(l.Objects))
	}
}
