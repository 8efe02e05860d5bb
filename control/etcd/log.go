package etcd

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newZap returns a zap logger that speaks through log. etcd tells at level info what only
// its authors want to know: that becomes debug. What it calls debug itself is not for any log:
// it writes down each request with the values, session tokens and user data among them. What it
// calls an error while it is closing is none.
func newZap(log *slog.Logger) *zap.Logger {
	return zap.New(&bridge{log: log})
}

// bridge is a zapcore.Core over a slog.Logger.
type bridge struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}

// noise is what etcd complains of in the course of an orderly life.
var noise = []string{
	"server closed",                                // each of its listeners, on Close
	"the server has been stopped",                  // likewise
	"http and grpc server on single port",          // the port is a socket for one agent
	"use of closed network connection",             // likewise
	"mux: listener closed",                         // likewise, when it closes as it starts
	"simple token is not cryptographically signed", // of an access control that is off
	"request cancelled",                            // its own, on Close
	"missing term information",                     // of a new store, until its first commit
	"failed to apply request",                      // a client's mistake; the client is told
	"pending configuration changes to apply",       // of a new store on a slow machine: it campaigns a tick later
}

func (b *bridge) Enabled(l zapcore.Level) bool {
	return l > zapcore.DebugLevel && b.log.Enabled(context.Background(), level(l))
}

func (b *bridge) With(fields []zapcore.Field) zapcore.Core {
	return &bridge{log: b.log, fields: append(b.fields[:len(b.fields):len(b.fields)], fields...)}
}

func (b *bridge) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return ce.AddCore(e, b)
	}
	return ce
}

func (b *bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range append(b.fields[:len(b.fields):len(b.fields)], fields...) {
		f.AddTo(enc)
	}
	l := level(e.Level)
	text := e.Message
	if v, ok := enc.Fields["error"].(string); ok {
		text += " " + v
	}
	for _, n := range noise {
		if e.Level < zapcore.DPanicLevel && strings.Contains(strings.ToLower(text), n) {
			l = slog.LevelDebug
		}
	}
	var attrs []slog.Attr
	for _, k := range slices.Sorted(maps.Keys(enc.Fields)) {
		if k != "stacktrace" && k != "errorVerbose" {
			attrs = append(attrs, slog.Any(k, enc.Fields[k]))
		}
	}
	b.log.LogAttrs(context.Background(), l, e.Message, attrs...)
	return nil
}

func (b *bridge) Sync() error { return nil }
