package channel

import (
	"context"
	"time"
)

// Pump writes what an End has to say until ctx ends or a write fails. take returns what is to be written now and when to ask again at
// the latest, and false when the connection is not the End's any more; it is called at once, and whenever wake says so.
func Pump(ctx context.Context, wake <-chan struct{}, take func() (out [][]byte, due time.Time, ours bool), write func([]byte) error) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		out, due, ours := take()
		if !ours {
			return
		}
		for _, b := range out {
			if write(b) != nil {
				return
			}
		}
		timer.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-timer.C:
		}
	}
}

// Wake makes Pump look again. wake has room for one.
func Wake(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}
