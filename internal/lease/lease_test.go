package lease

import (
	"encoding/binary"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

var us = Transaction{ID: 0x01020304, MAC: [6]byte{0x52, 0x54, 0, 1, 2, 3}}

// answer is a server's packet to us with the given options.
func answer(t Transaction, addr netip.Addr, options ...byte) []byte {
	b := make([]byte, fixed)
	b[0], b[1], b[2] = 2, 1, 6
	binary.BigEndian.PutUint32(b[4:], t.ID)
	copy(b[16:], addr.AsSlice())
	copy(b[28:], t.MAC[:])
	b = append(append(append(b, cookie[:]...), options...), optEnd)
	p := wrap(b)
	binary.BigEndian.PutUint16(p[20:], serverPort)
	binary.BigEndian.PutUint16(p[22:], clientPort)
	return p
}

func TestParse(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.5")
	prefix := func(s string) netip.Prefix { return netip.MustParsePrefix(s) }
	ip := netip.MustParseAddr
	for _, c := range []struct {
		name    string
		options []byte
		want    Answer
	}{
		{"an offer with router and mask has a default route",
			[]byte{53, 1, 2, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 0, 1, 54, 4, 10, 0, 0, 2, 51, 4, 0, 0, 0, 60},
			Answer{Type: Offer, Server: ip("10.0.0.2"), Address: prefix("10.0.0.5/24"), Duration: time.Minute,
				Routes: []Route{{To: prefix("0.0.0.0/0"), Via: ip("10.0.0.1")}}}},
		{"option 121 replaces the router",
			[]byte{53, 1, 5, 3, 4, 10, 0, 0, 1, 121, 14, 0, 10, 0, 0, 9, 32, 169, 254, 169, 254, 0, 0, 0, 0},
			Answer{Type: ACK, Address: prefix("10.0.0.5/32"), Duration: time.Hour,
				Routes: []Route{{To: prefix("0.0.0.0/0"), Via: ip("10.0.0.9")}, {To: prefix("169.254.169.254/32")}}}},
		{"names, servers and MTU are taken",
			[]byte{53, 1, 5, 12, 4, 'h', 'o', 's', 't', 15, 2, 'l', 'a', 26, 2, 5, 120, 6, 8, 1, 1, 1, 1, 8, 8, 8, 8},
			Answer{Type: ACK, Address: prefix("10.0.0.5/32"), Duration: time.Hour, Hostname: "host", Domain: "la", MTU: 1400,
				DNS: []netip.Addr{ip("1.1.1.1"), ip("8.8.8.8")}}},
		{"a name that would break a file is dropped",
			[]byte{53, 1, 5, 15, 3, 'a', '\n', 'b'},
			Answer{Type: ACK, Address: prefix("10.0.0.5/32"), Duration: time.Hour}},
		{"an option that is cut short ends the options",
			[]byte{53, 1, 5, 0, 0, 3, 40, 1, 2},
			Answer{Type: ACK, Address: prefix("10.0.0.5/32"), Duration: time.Hour}},
		{"a mask with holes is no mask",
			[]byte{53, 1, 5, 1, 4, 255, 0, 255, 0},
			Answer{Type: ACK, Address: prefix("10.0.0.5/32"), Duration: time.Hour}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := us.Parse(answer(us, addr, c.options...))
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, %v\nwant %+v", got, err, c.want)
			}
		})
	}
}

func TestParseRefusesStrangers(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.5")
	good := answer(us, addr, 53, 1, 5)
	other := us
	other.ID++
	for _, c := range []struct {
		name   string
		packet []byte
	}{
		{"nothing", nil},
		{"another transaction", answer(other, addr, 53, 1, 5)},
		{"another interface", answer(Transaction{ID: us.ID, MAC: [6]byte{1}}, addr, 53, 1, 5)},
		{"our own question", us.Discover()},
		{"a packet cut in the middle", good[:100]},
		{"an address of everybody", answer(us, netip.MustParseAddr("255.255.255.255"), 53, 1, 5)},
		{"no address", answer(us, netip.MustParseAddr("0.0.0.0"), 53, 1, 5)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := us.Parse(c.packet); err == nil {
				t.Errorf("got %+v, want ErrNotOurs", got)
			}
		})
	}
}

func TestQuestionsAreWellFormed(t *testing.T) {
	offer := Answer{Address: netip.MustParsePrefix("10.0.0.5/24"), Server: netip.MustParseAddr("10.0.0.2")}
	for name, p := range map[string][]byte{"discover": us.Discover(), "request": us.Request(offer)} {
		if got := checksum(p[:ipHeader]); got != 0 {
			t.Errorf("%s: header checks to %#x, want 0", name, got)
		}
		if got, want := int(binary.BigEndian.Uint16(p[2:])), len(p); got != want || len(p) < 28+smallest {
			t.Errorf("%s: length field %d, packet %d, least %d", name, got, want, 28+smallest)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(answer(us, netip.MustParseAddr("10.0.0.5"), 53, 1, 5, 121, 5, 0, 10, 0, 0, 1))
	f.Add(us.Discover())
	f.Fuzz(func(t *testing.T, p []byte) {
		a, err := us.Parse(p)
		if err == nil && (a.Type == ACK || a.Type == Offer) && !a.Address.IsValid() {
			t.Errorf("accepted %+v without an address", a)
		}
	})
}
