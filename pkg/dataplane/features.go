package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Feature is something of the kernel's that privlink uses.
type Feature struct {
	// Name is the kernel's word for it: "helper bpf_loop for tc programs", "map type RingBuf", "tcx".
	Name string
	// Missing says that the kernel does not have it.
	Missing bool
	// Instead is what privlink does without it; empty = it cannot do without.
	Instead string
}

// Features asks the kernel for everything that the objects, as they are compiled, and the code around them use: what is
// missing is known by name before a load fails on it. It needs the privileges of a load, and leaves nothing behind.
func Features() ([]Feature, error) {
	specs, err := LoadSpecs()
	if err != nil {
		return nil, err
	}
	list, err := featuresOf(specs)
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name, instead string
		ask           func() error
	}{
		{"tcx", "clsact carries the filters (needs the modules sch_ingress and cls_bpf)", haveTCX},
		{"xdp-features", "privlink finds out with a frame of its own, every 10 s, which interfaces take frames from XDP", haveXDPFeatures},
	} {
		missing, err := lacks(f.ask())
		if err != nil {
			return nil, fmt.Errorf("ask the kernel for %s: %w", f.name, err)
		}
		list = append(list, Feature{f.name, missing, f.instead})
	}
	return list, nil
}

// MissingFeatures are the names of those without which nothing can be loaded.
func MissingFeatures() ([]string, error) {
	all, err := Features()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range all {
		if f.Missing && f.Instead == "" {
			names = append(names, f.Name)
		}
	}
	off, err := JITOff("/proc")
	if off {
		names = append(names, "compiled BPF programs (sysctl net.core.bpf_jit_enable=1)")
	}
	return names, err
}

// JITOff says that the kernel, whose settings are below the folder proc, does not compile programs: it then loads none that hands
// a function to a helper (bpf_loop), as privlink's do. What was loaded before goes on.
func JITOff(proc string) (bool, error) {
	value, err := os.ReadFile(filepath.Join(proc, "sys/net/core/bpf_jit_enable"))
	if errors.Is(err, os.ErrNotExist) { // a kernel that always compiles
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read whether BPF is compiled: %w", err)
	}
	return strings.TrimSpace(string(value)) == "0", nil
}

// featuresOf are what the objects need, each once, by name.
func featuresOf(specs Specs) ([]Feature, error) {
	asks := make(map[string]func() error)
	for _, spec := range specs.all() {
		for _, p := range spec.Programs {
			needsOfProgram(p, asks)
		}
		for _, m := range spec.Maps {
			asks["map type "+m.Type.String()] = func() error { return features.HaveMapType(m.Type) }
			if m.InnerMap != nil && m.InnerMap.Flags&unix.BPF_F_INNER_MAP != 0 {
				asks["inner maps of different sizes"] = func() error { return features.HaveMapFlag(features.BPF_F_INNER_MAP) }
			}
			if m.Flags&unix.BPF_F_MMAPABLE != 0 {
				asks["memory-mapped arrays"] = func() error { return features.HaveMapFlag(features.BPF_F_MMAPABLE) }
			}
		}
	}
	var list []Feature
	for _, name := range slices.Sorted(maps.Keys(asks)) {
		missing, err := lacks(asks[name]())
		if err != nil {
			return nil, fmt.Errorf("ask the kernel for %s: %w", name, err)
		}
		list = append(list, Feature{Name: name, Missing: missing})
	}
	return list, nil
}

// lacks tells a missing feature from one that cannot be asked for.
func lacks(err error) (missing bool, _ error) {
	if errors.Is(err, ebpf.ErrNotSupported) {
		return true, nil
	}
	return false, err
}

func needsOfProgram(p *ebpf.ProgramSpec, asks map[string]func() error) {
	if p.Type == ebpf.Tracing {
		// Its helpers cannot be asked for one by one; the kernel has them where it has the iterator.
		asks["BTF of the kernel (/sys/kernel/btf/vmlinux)"] = haveBTF
		asks["iterator "+p.AttachTo] = func() error { return haveIterator(p.AttachTo) }
		return
	}
	kind := map[ebpf.ProgramType]string{ebpf.SchedCLS: "tc", ebpf.XDP: "xdp", ebpf.Syscall: "syscall"}[p.Type]
	asks[kind+" programs"] = func() error { return features.HaveProgramType(p.Type) }
	if p.Type == ebpf.XDP && p.Flags&unix.BPF_F_XDP_HAS_FRAGS != 0 {
		asks["xdp programs for packets of several buffers"] = haveFrags
	}
	for _, instruction := range p.Instructions {
		if !instruction.IsBuiltinCall() {
			continue
		}
		helper := asm.BuiltinFunc(instruction.Constant)
		asks["helper "+helperName(helper)+" for "+kind+" programs"] = func() error { return features.HaveProgramHelper(p.Type, helper) }
	}
}

// helperName is a helper's name in C: bpf_skb_load_bytes.
func helperName(helper asm.BuiltinFunc) string {
	var name strings.Builder
	name.WriteString("bpf")
	for _, r := range strings.TrimPrefix(helper.String(), "Fn") {
		if unicode.IsUpper(r) {
			name.WriteByte('_')
		}
		name.WriteRune(unicode.ToLower(r))
	}
	return name.String()
}

func haveBTF() error {
	_, err := btf.LoadKernelSpec()
	if errors.Is(err, os.ErrNotExist) {
		return ebpf.ErrNotSupported
	}
	return err
}

// haveIterator looks for the function by which the kernel declares an iterator.
func haveIterator(target string) error {
	spec, err := btf.LoadKernelSpec()
	if errors.Is(err, os.ErrNotExist) {
		return ebpf.ErrNotSupported
	}
	if err != nil {
		return err
	}
	var declared *btf.Func
	err = spec.TypeByName("bpf_iter_"+target, &declared)
	if errors.Is(err, btf.ErrNotFound) {
		return ebpf.ErrNotSupported
	}
	return err
}

// idle is a program that does nothing.
func idle(kind ebpf.ProgramType, flags uint32) (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: kind, Flags: flags, License: "GPL", Instructions: asm.Instructions{asm.LoadImm(asm.R0, 0, asm.DWord), asm.Return()},
	})
}

func haveFrags() error {
	p, err := idle(ebpf.XDP, unix.BPF_F_XDP_HAS_FRAGS)
	if errors.Is(err, unix.EINVAL) {
		return ebpf.ErrNotSupported
	}
	if err != nil {
		return err
	}
	return p.Close()
}

// haveTCX attaches to an interface that there cannot be: where there is TCX, that is what the kernel complains about.
func haveTCX() error {
	p, err := idle(ebpf.SchedCLS, 0)
	if err != nil {
		return err
	}
	defer p.Close()
	l, err := link.AttachTCX(link.TCXOptions{Interface: math.MaxInt32, Program: p, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		return errors.Join(errors.New("there is an interface with the greatest number"), l.Close())
	}
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func haveXDPFeatures() error {
	_, err := netlink.GenlFamilyGet(netdevFamily)
	if errors.Is(err, unix.ENOENT) {
		return ebpf.ErrNotSupported
	}
	return err
}
