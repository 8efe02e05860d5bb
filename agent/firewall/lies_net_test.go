//go:build net

package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
)

// Beyond 64 KiB of elements in a message the library wraps a length and loses most of them without a word.
func TestThousandsOfElementsAllArrive(t *testing.T) {
	n, fd := space(t, "lie1")
	if _, err := Apply(fd, many(5000)); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(list(t, n, "list", "map", "inet", "eni", "v_in"), " : goto "); got != 5000 {
		t.Errorf("got %d elements, want 5000", got)
	}
}

// With a small buffer the kernel applies a batch and the answer is "no buffer space", or nothing is sent for it is too
// long. Whatever it was, Apply must end with all rules, or with an error and without believing that it knows.
func TestSmallBuffersDoNotMakeApplyBelieveWhatIsNotSo(t *testing.T) {
	n, fd := space(t, "lie2")
	r := NewRules(func(f func(int) error) error { return f(fd) })
	defer r.Close()
	if _, err := r.Apply(many(10)); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 8 << 10, 64 << 10} {
		c, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(fd), nftables.WithSockOptions(func(c *netlink.Conn) error {
			if err := c.SetReadBuffer(size); err != nil {
				return err
			}
			return c.SetWriteBuffer(size)
		}))
		if err != nil {
			t.Fatal(err)
		}
		r.link.close()
		r.link = &connection{c: c} // the next transaction goes by it, and the one after an error by a new one
		more := 1000 + size%7
		_, err = r.Apply(many(more))
		got := strings.Count(list(t, n, "list", "map", "inet", "eni", "v_in"), " : goto ")
		switch {
		case err == nil && got != more:
			t.Errorf("buffers of %d: no error, and %d of %d elements", size, got, more)
		case err != nil && r.known != nil:
			t.Errorf("buffers of %d: %v, and the rules are believed to be known", size, err)
		case err != nil:
			t.Errorf("buffers of %d: %v: it did not try again", size, err)
		}
		if _, err := r.Apply(many(10)); err != nil {
			t.Fatal(err)
		}
	}
}

// What a stranger has added or deleted makes an element's transaction fail: the kernel must be read and the rest be done.
func TestStrangersElementsDoNotStopATransaction(t *testing.T) {
	n, fd := space(t, "lie3")
	r := NewRules(func(f func(int) error) error { return f(fd) })
	defer r.Close()
	if _, err := r.Apply(many(5)); err != nil {
		t.Fatal(err)
	}
	want := list(t, n, "-s", "list", "ruleset")
	for _, attack := range []string{
		fmt.Sprintf("delete element inet eni v_in { t%012x }", 4),                             // that we are about to delete
		fmt.Sprintf("add element inet eni src4 { t%012x . 02:00:00:00:00:05 . 10.1.0.5 }", 5), // that we are about to add
		"flush ruleset",
		"delete table ip enat",
	} {
		list(t, n, strings.Fields(attack)...)
		// As if its notice had come too late: the memory is trusted, and wrong.
		known := r.known
		r.listen()
		r.known, r.blame = known, ""
		less := many(4)
		if strings.HasPrefix(attack, "add") {
			less = many(6)
		}
		if _, err := r.Apply(less); err != nil {
			t.Errorf("after %s: %v", attack, err)
		}
		r.doubt("") // what the wrong memory did not touch is found by the notice
		if _, err := r.Apply(many(5)); err != nil {
			t.Errorf("after %s: %v", attack, err)
		}
		if got := list(t, n, "-s", "list", "ruleset"); unordered(got) != unordered(want) {
			t.Errorf("after %s: got\n%s\nwant\n%s", attack, got, want)
		}
	}
}

func TestAForeignTransactionIsNoticedAndNamed(t *testing.T) {
	n, fd := space(t, "lie4")
	r := NewRules(func(f func(int) error) error { return f(fd) })
	defer r.Close()
	c := many(5)
	if did, err := r.Apply(c); err != nil || did.Foreign {
		t.Fatalf("first Apply: %+v, %v", did, err)
	}
	c.Gateways = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	if did, err := r.Apply(c); err != nil || did.Foreign || !did.Changed {
		t.Errorf("our own change: got %+v, %v", did, err)
	}
	list(t, n, "flush", "chain", "inet", "eni", "pre")
	if err := r.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	did, err := r.Apply(c)
	if err != nil || !did.Foreign || !strings.HasPrefix(did.By, "nft (") {
		t.Errorf("after nft has emptied a chain: got %+v, %v", did, err)
	}
	if did, err := r.Apply(c); err != nil || did.Changed {
		t.Errorf("once more: got %+v, %v", did, err)
	}
}

// unordered is a listing without an order: that of a hash's elements is the kernel's.
func unordered(listing string) string {
	words := strings.FieldsFunc(listing, func(r rune) bool { return r == ',' || r == '\n' || r == '\t' || r == '{' || r == '}' })
	for i := range words {
		words[i] = strings.TrimSpace(words[i])
	}
	slices.Sort(words)
	return strings.Join(words, "\n")
}
