package notice

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// datagram is a message with attributes, as the kernel sends it.
func datagram(kind uint16, port uint32, attributes ...[]byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, 0)
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, 0, 0, 0, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, port)
	b = append(b, 1, 2, 3, 4) // the family's own header
	for n, a := range attributes {
		b = binary.NativeEndian.AppendUint16(b, uint16(4+len(a)))
		b = binary.NativeEndian.AppendUint16(b, uint16(n+1)|unix.NLA_F_NESTED)
		b = append(b, a...)
		b = append(b, make([]byte, align(len(a))-len(a))...)
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return b
}

func TestMessagesAreTakenApart(t *testing.T) {
	one, two := datagram(16, 7, []byte("a"), []byte("four"), nil), datagram(17, 8)
	var s Socket
	var got []Message
	var values []string
	s.split(append(bytes.Clone(one), two...), func(m Message) {
		got = append(got, Message{Type: m.Type, Port: m.Port})
		for kind, v := range m.Attributes(4) {
			values = append(values, string(append([]byte{byte('0' + kind)}, v...)))
		}
	})
	if s.lost.Load() || len(got) != 2 || got[0].Type != 16 || got[0].Port != 7 || got[1].Type != 17 || got[1].Port != 8 {
		t.Errorf("got %v, lost %v", got, s.lost.Load())
	}
	if len(values) != 3 || values[0] != "1a" || values[1] != "2four" || values[2] != "3" {
		t.Errorf("got %q", values)
	}
}

func TestWhatIsCutOffCountsAsLost(t *testing.T) {
	whole := datagram(16, 7, []byte("four"))
	for n := 1; n < len(whole); n++ {
		var s Socket
		s.split(whole[:n], func(Message) { t.Errorf("a message of %d bytes was taken for one of %d", n, len(whole)) })
		if !s.lost.Load() {
			t.Errorf("a message cut off after %d bytes is not lost", n)
		}
	}
}

// Whatever comes, what is handed out lies in it, in order, and nothing hangs or fails.
func FuzzSplit(f *testing.F) {
	f.Add(datagram(16, 7, []byte("a"), []byte("four")))
	f.Add(append(datagram(unix.RTM_NEWLINK, 0, make([]byte, 9)), datagram(unix.RTM_DELLINK, 1)...))
	f.Add([]byte{255, 255, 255, 255, 0, 0})
	f.Add(datagram(16, 7, []byte("four"))[:18])
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Socket
		handed := 0
		s.split(b, func(m Message) {
			handed += unix.SizeofNlMsghdr + len(m.Data)
			for _, after := range []int{0, 1, 4, unix.SizeofIfInfomsg} {
				sum := after
				for kind, v := range m.Attributes(after) {
					if kind&^typeMask != 0 {
						t.Fatalf("type %#x has flags", kind)
					}
					sum += unix.SizeofRtAttr + len(v)
				}
				if after <= len(m.Data) && sum > len(m.Data) {
					t.Fatalf("%d bytes of attributes in %d", sum, len(m.Data))
				}
			}
		})
		if handed > len(b) {
			t.Fatalf("handed out %d bytes of %d", handed, len(b))
		}
		if handed == 0 && len(b) > 0 && !s.lost.Load() {
			t.Fatalf("% x is neither a message nor lost", b)
		}
	})
}

// A wait that was given up must not spoil the next one.
func TestASocketCanBeAwaitedAgain(t *testing.T) {
	s, err := Open(0, unix.NETLINK_ROUTE, []int{unix.RTNLGRP_LINK})
	if err != nil {
		t.Skipf("no netlink here: %v", err)
	}
	defer s.Close()
	over, cancel := context.WithCancel(context.Background())
	cancel()
	for range 3 {
		if err := s.Await(over); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want that it was given up", err)
		}
	}
	done := make(chan error, 1)
	again, stop := context.WithCancel(context.Background())
	go func() { done <- s.Await(again) }()
	stop()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("the next wait failed: %v", err)
	}
}
