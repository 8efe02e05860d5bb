package main_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/mgs/frame"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

// When the stock plugin 1.3 has seen that the handshake of a port is complete it makes its streams, and a message that comes meanwhile,
// of whatever kind, ends what reads its connection: it dereferences nil, recovers, and hangs. So the last word of the handshake is the
// last of all until the client speaks.
func TestNothingFollowsTheEndOfAHandshake(t *testing.T) {
	t.Parallel()
	h := newSessionHost(t)
	_, cfg := h.begin(cloud.SessionPlan{Kind: cloud.SessionPort, Port: 1})
	var conn *wire.ClientConn
	h.until("the gateway takes a client", func() bool {
		c, err := wire.DialClient(t.Context(), cfg.URL)
		conn = c
		return err == nil
	})
	defer conn.Close()
	defer time.AfterFunc(30*time.Second, func() { conn.Close() }).Stop()
	uuid := func() string {
		id, err := cloud.NewUUID(rand.Reader)
		check(t, err)
		return id
	}
	hello, err := json.Marshal(map[string]string{"MessageSchemaVersion": "1.0", "RequestId": uuid(), "TokenValue": cfg.Token, "ClientId": uuid(), "ClientVersion": "1.2.764.0"})
	check(t, err)
	check(t, conn.WriteText(hello))
	read := func() frame.Message {
		t.Helper()
		b, err := conn.Read()
		check(t, err)
		m, err := frame.Decode(b)
		check(t, err)
		return m
	}
	write := func(kind string, flags uint64, p frame.PayloadType, payload string) frame.ID {
		t.Helper()
		id, err := frame.ParseID(uuid())
		check(t, err)
		b, err := frame.Append(nil, &frame.Message{Type: kind, Created: time.Now(), Flags: flags, ID: id, PayloadType: p, Payload: []byte(payload)})
		check(t, err)
		check(t, conn.Write(b))
		return id
	}
	request := read()
	for ; request.PayloadType != frame.HandshakeRequest; request = read() {
	}
	write(frame.Acknowledge, frame.SYN|frame.FIN, 0, fmt.Sprintf(`{"AcknowledgedMessageType":%q,"AcknowledgedMessageId":%q,"AcknowledgedMessageSequenceNumber":0,"IsSequentialMessage":true}`, request.Type, request.ID))
	answer := write(frame.Input, frame.SYN, frame.HandshakeResponse, `{"ClientVersion":"1.2.764.0","ProcessedClientActions":[{"ActionType":"SessionType","ActionStatus":1,"ActionResult":null,"Error":""}],"Errors":null}`)
	acknowledged := false
	for {
		m := read()
		if m.PayloadType == frame.HandshakeComplete {
			break
		}
		acknowledged = acknowledged || m.Type == frame.Acknowledge && strings.Contains(string(m.Payload), answer.String())
	}
	if !acknowledged {
		t.Error("the client's answer is acknowledged after the end of the handshake")
	}
	for range 3 { // what comes now is the same once more, as it was not acknowledged
		if m := read(); m.PayloadType != frame.HandshakeComplete {
			t.Errorf("after the end of the handshake came a %s of type %d: %s", m.Type, m.PayloadType, m.Payload)
		}
	}
}
