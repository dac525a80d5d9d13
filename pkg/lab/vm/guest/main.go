package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/privlink/privlink/pkg/lab/vm"
	"golang.org/x/sys/unix"
)

func main() {
	booted := time.Now()
	version, err := work()
	done := vm.Mark{Text: version, Seconds: time.Since(booted).Seconds()}
	if err != nil {
		fmt.Println("init:", err)
		done.Exit = 1
	}
	mark(vm.MarkDone, done)
	unix.Sync()
	// Without it the kernel panics as process 1 ends, which switches the machine off too.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// mark writes a line for the host. Its own line, whatever the binary left of one.
func mark(kind string, m vm.Mark) {
	text, err := json.Marshal(m)
	if err != nil {
		text = []byte("{}")
	}
	fmt.Printf("\n%s%s\n", kind, text)
}

func work() (version string, err error) {
	if err := prepare(); err != nil {
		return "", err
	}
	if version, err = kernelVersion(); err != nil {
		return "", err
	}
	text, err := os.ReadFile(vm.PlanPath)
	if err != nil {
		return version, err
	}
	var plan vm.Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		return version, fmt.Errorf("read plan: %w", err)
	}
	for _, module := range plan.Modules {
		if err := load(module); err != nil {
			return version, err
		}
	}
	for _, r := range plan.Runs {
		mark(vm.MarkBegin, vm.Mark{Name: r.Name})
		start := time.Now()
		exit, err := run(r)
		if err != nil {
			fmt.Println("init:", err)
		}
		mark(vm.MarkEnd, vm.Mark{Name: r.Name, Exit: exit, Seconds: time.Since(start).Seconds()})
	}
	return version, warnings()
}

// kernelVersion is three numbers. Debian's release says 6.1.0-56-cloud-amd64 and its version
// "... Debian 6.1.192-2 (date)"; others have them in the release.
func kernelVersion() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	if _, rest, ok := strings.Cut(unix.ByteSliceToString(name.Version[:]), "Debian "); ok {
		release = rest
	}
	end := strings.IndexFunc(release, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end < 0 {
		end = len(release)
	}
	return release[:end], nil
}

// prepare mounts what a system has mounted, and brings the loopback interface up.
func prepare() error {
	mounts := []struct{ kind, where string }{
		{"devtmpfs", "/dev"},
		{"proc", "/proc"},
		{"sysfs", "/sys"},
		{"bpf", "/sys/fs/bpf"},
		{"cgroup2", "/sys/fs/cgroup"},
		{"debugfs", "/sys/kernel/debug"},
		{"tracefs", "/sys/kernel/tracing"},
		{"tmpfs", "/run"},
		{"tmpfs", "/tmp"},
	}
	for _, m := range mounts {
		err := unix.Mount(m.kind, m.where, m.kind, 0, "")
		// The kernel may have mounted /dev already.
		if err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.where, err)
		}
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(target, "/dev/"+name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return loopbackUp()
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	ifreq, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifreq.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifreq); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

func load(module string) error {
	file, err := os.Open(module)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", module, err)
	}
	return nil
}

// run runs one binary to its end. The exit code is -1 if it did not get to one.
func run(r vm.Run) (exit int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.TimeoutSeconds)*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, r.Path, r.Args...)
	command.Dir = r.Folder
	command.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/tmp"}, r.Env...)
	command.Stdout, command.Stderr = os.Stdout, os.Stdout
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGQUIT) }
	command.WaitDelay = 10 * time.Second
	err = command.Run()
	if command.ProcessState == nil {
		return -1, err
	}
	if ctx.Err() != nil {
		return -1, fmt.Errorf("run %s: longer than %d s", r.Name, r.TimeoutSeconds)
	}
	return command.ProcessState.ExitCode(), nil
}

// warnings reports what the kernel complained of: quiet kept it from the console.
func warnings() error {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open kernel log: %w", err)
	}
	defer unix.Close(fd)
	record := make([]byte, 8192)
	for {
		n, err := unix.Read(fd, record)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR):
			// Records were overwritten meanwhile; the next read goes on behind them.
			continue
		case err != nil:
			return fmt.Errorf("read kernel log: %w", err)
		}
		// "priority,sequence,time,flags;text", then lines of details that begin with a blank.
		_, text, _ := strings.Cut(string(record[:n]), ";")
		text, _, _ = strings.Cut(text, "\n")
		for _, sign := range []string{"WARNING: ", "BUG: ", "Oops", "rcu: INFO", "general protection"} {
			if strings.Contains(text, sign) {
				mark(vm.MarkKernel, vm.Mark{Text: text})
				break
			}
		}
	}
}
