package main

import (
	"errors"
	"flag"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/service"
)

// A word that is not expected could hide the flags behind it, and another host be taken down.
func TestWordsTooManyAreRefused(t *testing.T) {
	dir := t.TempDir()
	for _, command := range []string{"down", "status", "env", "doctor", "up"} {
		err := run(t.Context(), []string{command, "extra", "--run", dir + "/run", "--state", dir + "/state"}, slog.New(slog.DiscardHandler))
		if u := (service.Usage{}); !errors.As(err, &u) || !strings.Contains(err.Error(), "extra") {
			t.Errorf("%s extra: got %v, want a refusal", command, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left %v, %v", entries, err)
	}
}

func TestFlagsMayStandBehindWords(t *testing.T) {
	dir := t.TempDir()
	var follow bool
	l, words, err := parse("console", []string{"-f", "i-1", "--run", dir + "/run", "more", "--state", dir + "/state"}, func(fs *flag.FlagSet) {
		fs.BoolVar(&follow, "f", false, "")
		fs.SetOutput(io.Discard)
	})
	if err != nil || !follow || l.Run != dir+"/run" || l.State != dir+"/state" || strings.Join(words, " ") != "i-1 more" {
		t.Errorf("got %+v, %v, %v, %v", l, words, follow, err)
	}
	if _, _, err := parse("console", []string{"--help"}, func(fs *flag.FlagSet) { fs.SetOutput(io.Discard) }); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("--help: got %v", err)
	}
}

func TestUpRefusesWhatCannotBe(t *testing.T) {
	dir := t.TempDir()
	for _, flags := range []string{
		"--region Bad", "--region -x", "--zone A", "--uplink nosuch0", "--uplink-range 10.0.0.0/31", "--uplink-range fd00::/64", "--kernel /nonesuch",
		"--account 1", "--mtu 1", "--accel fast", "--elastic x", "--pool rbd:x",
	} {
		err := run(t.Context(), append([]string{"up", "--run", dir + "/run", "--state", dir + "/state"}, strings.Fields(flags)...), slog.New(slog.DiscardHandler))
		if u := (service.Usage{}); !errors.As(err, &u) || !strings.Contains(err.Error(), strings.Fields(flags)[0]) {
			t.Errorf("%s: got %v, want a refusal that names it", flags, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left %v, %v", entries, err)
	}
}
