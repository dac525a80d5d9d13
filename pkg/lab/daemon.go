package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Build compiles a command of the module ("./cmd/privlink", from the module's root) into the lab's folder and
// returns the binary's name. The go command's cache makes the second time cheap.
func (l *Lab) Build(ctx context.Context, pkg string) string {
	l.tb.Helper()
	return l.build(ctx, pkg, filepath.Base(pkg))
}

// BuildVersion is Build for another version of the same command: a binary of another name, whose main.version says so.
func (l *Lab) BuildVersion(ctx context.Context, pkg, version string) string {
	l.tb.Helper()
	return l.build(ctx, pkg, filepath.Base(pkg)+"-"+version, "-ldflags", "-X main.version="+version)
}

// build is the go command's build of a package into the file of a name.
func (l *Lab) build(ctx context.Context, pkg, name string, flags ...string) string {
	l.tb.Helper()
	find := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}")
	root, err := find.Output()
	if err != nil {
		l.fatal("find the module of", pkg, err)
	}
	binary := l.Path("bin", name)
	build := exec.CommandContext(ctx, "go", append(append([]string{"build", "-o", binary}, flags...), pkg)...)
	build.Dir = strings.TrimSpace(string(root))
	if out, err := build.CombinedOutput(); err != nil {
		l.fatal("build", pkg, fmt.Errorf("%w: %s", err, out))
	}
	return binary
}

// DaemonOptions describe a privlink daemon.
type DaemonOptions struct {
	Binary string   // the privlink executable
	Args   []string // further arguments of `privlink run`
	// StateDir and BPFFS are folders of the caller's; empty = the lab's.
	StateDir, BPFFS string
}

// Daemon is `privlink run` inside a namespace, with state, socket and pins of its own. It is in the
// network namespace only, so its socket and pins are reachable from everywhere on the machine.
type Daemon struct {
	Namespace               *Namespace
	Binary                  string
	Socket, StateDir, BPFFS string

	args    []string
	process *Process
}

// Daemon starts privlink inside the namespace and waits until it takes requests.
func (n *Namespace) Daemon(ctx context.Context, o DaemonOptions) *Daemon {
	n.lab.tb.Helper()
	dir := n.serverDir("privlink")
	d := &Daemon{
		Namespace: n, Binary: o.Binary, args: o.Args,
		Socket: filepath.Join(dir, "socket"), StateDir: o.StateDir, BPFFS: o.BPFFS,
	}
	if d.StateDir == "" {
		d.StateDir = filepath.Join(dir, "state")
	}
	if d.BPFFS == "" {
		d.BPFFS = n.lab.BPFFS(n.short)
	}
	d.Start(ctx)
	return d
}

// Start starts it, again after Stop or Kill with the state it left, and waits until it takes requests.
func (d *Daemon) Start(ctx context.Context) {
	n := d.Namespace
	n.lab.tb.Helper()
	d.process = d.Launch(ctx)
	n.lab.Wait("privlink in "+n.short+" to take requests", 20*time.Second, func() error {
		select {
		case <-d.process.Exited():
			n.lab.tb.Fatalf("privlink in %s ended at its start (%s): %s", n.short, d.process.state(), d.process.Output())
		default:
		}
		conn, err := net.Dial("unix", d.Socket)
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// Launch starts the program and waits for nothing. Who launches it ends it before Start is called.
func (d *Daemon) Launch(ctx context.Context) *Process {
	args := []string{"run", "--state-dir", d.StateDir, "--socket", d.Socket, "--bpffs", d.BPFFS}
	return d.Namespace.Start(ctx, d.Binary, append(args, d.args...)...)
}

// Process is the running daemon, or the one that ran last.
func (d *Daemon) Process() *Process { return d.process }

// Stop ends it in order (SIGTERM); what it pinned stays.
func (d *Daemon) Stop() { d.process.Stop() }

// Kill ends it with SIGKILL; what it pinned stays.
func (d *Daemon) Kill() { d.process.Kill() }

// ExitError is what a privlink command printed when it failed.
type ExitError struct {
	Args   []string
	Code   int    // exit status: 1 failed, 2 usage, 3 not found, 4 refused
	Stderr string // without the last line end
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("privlink %s: exit status %d: %s", strings.Join(e.Args, " "), e.Code, e.Stderr)
}

// CLI runs a privlink command against this daemon and returns its stdout; when it fails, the error is
// an *ExitError. Safe from any goroutine.
func (d *Daemon) CLI(ctx context.Context, args ...string) (string, error) {
	return d.CLIInput(ctx, "", args...)
}

// CLIInput is CLI with something on standard input.
func (d *Daemon) CLIInput(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.Binary, args...)
	cmd.Env = append(os.Environ(), "PRIVLINK_SOCKET="+d.Socket)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		err = &ExitError{Args: args, Code: exit.ExitCode(), Stderr: strings.TrimRight(stderr.String(), "\n")}
	}
	return stdout.String(), err
}
