// Command kernels runs the tests of some packages in virtual machines, one for each kernel given:
//
//	kernels [-packages A,B] [-work FOLDER] NAME=FOLDER...
//
// where FOLDER holds an unpacked kernel package of Debian and NAME is what to call it if it does not
// come up. scripts/test-kernels gets the kernels and calls this. For each kernel a last line says
// "VERSION N passed, M failed"; the exit code is 1 if anything failed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/privlink/privlink/pkg/lab/vm"
)

// suite is one package whose tests run in the machines.
type suite struct {
	Package string
	// Tests to run, as go test -run; empty = all.
	Run string
	Env []string
	// Tags of the build; "machine" are tests of what only a machine has: a NIC, and settings of its kernel.
	Tags string
	// Programs of this machine that the tests call.
	Programs []string
	Timeout  time.Duration
}

// suites is the list of what runs on other kernels: the verifier, packet tables, traffic through
// namespaces in each mode, a NIC, what doctor says of machine and kernel, the stress of the flow table. Times are limits for a busy host; on an idle
// one it is about four minutes a kernel.
var suites = []suite{
	{Package: "./scripts/kernels", Timeout: 10 * time.Minute},
	{Package: "./pkg/model/tables", Timeout: 10 * time.Minute},
	{Package: "./pkg/doctor", Tags: "machine", Timeout: 5 * time.Minute},
	{Package: "./pkg/dataplane", Tags: "machine", Run: "TestMachine|TestBudget|TestClock|TestApply_Approved_CarriesTraffic|TestApply_ModeXDP_CarriesTraffic", Env: []string{"PRIVLINK_EMULATED=1"}, Programs: []string{"ethtool"}, Timeout: 10 * time.Minute},
	{Package: "./pkg/dataplane/flowtable", Env: []string{"PRIVLINK_STRESS_SECONDS=60"}, Timeout: 10 * time.Minute},
}

// Limit of a whole machine, and its size.
const (
	machineTime   = 40 * time.Minute
	machineCPUs   = 2
	machineMemory = 1536 // MiB
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failed, err := command(ctx, os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kernels:", err)
	}
	if err != nil || failed {
		stop()
		os.Exit(1)
	}
}

// command is main with its inputs as values. failed says that a test, or a machine, failed.
func command(ctx context.Context, args []string, out io.Writer) (failed bool, err error) {
	flags := flag.NewFlagSet("kernels", flag.ContinueOnError)
	only := flags.String("packages", "", "comma-separated packages out of the list, instead of all")
	work := flags.String("work", ".cache/kernels/run", "folder for binaries and logs")
	if err := flags.Parse(args); err != nil {
		return false, err
	}
	if flags.NArg() == 0 {
		return false, errors.New("no kernel given (NAME=FOLDER...)")
	}
	chosen := suites
	if *only != "" {
		chosen = nil
		for name := range strings.SplitSeq(*only, ",") {
			i := slices.IndexFunc(suites, func(s suite) bool { return s.Package == name })
			if i < 0 {
				return false, fmt.Errorf("package %s is not in the list (scripts/kernels/main.go has it)", name)
			}
			chosen = append(chosen, suites[i])
		}
	}
	if err := os.MkdirAll(*work, 0o755); err != nil {
		return false, err
	}
	files, runs, err := build(ctx, *work, chosen)
	if err != nil {
		return false, err
	}
	guest := filepath.Join(*work, "guest")
	if err := goTool(ctx, "build", "-o", guest, "./pkg/lab/vm/guest"); err != nil {
		return false, err
	}
	for _, arg := range flags.Args() {
		name, folder, ok := strings.Cut(arg, "=")
		if !ok {
			return failed, fmt.Errorf("kernel %s: not of the form NAME=FOLDER", arg)
		}
		machineFolder := filepath.Join(*work, name)
		if err := os.MkdirAll(machineFolder, 0o755); err != nil {
			return failed, err
		}
		kernel, err := vm.OpenKernel(folder)
		if err != nil {
			return failed, err
		}
		machine := vm.Machine{
			Kernel: kernel,
			Init:   guest,
			Files:  files.Clone(),
			Runs:   runs,
			Folder: machineFolder,
			CPUs:   machineCPUs,
			Memory: machineMemory,
		}
		machineCtx, cancel := context.WithTimeout(ctx, machineTime)
		result, err := machine.Run(machineCtx)
		cancel()
		if !report(out, name, runs, result, err) {
			failed = true
		}
		if ctx.Err() != nil {
			return failed, ctx.Err()
		}
	}
	return failed, nil
}

// build compiles the tests of the suites, static, and gathers what they need: testdata, the programs'
// sources, and the objects that the verifier is to see.
func build(ctx context.Context, work string, chosen []suite) (*vm.Archive, []vm.Run, error) {
	files := vm.NewArchive()
	files.File("/src/go.mod", 0o644, "go.mod")
	// Some tests look at the sources of the programs.
	for _, folder := range []string{"testdata", "bpf"} {
		if err := addTree(files, folder); err != nil {
			return nil, nil, err
		}
	}
	objects, err := objectFiles(".")
	if err != nil {
		return nil, nil, err
	}
	for _, object := range objects {
		files.File("/src/"+object, 0o644, object)
	}
	var runs []vm.Run
	for _, s := range chosen {
		folder := filepath.Clean(s.Package)
		binary := filepath.Join(work, strings.ReplaceAll(folder, "/", "_")+".test")
		if err := goTool(ctx, "test", "-c", "-tags", s.Tags, "-o", binary, s.Package); err != nil {
			return nil, nil, err
		}
		if err := addTree(files, filepath.Join(folder, "testdata")); err != nil {
			return nil, nil, err
		}
		files.Folder("/src/" + folder)
		inside := "/tests/" + filepath.Base(binary)
		files.File(inside, 0o755, binary)
		for _, program := range s.Programs {
			if err := vm.AddProgram(ctx, files, program); err != nil {
				return nil, nil, err
			}
		}
		args := []string{"-test.v", "-test.timeout=" + s.Timeout.String()}
		if s.Run != "" {
			args = append(args, "-test.run="+s.Run)
		}
		runs = append(runs, vm.Run{
			Name:   folder,
			Path:   inside,
			Args:   args,
			Env:    s.Env,
			Folder: "/src/" + folder,
			// The binary's own limit, with its list of goroutines, comes first.
			TimeoutSeconds: int(s.Timeout.Seconds()) + 20,
		})
	}
	return files, runs, nil
}

// addTree adds a folder of the module, if there is one, at the same place below /src.
func addTree(files *vm.Archive, folder string) error {
	err := filepath.WalkDir(folder, func(file string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files.File("/src/"+file, 0o644, file)
		return nil
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// goTool runs the go command for a static binary: there is no library in the machine.
func goTool(ctx context.Context, args ...string) error {
	command := exec.CommandContext(ctx, "go", args...)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// report prints what a machine did, and says whether all of it was right.
func report(out io.Writer, name string, runs []vm.Run, result vm.Result, machineErr error) bool {
	passed, failed := 0, 0
	outcomes := map[string]vm.Outcome{}
	for _, o := range result.Outcomes {
		outcomes[o.Name] = o
	}
	version := result.Version
	if version == "" {
		version = name
	}
	fmt.Fprintf(out, "\n=== kernel %s\n", version)
	for _, run := range runs {
		o, started := outcomes[run.Name]
		if !started {
			failed++
			fmt.Fprintf(out, "FAILED  %s: not run\n", run.Name)
			continue
		}
		counts := vm.Count(o.Output)
		passed += counts.Passed
		failed += counts.Failed
		verdict := "ok"
		if !o.Ended || o.Exit != 0 {
			verdict = "FAILED"
			// A binary that failed without a failed test: a panic, a time-out, the end of the machine.
			if counts.Failed == 0 {
				failed++
			}
			fmt.Fprint(out, o.Output)
		}
		fmt.Fprintf(out, "%-7s %s: %d passed, %d failed, %d skipped, %.1f s\n", verdict, run.Name,
			counts.Passed, counts.Failed, counts.Skipped, o.Time.Seconds())
		for _, test := range counts.FailedTests {
			fmt.Fprintf(out, "        failed:  %s\n", test)
		}
		for _, test := range counts.SkippedTests {
			fmt.Fprintf(out, "        skipped: %s\n", test)
		}
	}
	for _, warning := range result.Warnings {
		failed++
		fmt.Fprintf(out, "FAILED  the kernel warned: %s\n", warning)
	}
	if machineErr != nil {
		failed++
		fmt.Fprintf(out, "FAILED  %v\n", machineErr)
	}
	fmt.Fprintf(out, "%s %d passed, %d failed\n", version, passed, failed)
	return failed == 0
}
