package ntp

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"log/slog"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/handover"
)

func TestParse(t *testing.T) {
	packet := func(first byte, n int) []byte { return append([]byte{first}, make([]byte, n-1)...) }
	for _, c := range []struct {
		name string
		in   []byte
		want bool
	}{
		{"a client of version 4", packet(0x23, 48), true},
		{"one that does not know the time yet", packet(0xe3, 48), true},
		{"a client of version 3", packet(0x1b, 48), true},
		{"a client of version 1 that says so", packet(0x0b, 48), true},
		{"one that signs", packet(0x23, 68), true},
		{"a version that there never was", packet(0x03, 48), false},
		{"a version that there is not yet", packet(0x2b, 48), false},
		{"a server's answer", packet(0x24, 48), false},
		{"a broadcast", packet(0x25, 48), false},
		{"a peer", packet(0x21, 48), false},
		{"a control message", packet(0x26, 48), false},
		{"a request of monlist", packet(0x17, 48), false},
		{"a packet that is too short", packet(0x23, 47), false},
		{"nothing", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, got := parse(c.in); got != c.want {
				t.Errorf("parse says %t, want %t", got, c.want)
			}
		})
	}
}

func TestAnswer(t *testing.T) {
	r, ok := parse(append([]byte{0x1b, 0, 6, 0}, append(make([]byte, 36), 1, 2, 3, 4, 5, 6, 7, 8)...))
	if !ok {
		t.Fatal("not a question")
	}
	at := time.Date(2026, 11, 28, 12, 0, 0, 500_000_000, time.UTC)
	c := clock{leap: leapAdd, stratum: 5, reference: self, dispersion: 1500 * time.Millisecond, precision: -20, set: at.Add(-time.Minute)}
	got := answer(r, c, at, at.Add(250*time.Millisecond))
	seconds := uint32(at.Unix() + 2208988800) // RFC 868
	if s := binary.BigEndian.Uint32(got[32:]); s != seconds {
		t.Errorf("seconds since 1900: got %d, want %d", s, seconds)
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], seconds)
	var m [4]byte
	binary.BigEndian.PutUint32(m[:], seconds-60)
	// leap 1, version 3, mode 4; stratum 5, poll 6, precision -20; no delay, a dispersion of 1.5 s, 169.254.169.123
	want := "5c0506ec" + "00000000" + "00018000" + "a9fea97b" +
		hex.EncodeToString(m[:]) + "80000000" + "0102030405060708" + hex.EncodeToString(b[:]) + "80000000" + hex.EncodeToString(b[:]) + "c0000000"
	if s := hex.EncodeToString(got[:]); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
}

func TestTimesAfter2036AreWrittenAllTheSame(t *testing.T) {
	// RFC 5905, figure 4: the first second of era 1.
	if got := stamp(time.Date(2036, 2, 7, 6, 28, 16, 0, time.UTC)); got != 0 {
		t.Errorf("got %x, want 0", got)
	}
}

func TestWhatIsToldOfAClock(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, c := range []struct {
		name      string
		state     int
		status    int32
		max       time.Duration
		trusted   bool
		leap      byte
		stratum   byte
		reference string
		distance  time.Duration
	}{
		{"one that is kept", unix.TIME_OK, unix.STA_PLL, 20 * time.Millisecond, false, leapNone, 5, "\xa9\xfe\xa9\x7b", 20 * time.Millisecond},
		{"one before a leap second", unix.TIME_INS, unix.STA_PLL | unix.STA_INS, 20 * time.Millisecond, false, leapAdd, 5, "\xa9\xfe\xa9\x7b", 20 * time.Millisecond},
		{"one before a second that is left out", unix.TIME_DEL, unix.STA_PLL | unix.STA_DEL, 20 * time.Millisecond, false, leapDelete, 5, "\xa9\xfe\xa9\x7b", 20 * time.Millisecond},
		{"one that nothing keeps", unix.TIME_ERROR, unix.STA_UNSYNC, 16 * time.Second, false, leapUnknown, 0, "INIT", 16 * time.Second},
		{"one that is said to be right", unix.TIME_ERROR, unix.STA_UNSYNC, 16 * time.Second, true, leapNone, 10, "\xa9\xfe\xa9\x7b", time.Second},
		{"one that is kept, and said to be right", unix.TIME_OK, 0, 20 * time.Millisecond, true, leapNone, 5, "\xa9\xfe\xa9\x7b", 20 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := judge(c.state, c.status, c.max, c.trusted, now)
			if got.leap != c.leap || got.stratum != c.stratum || string(got.reference[:]) != c.reference || got.dispersion != c.distance {
				t.Errorf("got %+v", got)
			}
			if got.set.After(now) || got.leap == leapUnknown != got.set.IsZero() {
				t.Errorf("the clock was set at %v", got.set)
			}
		})
	}
}

// stamping returns when the kernel notes the arrival of packets: the first socket that asks for it switches it on for
// all, some time later, and until then packets are stamped when they are read.
func stamping(t *testing.T, p *net.UDPConn, c net.Conn) {
	t.Helper()
	var buf, oob [256]byte
	for {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		for sent := time.Now(); time.Since(sent) < 5*time.Millisecond; {
			runtime.Gosched()
		}
		read := time.Now()
		_, n, _, _, err := p.ReadMsgUDP(buf[:], oob[:])
		if err != nil {
			t.Fatal(err)
		}
		if arrival(oob[:n], time.Now()).Before(read) {
			return
		}
	}
}

func TestTheServerAnswersWithTheTimeOfArrival(t *testing.T) {
	p, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(true, slog.New(slog.DiscardHandler))
	c, err := net.Dial("udp4", p.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	monlist := append([]byte{0x17, 0, 3, 42}, make([]byte, 188)...)
	question := append([]byte{0x23, 0, 6, 0}, bytes.Repeat([]byte{7}, 64)...)
	if err := timestamps(p.(*net.UDPConn)); err != nil {
		t.Fatal(err)
	}
	stamping(t, p.(*net.UDPConn), c)
	before := time.Now()
	for _, packet := range [][]byte{monlist, question} { // before anybody serves
		if _, err := c.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	sent := time.Now()
	for time.Since(sent) < 20*time.Millisecond { // so that serving is well after arrival, which may be a little after sending
		runtime.Gosched()
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.Add(ctx, handover.Socket{VPC: "vpc-1", Packets: p.(*net.UDPConn)})
	var buf [100]byte
	n, err := c.Read(buf[:])
	if err != nil || n != 48 || buf[0] != 0x24 || !bytes.Equal(buf[24:32], bytes.Repeat([]byte{7}, 8)) {
		t.Fatalf("got % x, %v", buf[:n], err)
	}
	arrived := binary.BigEndian.Uint64(buf[32:])
	if arrived < stamp(before)-1 || arrived > stamp(sent.Add(15*time.Millisecond)) {
		t.Errorf("it arrived at %x, and was sent between %x and %x", arrived, stamp(before), stamp(sent))
	}
	if told := binary.BigEndian.Uint64(buf[40:]); told < arrived || told > stamp(time.Now()) {
		t.Errorf("told at %x, arrived at %x", told, arrived)
	}
	cancel()
	p.Close()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if n, err := c.Read(buf[:]); err == nil { // all was answered in order, and the socket is closed
		t.Errorf("a control message is answered with %d bytes", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{})
	f.Add(append([]byte{0x23}, make([]byte, 47)...))
	f.Add(append([]byte{0x17}, make([]byte, 191)...))
	now := time.Unix(1_800_000_000, 0)
	f.Fuzz(func(t *testing.T, packet []byte) {
		r, ok := parse(packet)
		if !ok {
			return
		}
		p := answer(r, clock{}, now, now)
		if len(p) > len(packet) {
			t.Errorf("% x is answered with more than it is", packet)
		}
		if _, again := parse(p[:]); again {
			t.Errorf("the answer to % x would be answered", packet)
		}
	})
}
