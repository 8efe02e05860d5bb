//go:build net

package eni

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/agent/link"
	"github.com/ichiro-metal/ichiro/agent/notice"
	"github.com/ichiro-metal/ichiro/internal/nstest"
)

// transactions hears who changes the rules of a namespace.
type transactions struct {
	*notice.Socket
	by []string // the makers' names, in order: their numbers are threads'
}

func hearTransactions(t *testing.T, s *link.Space) *transactions {
	t.Helper()
	h := &transactions{}
	err := s.With(func(fd int) (err error) {
		h.Socket, err = notice.Open(fd, unix.NETLINK_NETFILTER, []int{unix.NFNLGRP_NFTABLES})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// next waits for a transaction and returns whose it was.
func (h *transactions) next(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for len(h.by) == 0 {
		if err := h.Await(ctx); err != nil {
			t.Fatalf("no transaction: %v", err)
		}
		if h.Drain(func(m notice.Message) {
			if m.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
				return
			}
			for kind, v := range m.Attributes(4) {
				if kind == unix.NFTA_GEN_PROC_NAME {
					h.by = append(h.by, strings.TrimRight(string(v), "\x00"))
				}
			}
		}) {
			t.Fatal("notices were lost")
		}
	}
	first := h.by[0]
	h.by = h.by[1:]
	return first
}

// flush deletes all rules of a namespace as a stranger does, and returns how long it took until they were back: from the
// start of nft(8), so it is more than the kernel was without them. No clock but the kernel's notices drives what is between them.
func (h *transactions) flush(t *testing.T, namespace string) time.Duration {
	t.Helper()
	began := time.Now()
	nstest.IP(t, "netns exec %s nft flush ruleset", namespace)
	if by := h.next(t); by != "nft" {
		t.Fatalf("the first transaction was of %s: nothing was flushed", by)
	}
	if by := h.next(t); by == "nft" {
		t.Fatal("nft changed the rules after the flush, not we")
	}
	return time.Since(began)
}

func TestAForeignFlushIsHeardAndRepaired(t *testing.T) {
	m, err := New("efr", discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		if err := Remove(context.Background(), "efr"); err != nil {
			t.Error(err)
		}
	})
	c := config("efr", guestInterface(1, "sg-default"), guestInterface(2, "sg-other"))
	apply(t, m, c)
	s, err := m.links.Space("vpc-1")
	if err != nil {
		t.Fatal(err)
	}
	rules, want := m.rulesOf(s), shape(t, "efr")
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if err := rules.Await(over); err == nil {
		t.Fatal("something is to be repaired before anything was done")
	}
	heard := make(chan error, 1)
	go func() { heard <- rules.Await(context.Background()) }() // as Run does: it has no timer, nothing but a notice ends it
	nstest.IP(t, "netns exec efr-vpc-1 nft flush ruleset")
	if err := <-heard; err != nil {
		t.Fatal(err)
	}
	if got := shape(t, "efr"); got == want {
		t.Fatal("the flush did nothing: the test proves nothing")
	}
	did, err := rules.Apply(mustCompile(t, c).Firewall["vpc-1"])
	if err != nil || !did.Changed || !did.Foreign || !strings.HasPrefix(did.By, "nft (") {
		t.Errorf("got %+v, %v, want a change that blames nft", did, err)
	}
	if got := shape(t, "efr"); got != want {
		t.Errorf("after the repair:\n%s", difference(t, got, want))
	}
	if err := rules.Await(over); err == nil {
		t.Error("there is more to repair after the repair")
	}
}

func mustCompile(t *testing.T, c Config) Plan {
	t.Helper()
	plan, err := Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// A whole manager does it by itself, as often as it is asked to.
func TestFlushesAreRepairedWhileTheManagerRuns(t *testing.T) {
	m := start(t, "efs")
	apply(t, m, config("efs", guestInterface(1, "sg-default")))
	<-watching(m)
	s, err := m.links.Space("vpc-1")
	if err != nil {
		t.Fatal(err)
	}
	h := hearTransactions(t, s)
	for range 3 {
		t.Logf("repaired in %v", h.flush(t, "efs-vpc-1"))
	}
}

// The bench runs this test alone, with ICHIRO_MEASURE set.
func TestMeasureRepair(t *testing.T) {
	if os.Getenv("ICHIRO_MEASURE") == "" {
		t.Skip("it measures: make bench runs it")
	}
	m := start(t, "efm")
	apply(t, m, config("efm", crowd(1000)...))
	<-watching(m)
	s, err := m.links.Space("vpc-1")
	if err != nil {
		t.Fatal(err)
	}
	h := hearTransactions(t, s)
	var took, none []time.Duration
	for range 10 {
		took = append(took, h.flush(t, "efm-vpc-1"))
	}
	measured(t, "foreign flush at 1000", took, none)
}
