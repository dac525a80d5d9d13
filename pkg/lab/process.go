package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// stopGrace is how long a process has between SIGTERM and SIGKILL.
const stopGrace = 3 * time.Second

// Process is a program running inside a namespace, in a process group of its own.
type Process struct {
	Name string // its command

	namespace *Namespace
	cmd       *exec.Cmd
	log       string // file that takes stdout and stderr
	exited    chan struct{}
	err       error // of Wait; read after exited

	mu     sync.Mutex
	unbind func() bool // stops following the context
}

// Start starts a program inside the namespace. It runs until it ends by itself, the context is done,
// Stop is called or the lab is removed. Its output goes to a file that Output reads.
func (n *Namespace) Start(ctx context.Context, name string, args ...string) *Process {
	n.lab.tb.Helper()
	return n.StartCommand(ctx, exec.Command(name, args...))
}

// StartCommand is Start for a command with environment, folder or standard input of its own. The
// network namespace is the only thing it does not share with us: mounts, bpffs too, are ours.
func (n *Namespace) StartCommand(ctx context.Context, cmd *exec.Cmd) *Process {
	n.lab.tb.Helper()
	name := filepath.Base(cmd.Path)
	log, err := os.CreateTemp(n.lab.dir, n.short+"-"+name+"-*.log")
	if err != nil {
		n.fatal("start", name, err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	p := &Process{Name: name, namespace: n, cmd: cmd, log: log.Name(), exited: make(chan struct{})}
	if err := n.lab.forker.start(n, cmd); err != nil {
		n.fatal("start", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	p.mu.Lock()
	p.unbind = context.AfterFunc(ctx, p.Kill)
	p.mu.Unlock()
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.lab.processes = append(n.lab.processes, p)
	return p
}

// Run runs a program inside the namespace to its end and returns what it wrote to stdout. The error
// holds exit status and stderr; errors.As finds the *exec.ExitError. Safe from any goroutine.
func (n *Namespace) Run(ctx context.Context, name string, args ...string) (string, error) {
	return n.RunCommand(ctx, exec.Command(name, args...))
}

// RunCommand is Run for a command with environment, folder or standard input of its own.
func (n *Namespace) RunCommand(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// Somebody the program started may hold its output open after it ended.
	cmd.WaitDelay = time.Second
	if err := n.lab.forker.start(n, cmd); err != nil {
		return "", fmt.Errorf("run %s in %s: %w", filepath.Base(cmd.Path), n.short, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	err := cmd.Wait()
	if !stop() && err != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	if err != nil {
		err = fmt.Errorf("run %s in %s: %w: %s", filepath.Base(cmd.Path), n.short, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), err
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output is what the process wrote so far to stdout and stderr.
func (p *Process) Output() string {
	out, err := os.ReadFile(p.log)
	if err != nil {
		return ""
	}
	return string(out)
}

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Wait waits for the process's end and returns nil if its exit status was 0.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.exited:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", p.Name, context.Cause(ctx))
	}
}

// Signal sends a signal to the process alone.
func (p *Process) Signal(sig unix.Signal) error {
	return p.cmd.Process.Signal(sig)
}

// Stop ends the process and its group: SIGTERM first, SIGKILL after three seconds. It returns when
// the process is gone, at once when it was already.
func (p *Process) Stop() {
	p.detach()
	p.signalGroup(unix.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(stopGrace):
	}
	p.Kill()
}

// Kill ends the process and its group with SIGKILL and returns when the process is gone.
func (p *Process) Kill() {
	p.detach()
	p.signalGroup(unix.SIGKILL)
	<-p.exited
}

// signalGroup signals the process group as long as its leader runs: later the number may be somebody
// else's. (Members that outlive their leader are found by their namespace, see Remove.)
func (p *Process) signalGroup(sig unix.Signal) {
	select {
	case <-p.exited:
	default:
		_ = unix.Kill(-p.PID(), sig)
	}
}

// detach makes the process independent of the context it was started with.
func (p *Process) detach() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unbind != nil {
		p.unbind()
	}
}

func (p *Process) state() string {
	select {
	case <-p.exited:
		return p.cmd.ProcessState.String()
	default:
		return "running"
	}
}

// forker starts all processes of a lab from one thread, which lives as long as the lab: PDEATHSIG
// fires at the end of the *thread* that started the child, and threads that were in other namespaces
// may be thrown away any time.
type forker struct {
	requests chan forkRequest
	done     chan struct{}
}

type forkRequest struct {
	namespace *Namespace
	cmd       *exec.Cmd
	result    chan error
}

func newForker() *forker {
	f := &forker{requests: make(chan forkRequest), done: make(chan struct{})}
	go f.serve()
	return f
}

var errForkerGone = errors.New("lab is closed")

func (f *forker) start(n *Namespace, cmd *exec.Cmd) error {
	request := forkRequest{namespace: n, cmd: cmd, result: make(chan error, 1)}
	select {
	case f.requests <- request:
		return <-request.result
	case <-f.done:
		return errForkerGone
	}
}

func (f *forker) stop() { close(f.done) }

func (f *forker) serve() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	home, err := netns.GetFromPath("/proc/thread-self/ns/net")
	if err == nil {
		defer home.Close()
	}
	for {
		select {
		case <-f.done:
			return
		case r := <-f.requests:
			if err != nil { // where we belong is unknown, at first or since a failed return
				r.result <- err
				continue
			}
			var errStart error
			errStart, err = fork(home, r)
			r.result <- errStart
		}
	}
}

// fork starts one command. The second error says that the thread could not go home.
func fork(home netns.NsHandle, r forkRequest) (errStart, errHome error) {
	if r.cmd.SysProcAttr == nil {
		r.cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	r.cmd.SysProcAttr.Setpgid = true
	if !r.namespace.lab.keep {
		r.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := netns.Set(r.namespace.handle); err != nil {
		return fmt.Errorf("enter namespace %s: %w", r.namespace.short, err), nil
	}
	errStart = r.cmd.Start()
	return errStart, netns.Set(home)
}
