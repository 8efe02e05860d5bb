package wire

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"
	"time"
)

// script is a connection on which bytes come in pieces. What is written to it is kept.
type script struct {
	net.Conn
	pieces [][]byte
	trying bool
	wrote  bytes.Buffer
	resume func()
}

func (s *script) Read(p []byte) (int, error) {
	if s.trying && len(s.pieces) > 0 && len(s.pieces[0]) == 0 { // an empty piece stands for a pause
		return 0, nil
	}
	for len(s.pieces) > 0 && len(s.pieces[0]) == 0 {
		s.pieces = s.pieces[1:]
	}
	if len(s.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; len(s.pieces[0]) == 0 {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func (s *script) Write(p []byte) (int, error)      { return s.wrote.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

func (s *script) Try(read func() (int, error)) (int, error) {
	s.trying = true
	defer func() { s.trying = false }()
	return read()
}

func (s *script) Await(resume func(), _ time.Time) bool {
	s.resume = resume
	return true
}

// answering is what a request is answered to that is upgraded to a script.
type answering struct {
	*httptest.ResponseRecorder
	script *script
}

func (a answering) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return a.script, bufio.NewReadWriter(bufio.NewReader(a.script), bufio.NewWriter(a.script)), nil
}

func asking() *http.Request {
	r := httptest.NewRequest("GET", Path, nil)
	for key, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} {
		r.Header.Set(key, value)
	}
	return r
}

// told is what one end of a websocket tells.
type told struct {
	Messages [][]byte
	Err      string
	Wrote    []byte
}

// listen reads all that comes on c.
func listen(c *Conn, s *script) (t told) {
	s.wrote.Reset() // of the handshake
	for {
		if c.Idle(func() {}) {
			s.resume()
			s.pieces = s.pieces[1:] // the pause is over
			continue
		}
		b, err := c.read()
		if err != nil {
			t.Err, t.Wrote = err.Error(), bytes.Clone(s.wrote.Bytes())
			return t
		}
		t.Messages = append(t.Messages, bytes.Clone(b))
	}
}

// masked is a client's frame.
func masked(first byte, data string) []byte {
	b := []byte{first, 0x80 | byte(len(data))}
	if len(data) > 125 {
		b = []byte{first, 0x80 | 126, byte(len(data) >> 8), byte(len(data))}
	}
	b = append(b, 1, 2, 3, 4)
	for n := range len(data) {
		b = append(b, data[n]^byte(n%4+1))
	}
	return b
}

// FuzzGate has the same bytes come through a gate, in pieces and with pauses between them, and without: nobody can tell.
func FuzzGate(f *testing.F) {
	const binary, text, more, end, ping, pong = 0x82, 0x81, 0x02, 0x80, 0x89, 0x8a
	all := bytes.Join([][]byte{
		masked(ping, "one"), masked(binary, "hello"), masked(more, "in "), masked(ping, ""), masked(end, "parts"),
		masked(pong, "?"), masked(binary, string(make([]byte, 3000))), masked(ping, "two"), masked(binary, string(make([]byte, 9000))), masked(0x88, "\x03\xe8bye"), masked(ping, "late"),
	}, nil)
	for _, every := range []byte{1, 2, 7, 100, 255} {
		f.Add(all, bytes.Repeat([]byte{every}, len(all)/int(every)))
		f.Add(all, bytes.Repeat([]byte{every, 0, 0, 3, 0}, len(all)/int(every)))
	}
	f.Add(masked(text, "text"), []byte{3})
	f.Add([]byte{ping, 0x83, 1, 2, 3, 4, 5}, []byte{1})                                             // it ends in the midst
	f.Add([]byte{0xc9, 0x80, 1, 2, 3, 4}, []byte{9})                                                // with a bit that means nothing
	f.Add([]byte{ping, 3, 'a', 'b', 'c'}, []byte{9})                                                // not masked
	f.Add([]byte{0x09, 0x80, 1, 2, 3, 4}, []byte{9})                                                // in parts
	f.Add([]byte{ping, 0x80 | 126, 0, 126, 1, 2, 3, 4}, []byte{9})                                  // too long
	f.Add([]byte{binary, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2}, []byte{9})    // larger than there are numbers
	f.Add([]byte{binary, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3}, []byte{9}) // and nearly
	f.Fuzz(func(t *testing.T, data, cuts []byte) {
		plain := &script{pieces: [][]byte{bytes.Clone(data)}}
		ws, err := upgrader.Upgrade(answering{httptest.NewRecorder(), plain}, asking(), nil)
		if err != nil {
			t.Fatal(err)
		}
		want := listen(newConn(ws, MaxToGateway), plain)

		cut := &script{}
		for _, size := range cuts { // none for a pause
			n := min(int(size), len(data))
			cut.pieces = append(cut.pieces, bytes.Clone(data[:n]))
			data = data[n:]
		}
		cut.pieces = append(cut.pieces, bytes.Clone(data))
		c, err := Upgrade(answering{httptest.NewRecorder(), cut}, asking())
		if err != nil {
			t.Fatal(err)
		}
		if got := listen(c, cut); !reflect.DeepEqual(got, want) {
			t.Errorf("through the gate came\n%s\nwithout\n%s", show(got), show(want))
		}
	})
}

func show(t told) string {
	s := ""
	for _, m := range t.Messages {
		s += fmt.Sprintf("%d bytes: %.60q\n", len(m), m)
	}
	return s + fmt.Sprintf("%s\nafter the answers %.200x", t.Err, t.Wrote)
}
