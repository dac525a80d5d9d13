package bench

import (
	"fmt"
	"io"
	"time"
)

// Progress shows what a run is doing: one line that is overwritten on a terminal,
// or a line every ten seconds where there is none.
type Progress interface {
	Step(format string, args ...any)
	// Done ends the line.
	Done()
}

// NewProgress writes to w.
func NewProgress(w io.Writer, terminal bool, now func() time.Time) Progress {
	return &progress{w: w, terminal: terminal, now: now, start: now()}
}

type progress struct {
	w           io.Writer
	terminal    bool
	now         func() time.Time
	start, last time.Time
}

func (p *progress) Step(format string, args ...any) {
	pause := 10 * time.Second
	if p.terminal {
		pause = 100 * time.Millisecond
	}
	now := p.now()
	if now.Sub(p.last) < pause {
		return
	}
	p.last = now
	begin, end := "", "\n"
	if p.terminal {
		begin, end = "\r\x1b[K", ""
	}
	_, _ = fmt.Fprintf(p.w, "%s[%3ds] %s%s", begin, int(now.Sub(p.start).Seconds()), fmt.Sprintf(format, args...), end)
}

func (p *progress) Done() {
	if p.terminal {
		_, _ = fmt.Fprint(p.w, "\r\x1b[K")
	}
}
