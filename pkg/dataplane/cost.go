package dataplane

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// ProgramCost is what it takes the kernel to accept one program.
type ProgramCost struct {
	Program string
	// Instructions is how many the verifier walked through, all paths together.
	Instructions uint32
	// Time is that of the processor: relocation, verifier, just-in-time compiler.
	Time time.Duration
	// Log is the verifier's summary.
	Log string
}

// ProgramCosts loads every program into the kernel, each alone, with the constants of a daemon that
// makes a new table of DefaultPairs, and lets it go again. Sorted by name. It needs root.
func ProgramCosts() ([]ProgramCost, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise RLIMIT_MEMLOCK: %w", err)
	}
	config, err := newConfig(sizes{pairs: DefaultPairs})
	if err != nil {
		return nil, err
	}
	values, err := constants(config)
	if err != nil {
		return nil, err
	}
	objects, err := LoadSpecs()
	if err != nil {
		return nil, err
	}
	specs := objects.all()
	if specs["probe"], err = loadProbe(); err != nil {
		return nil, fmt.Errorf("read the probe object: %w", err)
	}
	var costs []ProgramCost
	for object, spec := range specs {
		if err := setConstants(object, spec, values); err != nil {
			return nil, err
		}
		for name := range spec.Programs {
			cost, err := programCost(spec.Copy(), name)
			if err != nil {
				return nil, loadError(object, err)
			}
			costs = append(costs, cost)
		}
	}
	slices.SortFunc(costs, func(a, b ProgramCost) int { return cmp.Compare(a.Program, b.Program) })
	return costs, nil
}

// programCost loads one program of a spec, which is its own, after the maps.
func programCost(spec *ebpf.CollectionSpec, name string) (cost ProgramCost, err error) {
	program := spec.Programs[name]
	spec.Programs = nil
	spec.Variables = nil
	maps, err := ebpf.NewCollection(spec)
	if err != nil {
		return cost, err
	}
	defer maps.Close()
	spec.Programs = map[string]*ebpf.ProgramSpec{name: program}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begin, err := threadTime()
	if err != nil {
		return cost, err
	}
	loaded, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		MapReplacements: maps.Maps, Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	})
	if err != nil {
		return cost, err
	}
	defer loaded.Close()
	end, err := threadTime()
	if err != nil {
		return cost, err
	}
	info, err := loaded.Programs[name].Info()
	if err != nil {
		return cost, err
	}
	count, ok := info.VerifiedInstructions()
	if !ok {
		return cost, errors.New("the kernel does not say how many instructions it verified (needs 5.16)")
	}
	return ProgramCost{Program: name, Instructions: count, Time: end - begin, Log: loaded.Programs[name].VerifierLog}, nil
}

// threadTime is the processor time of the calling thread.
func threadTime() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		return 0, fmt.Errorf("read the thread's clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}
