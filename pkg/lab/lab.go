package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

// TB is what a lab needs of *testing.T or *testing.B.
type TB interface {
	Helper()
	Name() string
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(func())
	Context() context.Context
}

// Lab is one set of namespaces with what runs in them. Its building methods belong to one
// goroutine, the test's.
type Lab struct {
	tb     TB
	id     string
	dir    string
	keep   bool // processes outlive us: no PDEATHSIG, see Run
	guard  *guardian
	forker *forker

	mu         sync.Mutex // guards what follows: methods that may be called from anywhere add to it
	namespaces []*Namespace
	processes  []*Process
	closers    []func() // captures, servers in Go: closed before the processes, last made first
	closed     bool
}

// New makes an empty lab that is removed when the test ends.
func New(tb TB) *Lab {
	tb.Helper()
	l, err := open(tb, false)
	if err != nil {
		tb.Fatalf("make a lab: %v", err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			l.logOutputs()
		}
		if err := l.Close(); err != nil {
			tb.Logf("remove lab %s: %v", l.id, err)
		}
	})
	return l
}

// Options of [Run].
type Options struct {
	Name string    // of the program, for messages
	Log  io.Writer // progress and, on failure, the last output of the processes; nil for none
	// Keep leaves everything in place when fn returns nil: namespaces, processes, folders.
	// Remove (or `make lab-clean`) takes it away later. When fn fails, all is removed.
	Keep bool
}

// Run makes a lab for a program that is no test, calls fn with it, and removes it when fn returns.
// It returns fn's error, or the first failure of one of the lab's building methods.
func Run(ctx context.Context, o Options, fn func(ctx context.Context, l *Lab) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	run := &runTB{name: o.Name, log: o.Log, ctx: ctx}
	l, err := open(run, o.Keep)
	if err != nil {
		return fmt.Errorf("make a lab: %w", err)
	}
	var result error
	returned := false
	done := make(chan struct{})
	// A goroutine of its own, because a failing method ends it, as in a test.
	go func() {
		defer close(done)
		result = fn(ctx, l)
		returned = true
	}()
	<-done
	if !returned {
		result = run.failure()
	}
	if result == nil && o.Keep {
		l.release()
		return nil
	}
	if result != nil {
		l.logOutputs()
	}
	return errors.Join(result, l.Close())
}

// runTB stands for the test where there is none.
type runTB struct {
	name string
	log  io.Writer
	ctx  context.Context // of the one Run it belongs to

	mu  sync.Mutex
	err error
}

func (r *runTB) Helper()                  {}
func (r *runTB) Name() string             { return r.name }
func (r *runTB) Context() context.Context { return r.ctx }
func (r *runTB) Cleanup(func())           {}
func (r *runTB) Failed() bool             { return r.failure() != nil }

func (r *runTB) Logf(format string, args ...any) {
	if r.log != nil {
		fmt.Fprintf(r.log, format+"\n", args...)
	}
}

func (r *runTB) Fatalf(format string, args ...any) {
	r.mu.Lock()
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	r.mu.Unlock()
	runtime.Goexit()
}

func (r *runTB) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func open(tb TB, keep bool) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("not root (network namespaces need CAP_SYS_ADMIN and CAP_NET_ADMIN)")
	}
	guard, err := processGuardian()
	if err != nil {
		return nil, fmt.Errorf("start guardian: %w", err)
	}
	l := &Lab{tb: tb, id: newID(), keep: keep, guard: guard}
	l.dir = filepath.Join(os.TempDir(), prefix+l.id)
	// World-accessible: servers that drop privileges read their files below it.
	if err := os.Mkdir(l.dir, 0o755); err != nil {
		return nil, err
	}
	l.forker = newForker()
	return l, nil
}

// ID is part of every name this lab made; [Remove] takes it.
func (l *Lab) ID() string { return l.id }

// Dir is a folder that lives as long as the lab.
func (l *Lab) Dir() string { return l.dir }

// Path is a file or folder name below Dir; nothing is made there but missing parents.
func (l *Lab) Path(elem ...string) string {
	l.tb.Helper()
	path := filepath.Join(append([]string{l.dir}, elem...)...)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		l.fatal("make folder", path, err)
	}
	return path
}

// WriteFile puts content into a new file below Dir and returns its name.
func (l *Lab) WriteFile(name string, content []byte) string {
	l.tb.Helper()
	path := l.Path(name)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		l.fatal("write", path, err)
	}
	return path
}

// BPFFS is a folder name in bpffs for this lab's pins. The folder is not made; bpffs is mounted
// where it is not yet. All pins below are removed with the lab.
func (l *Lab) BPFFS(name string) string {
	l.tb.Helper()
	if err := mountBPFFS(); err != nil {
		l.fatal("mount bpffs on", bpffsRoot, err)
	}
	return filepath.Join(bpffsRoot, prefix+l.id+"-"+name)
}

// Close removes everything now: processes first, then namespaces, pins and folder. It may be called
// more than once; New and Run call it at the end.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	processes, namespaces, closers := l.processes, l.namespaces, l.closers
	l.mu.Unlock()

	for i := len(closers) - 1; i >= 0; i-- {
		closers[i]()
	}
	var wait sync.WaitGroup
	for _, p := range processes {
		wait.Go(p.Stop)
	}
	wait.Wait()
	l.forker.stop()
	for _, n := range namespaces {
		n.close()
	}
	return Remove(l.id)
}

// release lets everything stand: what Run does for Keep.
func (l *Lab) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.guard.spare(l.id)
	for _, p := range l.processes {
		p.detach()
	}
}

// OnClose adds something to be closed when the lab is, before its processes are stopped.
func (l *Lab) OnClose(fn func()) { l.onClose(fn) }

// onClose adds something to be closed before the processes are stopped.
func (l *Lab) onClose(fn func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closers = append(l.closers, fn)
}

func (l *Lab) fatal(operation, object string, err error) {
	l.tb.Helper()
	l.tb.Fatalf("%s %s: %v", operation, object, err)
}

// logOutputs shows the last lines of every process: what somebody wants who reads of a failure.
func (l *Lab) logOutputs() {
	l.mu.Lock()
	processes := l.processes
	l.mu.Unlock()
	const lines = 30
	for _, p := range processes {
		out := strings.TrimRight(p.Output(), "\n")
		if out == "" {
			continue
		}
		all := strings.Split(out, "\n")
		l.tb.Logf("--- last output of %s in %s (%s)\n%s", p.Name, p.namespace, p.state(),
			strings.Join(all[max(0, len(all)-lines):], "\n"))
	}
}
