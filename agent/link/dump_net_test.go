//go:build net

package link

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/ichiro-metal/ichiro/internal/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

// The kernel marks a list as torn when what it lists changes between two parts of it, and the library then returns the
// part that it has with an error. Links that come and go all the time must neither stop us nor hide others.
func TestListsAreWholeWhileLinksComeAndGo(t *testing.T) {
	const many, times = 1000, 15
	nstest.New(t, "dump")
	s, err := openSpace("dump")
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for n := range many {
		if err := s.h.LinkAdd(&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprint("lasting", n)}}); err != nil {
			t.Fatal(err)
		}
	}
	other, err := openSpace("dump") // a stranger has a socket of his own
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	// He comes and goes a few times while one list is read: somebody who does nothing else all day, on a machine that has
	// no time for us, can keep any list from ever being whole.
	again, done := make(chan struct{}, 4), make(chan error, 1)
	go func() {
		for range again {
			l := &netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: "fleeting"}}
			if err := other.h.LinkAdd(l); err != nil {
				done <- err
				return
			}
			if err := other.h.LinkDel(l); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	torn := 0
	for whole := 0; torn == 0 || whole < times; whole++ { // ends when it has been provoked
		for range cap(again) {
			select {
			case again <- struct{}{}:
			default:
			}
		}
		if _, err := s.h.LinkList(); errors.Is(err, netlink.ErrDumpInterrupted) {
			torn++
		}
		links, err := listLinks(s.h)
		if err != nil {
			t.Errorf("list %d: %v", whole, err)
			break
		}
		lasting := 0
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, "lasting") {
				lasting++
			}
		}
		if lasting != many {
			t.Errorf("list %d has %d of %d links that were there all the time", whole, lasting, many)
			break
		}
	}
	close(again)
	if err := <-done; err != nil {
		t.Error(err)
	}
	t.Logf("%d lists were torn", torn)
}
