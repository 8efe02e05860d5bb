package store

import "time"

// SetCheck makes a mirror ask more often whether it is behind.
func SetCheck(m *Mirror, every time.Duration) { m.check = every }
