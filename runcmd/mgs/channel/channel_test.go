package channel

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func ids() func() frame.ID {
	n := uint64(0)
	return func() (id frame.ID) {
		n++
		binary.BigEndian.PutUint64(id[8:], n)
		return id
	}
}

func pair() (host, client *End) { return New(Host, ids()), New(Client, ids()) }

// pass gives what one end wants written to the other, but for what lose picks out, and returns what is new.
func pass(t testing.TB, from, to *End, lose func(n int) bool) (got []*Piece) {
	t.Helper()
	for n, b := range from.Take() {
		if lose != nil && lose(n) {
			continue
		}
		p, err := to.Receive(noon, b)
		if err != nil {
			t.Fatal(err)
		}
		for ; p != nil; p = to.Next() {
			got = append(got, p)
			to.Done(noon, p)
		}
	}
	return got
}

func say(t testing.TB, e *End, text string) {
	t.Helper()
	if err := e.Send(noon, frame.Data, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsSaidArrivesOnceAndIsSettled(t *testing.T) {
	host, client := pair()
	say(t, host, "a")
	say(t, host, "b")
	if got := pass(t, host, client, nil); len(got) != 2 || string(got[0].Data)+string(got[1].Data) != "ab" {
		t.Errorf("got %v", got)
	}
	if host.Settled() {
		t.Error("it is settled before it is acknowledged")
	}
	pass(t, client, host, nil)
	if !host.Settled() || host.Room() != Window {
		t.Errorf("settled %v, room %d", host.Settled(), host.Room())
	}
}

// The stock agent repeats only its oldest message: all that was received behind it must be there when it comes.
func TestWhatComesBeforeItsTurnWaitsForIt(t *testing.T) {
	host, client := pair()
	const n = 1000
	var want, got bytes.Buffer
	for k := range n {
		text := fmt.Sprintf("%d ", k)
		want.WriteString(text)
		say(t, host, text)
	}
	all := host.Take()
	order := rand.New(rand.NewPCG(3, 4)).Perm(n)
	for _, k := range order {
		b := bytes.Clone(all[k])
		p, err := client.Receive(noon, b)
		if err != nil {
			t.Fatal(err)
		}
		clear(b) // it was only lent
		for ; p != nil; p = client.Next() {
			if p.seq != int64(k) {
				got.Write(p.Data)
			} else {
				fmt.Fprintf(&got, "%d ", k) // its data lay in b
			}
			client.Done(noon, p)
		}
	}
	if got.String() != want.String() || client.Held() != 0 || len(client.early) != 0 {
		t.Errorf("got %d bytes of %d, %d held", got.Len(), want.Len(), client.Held())
	}
	pass(t, client, host, nil)
	if !host.Settled() {
		t.Error("not all is acknowledged")
	}
}

// Who leaves a gap is not given more room than who does not.
func TestAGapHoldsLittle(t *testing.T) {
	host, client := pair()
	data := make([]byte, MaxData)
	for k := 0; host.Room() > 0; k++ {
		if err := host.Send(noon, frame.Data, data); err != nil {
			t.Fatal(err)
		}
	}
	all := host.Take()
	for range 4 { // again and again
		for _, b := range all[1:] {
			if p, err := client.Receive(noon, b); p != nil || err != nil {
				t.Fatalf("got %v, %v before its turn", p, err)
			}
		}
	}
	if client.Held() > maxHeld/2 || client.Busy() {
		t.Errorf("%d bytes are held, busy %t: what is missing could not come", client.Held(), client.Busy())
	}
	for k := range 3 * most { // so far ahead that nobody is
		b, err := frame.Append(nil, &frame.Message{Type: frame.Output, Created: noon, Sequence: int64(most + 100 + k), PayloadType: frame.Data})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Receive(noon, b); err != nil {
			t.Fatal(err)
		}
	}
	if len(client.early) > len(all) {
		t.Errorf("%d messages of a far future are kept", len(client.early)-len(all))
	}
}

func TestNothingIsLostOrDoubledWhenConnectionsBreak(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	host, client := pair()
	var want, got bytes.Buffer
	for n := range 500 {
		text := fmt.Sprintf("%d ", n)
		want.WriteString(text)
		say(t, host, text)
		if r.IntN(3) > 0 {
			continue
		}
		cut := r.IntN(4) // what is written behind the cut is lost, in both directions
		for _, p := range pass(t, host, client, func(n int) bool { return n >= cut }) {
			got.Write(p.Data)
		}
		pass(t, client, host, func(int) bool { return r.IntN(2) == 0 })
		host.Resume(noon)
		client.Resume(noon)
	}
	for range 10 {
		for _, p := range pass(t, host, client, nil) {
			got.Write(p.Data)
		}
		pass(t, client, host, nil)
	}
	if got.String() != want.String() {
		t.Errorf("got  %.200q\nwant %.200q", got.String(), want.String())
	}
	if !host.Settled() {
		t.Error("something is not acknowledged")
	}
}

func TestTheWindowIsKept(t *testing.T) {
	host, _ := pair()
	n := 0
	for host.Room() >= MaxData {
		say(t, host, string(make([]byte, MaxData)))
		n++
	}
	if n < 16 || n > Window/MaxData {
		t.Errorf("%d messages of the largest size fit", n)
	}
	host, _ = pair()
	for range most {
		say(t, host, "x")
	}
	if host.Room() != 0 {
		t.Error("small messages are not bounded")
	}
}

func TestALateAcknowledgementIsAskedForAgain(t *testing.T) {
	host, client := pair()
	say(t, host, "a")
	host.Take()
	if due := host.Due(noon); due != noon.Add(repeatAfter) || len(host.Take()) != 0 {
		t.Errorf("due at %v", due)
	}
	host.Due(noon.Add(repeatAfter))
	if got := pass(t, host, client, nil); len(got) != 1 {
		t.Errorf("got %v", got)
	}
}

// The stock plugin acknowledges what it has seen before only once. Were that lost, the message would be repeated for
// ever, and the window would fill.
func TestAPluginThatDoesNotAcknowledgeTwiceIsUnderstood(t *testing.T) {
	host, _ := pair()
	say(t, host, "a")
	say(t, host, "b")
	host.Take()
	ack(t, host, 1)
	now := noon
	for range repeats {
		if host.Settled() {
			t.Fatal("settled too early: the plugin may not have had it")
		}
		now = host.Due(now)
		host.Due(now)
	}
	say(t, host, "c")
	ack(t, host, 2)
	if !host.Settled() {
		t.Error("the first message is still repeated")
	}
}

func ack(t testing.TB, e *End, seq int64) {
	t.Helper()
	payload, _ := json.Marshal(acknowledgement{"output_stream_data", "x", seq, true})
	m := frame.Message{Type: frame.Acknowledge, Created: noon, Payload: payload}
	b, err := frame.Append(nil, &m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Receive(noon, b); err != nil {
		t.Fatal(err)
	}
}

func TestHostileClients(t *testing.T) {
	input := func(seq int64, size int) []byte {
		m := frame.Message{Type: frame.Input, Created: noon, Sequence: seq, PayloadType: frame.Data, Payload: make([]byte, size)}
		b, _ := frame.Append(nil, &m)
		return b
	}
	other := func(kind string, payload string) []byte {
		m := frame.Message{Type: kind, Created: noon, Payload: []byte(payload)}
		b, _ := frame.Append(nil, &m)
		return b
	}
	bent := input(0, 5)
	bent[len(bent)-1]++
	for name, c := range map[string]struct {
		b       []byte
		refused bool
	}{
		"a digest of something else":               {bent, true},
		"an output from a client":                  {other(frame.Output, "x"), true},
		"a message of the control channel":         {other(frame.Job, "{}"), true},
		"an acknowledgement of what was not sent":  {other(frame.Acknowledge, `{"AcknowledgedMessageSequenceNumber":7}`), true},
		"an acknowledgement of a negative number":  {other(frame.Acknowledge, `{"AcknowledgedMessageSequenceNumber":-1}`), true},
		"an acknowledgement that is not JSON":      {other(frame.Acknowledge, `{`), true},
		"an end that is not JSON":                  {other(frame.Closed, `[`), true},
		"a jump of the sequence":                   {input(1<<62, 5), false},
		"nothing":                                  {nil, true},
		"a pause, which stops us and not the host": {other(frame.Pause, ""), false},
	} {
		e := New(Host, ids())
		p, err := e.Receive(noon, c.b)
		if (err != nil) != c.refused || p != nil || e.Held() != 0 {
			t.Errorf("%s: got %v, %v, holding %d", name, p, err, e.Held())
		}
	}
	e := New(Host, ids())
	taken := 0
	for n := range int64(1000) { // one that floods, and nobody deals with it
		p, err := e.Receive(noon, input(n, 100_000))
		if err != nil {
			t.Fatal(err)
		}
		if p != nil {
			taken++
		}
	}
	if e.Held() > maxHeld || taken > maxHeld/100_000 || len(e.Take()) > 0 {
		t.Errorf("%d messages were taken, %d bytes are held", taken, e.Held())
	}
}

// Acknowledgements stand among what the other end says: who waits for them reads on, whatever else comes.
func TestWhoCannotSendReadsOn(t *testing.T) {
	host, client := pair()
	data := make([]byte, MaxData)
	for host.Room() >= MaxData {
		if err := host.Send(noon, frame.Data, data); err != nil {
			t.Fatal(err)
		}
	}
	var unsaid []*Piece
	for _, b := range host.Take() {
		p, err := client.Receive(noon, b)
		if err != nil {
			t.Fatal(err)
		}
		unsaid = append(unsaid, p)
	}
	var said []*Piece
	for n := int64(0); host.Held() <= Window; n++ { // nothing of it can be dealt with before more was sent
		b, err := frame.Append(nil, &frame.Message{Type: frame.Input, Created: noon, Sequence: n, PayloadType: frame.Data, Payload: data})
		if err != nil {
			t.Fatal(err)
		}
		p, err := host.Receive(noon, b)
		if err != nil || p == nil {
			t.Fatalf("got %v, %v", p, err)
		}
		said = append(said, p)
	}
	if host.Busy() {
		t.Error("nothing is read any more, and so no acknowledgement")
	}
	client.Done(noon, unsaid[0])
	for _, b := range client.Take() {
		if _, err := host.Receive(noon, b); err != nil {
			t.Fatal(err)
		}
	}
	if !host.Busy() {
		t.Error("more is read than is dealt with, though there is room to go on")
	}
	for _, p := range said {
		host.Done(noon, p)
	}
	if host.Take(); host.Busy() {
		t.Error("all is dealt with, and nothing is read")
	}
}

func TestWhoIsNotReadCostsLittle(t *testing.T) {
	input := func(seq int64) []byte {
		b, _ := frame.Append(nil, &frame.Message{Type: frame.Input, Created: noon, Sequence: seq, PayloadType: frame.Data})
		return b
	}
	for name, next := range map[string]func(n int64) int64{
		"empty messages": func(n int64) int64 { return n },
		"repetitions":    func(int64) int64 { return 0 },
	} {
		e := New(Host, ids())
		n := int64(0)
		for ; !e.Busy() && n < 1<<20; n++ {
			p, err := e.Receive(noon, input(next(n)))
			if err != nil {
				t.Fatal(err)
			}
			if p != nil && next(1) == 0 {
				e.Done(noon, p)
			}
		}
		if !e.Busy() || n > 10_000 {
			t.Errorf("%s: %d were taken", name, n)
		}
	}
}

func TestTheEndIsTold(t *testing.T) {
	host, client := pair()
	if err := host.Close(noon, "s", "c", "the reason"); err != nil {
		t.Fatal(err)
	}
	pass(t, host, client, nil)
	if text, closed := client.Closed(); !closed || text != "the reason" {
		t.Errorf("got %q, %v", text, closed)
	}
}

func FuzzReceive(f *testing.F) {
	host, client := pair()
	say(f, client, "x")
	for _, b := range client.Take() {
		f.Add(b)
		host.Receive(noon, b)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		e := New(Host, ids())
		say(t, e, "out")
		for range 3 {
			if p, err := e.Receive(noon, b); err == nil && p != nil {
				e.Done(noon, p)
			}
		}
		if e.Held() < 0 || e.Room() > Window || len(e.Take()) > 8 {
			t.Fatalf("held %d, room %d", e.Held(), e.Room())
		}
	})
}
