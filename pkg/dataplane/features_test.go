package dataplane

import (
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// What the loader needs is there where it has just loaded, and is what the objects use: a helper of each program, map types,
// the iterator.
func TestFeatures_KernelThatLoads_HasAllThatIsNeeded(t *testing.T) {
	g, _, _, _ := newPair(t)
	g.open()
	all, err := Features()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range all {
		names = append(names, f.Name)
		if f.Missing && f.Instead == "" {
			t.Errorf("%s is said to be missing, and the dataplane is loaded", f.Name)
		}
	}
	for _, want := range []string{
		"tc programs", "xdp programs", "syscall programs", "helper bpf_loop for tc programs", "helper bpf_l4_csum_replace for tc programs",
		"helper bpf_redirect_map for xdp programs", "map type RingBuf", "map type DevMap", "inner maps of different sizes", "iterator ksym", "tcx", "xdp-features",
		"xdp programs for packets of several buffers", "memory-mapped arrays", "BTF of the kernel (/sys/kernel/btf/vmlinux)",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not asked for; these are:\n%s", want, strings.Join(names, "\n"))
		}
	}
}

// What no kernel has is missing.
func TestFeatures_UnknownToTheKernel_AreMissingByName(t *testing.T) {
	const unknown = asm.BuiltinFunc(0x7fff)
	specs := Specs{Control: &ebpf.CollectionSpec{}, XDP: &ebpf.CollectionSpec{}, TC: &ebpf.CollectionSpec{
		Programs: map[string]*ebpf.ProgramSpec{
			"tc":   {Type: ebpf.SchedCLS, Instructions: asm.Instructions{unknown.Call(), asm.Return()}},
			"iter": {Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter, AttachTo: "nothing"},
		},
		Maps: map[string]*ebpf.MapSpec{"m": {Type: ebpf.Array}},
	}}
	all, err := featuresOf(specs)
	if err != nil {
		t.Fatal(err)
	}
	missing := make(map[string]bool)
	for _, f := range all {
		missing[f.Name] = f.Missing
	}
	want := map[string]bool{
		"tc programs": false, "map type Array": false, "BTF of the kernel (/sys/kernel/btf/vmlinux)": false,
		"iterator nothing": true, "helper " + helperName(unknown) + " for tc programs": true,
	}
	for name := range want {
		if is, ok := missing[name]; !ok || is != want[name] {
			t.Errorf("%s: missing %v, want %v; asked for: %v", name, is, want[name], missing)
		}
	}
}
