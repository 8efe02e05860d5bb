package wire

import (
	"errors"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
)

// Raw is a websocket whose messages this package knows nothing of: that of another agent. One goroutine may write while
// another reads.
type Raw struct{ *Conn }

// UpgradeRaw turns an HTTP request into a connection whose messages have at most max bytes. On an error it has answered
// already.
func UpgradeRaw(w http.ResponseWriter, r *http.Request, max int64) (*Raw, error) {
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil, err
	}
	return &Raw{newConn(ws, max)}, nil
}

// WriteRaw sends a binary message.
func (r *Raw) WriteRaw(b []byte) error {
	if err := r.ws.SetWriteDeadline(time.Now().Add(writeWait)); err != nil {
		return err
	}
	return r.ws.WriteMessage(websocket.BinaryMessage, b)
}

// ReadRaw returns the next message, in memory of its own, and whether it is a text.
func (r *Raw) ReadRaw() (b []byte, text bool, err error) {
	kind, b, err := r.ws.ReadMessage()
	if err != nil {
		return nil, false, err
	}
	if kind != websocket.BinaryMessage && kind != websocket.TextMessage {
		return nil, false, errors.New("message is neither binary nor text")
	}
	return b, kind == websocket.TextMessage, r.ws.SetReadDeadline(time.Now().Add(silence))
}
