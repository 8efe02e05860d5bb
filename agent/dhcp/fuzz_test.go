package dhcp

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"

	"github.com/ichiro-metal/ichiro/agent/wire"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

// seeds are requests as clients send them, and what a hostile guest would try first.
func seeds(f *testing.F) {
	base := ask(f, dhcpv4.MessageTypeDiscover)
	with := func(options ...byte) []byte { return append(bytes.Clone(base[:offOptions]), options...) }
	for _, b := range [][]byte{
		base,
		ask(f, dhcpv4.MessageTypeRequest, wish("172.31.16.11"), dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte{1}))),
		ask(f, dhcpv4.MessageTypeInform, dhcpv4.WithClientIP(net.IP{172, 31, 16, 11})),
		ask(f, dhcpv4.MessageTypeDecline, wish("172.31.16.11")),
		ask(f, dhcpv4.MessageTypeDiscover, dhcpv4.WithGatewayIP(net.IP{10, 0, 0, 1})),
		offer(f),
		{},
		base[:offOptions],
		with(optType),                  // no length
		with(optType, 0, optEnd),       // no value
		with(optType, 2, 1, 1, optEnd), // too long
		with(optType, 1, 1, optType, 1, 3, optEnd),       // twice
		with(optType, 1, 1, optOverload, 1, 3, optEnd),   // sname and file are empty
		with(optType, 1, 1, optOverload, 1, 255, optEnd), // no such overload
		with(optType, 1, 1, optClientID, 255),            // ends before its value
		with(optType, 1, 1, optMaxSize, 2, 0, 0, optEnd), // room for nothing
		with(optType, 1, 3, optServer, 4, 0, 0, 0, 0),    // no server
		with(append([]byte{optType, 1, 1}, bytes.Repeat(append([]byte{optClientID, 255}, make([]byte, 255)...), 5)...)...),
		with(bytes.Repeat([]byte{optAsked, 0}, 400)...), // parts of nothing
		with(bytes.Repeat([]byte{optPad}, 1200)...),     // no end
	} {
		f.Add(b)
	}
}

// A guest may send any bytes: the server answers at most with a whole frame for that guest's own address.
func FuzzAnswer(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		frame := respond(guest.Index, b, new(Counters), rich())
		if frame == nil {
			return
		}
		m := unwrap(t, frame)
		if y := m.YourIPAddr; !y.IsUnspecified() && !y.Equal(guest.Address.AsSlice()) {
			t.Errorf("gave away %s", y)
		}
		if len(frame) > 1514 {
			t.Errorf("frame of %d bytes", len(frame))
		}
		if to := [6]byte(frame); to != guest.MAC && to != wire.Broadcast {
			t.Errorf("sent to %x", to)
		}
	})
}

// The library is a second witness of what a message says.
func FuzzRequest(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		var r request
		ok := r.parse(b)
		m, err := dhcpv4.FromBytes(b)
		if err != nil || m.Options.Has(dhcpv4.OptionOptionOverload) || b[1] != 1 || b[2] != 6 {
			return // a missing end and overloads are beyond it, other hardware is beyond us
		}
		sizes := true
		for code, size := range map[byte]int{optType: 1, optWish: 4, optServer: 4, optMaxSize: 2} {
			if v, has := m.Options[code]; has && len(v) != size {
				sizes = false
			}
		}
		if ok != sizes {
			t.Fatalf("read: %v, the library reads it and sizes are right: %v", ok, sizes)
		}
		if !ok {
			return
		}
		get := func(code byte) []byte { return m.Options[code] }
		for _, c := range []struct {
			what      string
			got, want []byte
		}{
			{"transaction", r.xid[:], m.TransactionID[:]},
			{"flags", r.flags[:], binary.BigEndian.AppendUint16(nil, m.Flags)},
			{"ciaddr", r.ciaddr[:], m.ClientIPAddr.To4()},
			{"giaddr", r.giaddr[:], m.GatewayIPAddr.To4()},
			{"chaddr", r.mac[:], m.ClientHWAddr},
			{"wish", r.wish[:], append(get(optWish), 0, 0, 0, 0)[:4]},
			{"server", r.server[:], append(get(optServer), 0, 0, 0, 0)[:4]},
			{"type", []byte{r.kind}, append(get(optType), 0)[:1]},
			{"client identifier", r.clientID, get(optClientID)},
			{"relay", r.relay, get(optRelayInfo)},
		} {
			if !bytes.Equal(c.got, c.want) {
				t.Errorf("%s: got % x, want % x", c.what, c.got, c.want)
			}
		}
		for code := range 256 {
			if got, want := r.asked.has(byte(code)), bytes.IndexByte(get(optAsked), byte(code)) >= 0; got != want {
				t.Errorf("asked for %d: got %v, want %v", code, got, want)
			}
		}
	})
}
