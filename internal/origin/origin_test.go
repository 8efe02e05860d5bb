package origin

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
)

func TestNothingOfTheGuestsIsRead(t *testing.T) {
	for _, from := range []string{"172.31.0.10:40000", "[fd00::10]:1"} {
		want := Guest{"i-0123456789abcdef0", "vpc-0123456789abcdef0", netip.MustParseAddrPort(from)}
		var b bytes.Buffer
		if err := Write(&b, want); err != nil {
			t.Fatal(err)
		}
		b.WriteString("GET / HTTP/1.1\r\n")
		if got, err := Read(&b); err != nil || got != want || b.String() != "GET / HTTP/1.1\r\n" {
			t.Errorf("got %+v, %v, and left %q", got, err, b.String())
		}
	}
}

func TestWhatIsNoOriginIsRefused(t *testing.T) {
	for _, text := range []string{"", "\x05i-1", "\x00", "GET / HTTP/1.1\r\n\r\n" + strings.Repeat(" ", 80), "\x11i-1 vpc-1 somebody", "\x0d vpc-1 1.2.3.4"} {
		if g, err := Read(strings.NewReader(text)); err == nil {
			t.Errorf("%q is taken for %+v", text, g)
		}
	}
}
