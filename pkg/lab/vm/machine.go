package vm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Modules that every guest loads where they are modules, as there is no modprobe in it: virtual
// interfaces, packet schedulers, NAT to compare with, the netlink families that a handle of
// package netlink opens, and the driver of the machine's NIC.
var guestModules = []string{
	"veth", "bridge", "sch_ingress", "cls_bpf", "act_bpf", "sch_netem",
	"nf_tables", "nft_nat", "nft_chain_nat", "nfnetlink", "xfrm_user", "packet", "af_packet_diag", NICDriver,
}

// NICDriver is that of the one NIC that every machine has, connected to nothing: a real one to its kernel, with LRO and
// VLAN offloads that can be switched, and with XDP from 6.6 on.
const NICDriver = "vmxnet3"

// Machine is a virtual machine: a kernel and what it runs.
type Machine struct {
	Kernel *Kernel
	// Init is the path of the static guest binary.
	Init string
	// Files is what the guest finds besides; Run adds init, modules and plan to it.
	Files *Archive
	Runs  []Run
	// Folder for the initramfs and the console's log, console.log.
	Folder string
	CPUs   int
	// Memory in MiB. The initramfs lies in it.
	Memory int
}

// Outcome is how one binary ended.
type Outcome struct {
	Name string
	// Output of the binary, line ends as it wrote them.
	Output string
	// Ended is false if the machine stopped before the binary did.
	Ended bool
	Exit  int
	Time  time.Duration
}

// Result is what a machine reported.
type Result struct {
	// Version of the kernel that ran, three numbers. Empty if it never got to the end.
	Version  string
	Outcomes []Outcome
	// Warnings of the kernel.
	Warnings []string
}

// Run boots the machine and waits until it is off. The result is valid, as far as it goes, with an
// error too: that says why the machine stopped before its plan was done.
func (m *Machine) Run(ctx context.Context) (Result, error) {
	initramfs := filepath.Join(m.Folder, "initramfs")
	if err := m.writeInitramfs(ctx, initramfs); err != nil {
		return Result{}, err
	}
	defer os.Remove(initramfs)

	log, err := os.Create(filepath.Join(m.Folder, "console.log"))
	if err != nil {
		return Result{}, fmt.Errorf("create console log: %w", err)
	}
	defer log.Close()

	qemu := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max",
		"-m", strconv.Itoa(m.Memory), "-smp", strconv.Itoa(m.CPUs),
		"-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot",
		"-netdev", "hubport,id=lan,hubid=0", "-device", NICDriver+",netdev=lan,mac=02:00:00:00:00:01",
		"-serial", "stdio", "-kernel", m.Kernel.Image, "-initrd", initramfs,
		// quiet: a console is slow; the guest reports warnings at the end. expedited: what waits for a
		// grace period (closing programs and interfaces) would take most of the time.
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off rcupdate.rcu_expedited=1",
	)
	var complaints bytes.Buffer
	qemu.Stderr = &complaints
	qemu.Cancel = func() error { return qemu.Process.Signal(syscall.SIGTERM) }
	qemu.WaitDelay = 5 * time.Second
	console, err := qemu.StdoutPipe()
	if err != nil {
		return Result{}, fmt.Errorf("start qemu: %w", err)
	}
	if err := qemu.Start(); err != nil {
		return Result{}, fmt.Errorf("start qemu: %w (package qemu-system-x86)", err)
	}
	result, done, readErr := parseConsole(io.TeeReader(console, log))
	waitErr := qemu.Wait()

	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("run kernel %s: stopped before it was done: %w", m.Kernel.Image, context.Cause(ctx))
	case readErr != nil:
		err = fmt.Errorf("read console: %w", readErr)
	case waitErr != nil:
		err = fmt.Errorf("qemu: %w: %s", waitErr, strings.TrimSpace(complaints.String()))
	case !done:
		err = fmt.Errorf("run kernel %s: the machine went off before it was done (panic? see %s)", m.Kernel.Image, log.Name())
	default:
		err = nil
	}
	return result, err
}

func (m *Machine) writeInitramfs(ctx context.Context, file string) error {
	plan := Plan{Runs: m.Runs}
	modules, err := m.Kernel.Modules(ctx, guestModules...)
	if err != nil {
		return err
	}
	for _, module := range modules {
		name := "/modules/" + module.Name + ".ko"
		m.Files.Data(name, 0o644, module.Code)
		plan.Modules = append(plan.Modules, name)
	}
	text, err := json.Marshal(plan)
	if err != nil {
		return fmt.Errorf("write plan: %w", err)
	}
	m.Files.Data(PlanPath, 0o644, text)
	m.Files.File("/init", 0o755, m.Init)
	for _, folder := range []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/etc", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64"} {
		m.Files.Folder(folder)
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		m.Files.Link("/"+name, "usr/"+name)
	}

	out, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	_, err = m.Files.WriteTo(out)
	return errors.Join(err, out.Close())
}

// parseConsole reads the guest's console to its end. done says that the guest got through its plan.
func parseConsole(console io.Reader) (result Result, done bool, err error) {
	var current *Outcome
	var output strings.Builder
	finish := func() {
		if current == nil {
			return
		}
		current.Output = output.String()
		output.Reset()
		current = nil
	}
	read := func(rest string) (mark Mark, ok bool) {
		return mark, json.Unmarshal([]byte(rest), &mark) == nil
	}

	reader := bufio.NewReader(console)
	for {
		line, readErr := reader.ReadString('\n')
		// The terminal turns every line end into two characters.
		text := strings.TrimRight(line, "\r\n")
		if rest, ok := strings.CutPrefix(text, MarkBegin); ok {
			if mark, ok := read(rest); ok {
				finish()
				output.Reset()
				result.Outcomes = append(result.Outcomes, Outcome{Name: mark.Name})
				current = &result.Outcomes[len(result.Outcomes)-1]
			}
		} else if rest, ok := strings.CutPrefix(text, MarkEnd); ok && current != nil {
			if mark, ok := read(rest); ok && mark.Name == current.Name {
				current.Ended = true
				current.Exit = mark.Exit
				current.Time = time.Duration(mark.Seconds * float64(time.Second))
				finish()
			}
		} else if rest, ok := strings.CutPrefix(text, MarkKernel); ok {
			if mark, ok := read(rest); ok {
				result.Warnings = append(result.Warnings, mark.Text)
			}
		} else if rest, ok := strings.CutPrefix(text, MarkDone); ok {
			if mark, ok := read(rest); ok {
				result.Version = mark.Text
				done = mark.Exit == 0
			}
		} else if line != "" {
			output.WriteString(text + "\n")
		}
		if readErr != nil {
			finish()
			if errors.Is(readErr, io.EOF) || errors.Is(readErr, os.ErrClosed) {
				readErr = nil
			}
			return result, done, readErr
		}
	}
}
