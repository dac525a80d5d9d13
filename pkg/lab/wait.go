package lab

import "time"

// Wait calls the condition until it returns nil, soon at first and then every 50 ms, and fails with
// what and the condition's last error when that takes longer than the limit.
func (l *Lab) Wait(what string, limit time.Duration, condition func() error) {
	l.tb.Helper()
	if err := Poll(limit, condition); err != nil {
		l.tb.Fatalf("waited %v for %s: %v", limit, what, err)
	}
}

// Poll is Wait for those who want the error: the condition's last one, or nil.
func Poll(limit time.Duration, condition func() error) error {
	deadline := time.Now().Add(limit)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := condition()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(pause)
	}
}
