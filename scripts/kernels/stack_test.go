package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// What the verifier of 6.1 allows for the frames of a program and of what it calls, in bytes
// (MAX_BPF_STACK), and to what it rounds each. Newer kernels round less and allow more.
const (
	stackLimit = 512
	stackRound = 32
)

// function is what matters here of a BPF function.
type function struct {
	frame int
	calls map[string]bool
}

// functions splits a program, as it is in the object, into its functions.
func functions(instructions asm.Instructions) map[string]*function {
	list := map[string]*function{}
	var current *function
	var last asm.Instruction
	for _, ins := range instructions {
		if name := ins.Symbol(); name != "" {
			current = &function{calls: map[string]bool{}}
			list[name] = current
		}
		if current == nil {
			continue
		}
		depth := 0
		class := ins.OpCode.Class()
		switch {
		case class.IsLoad() && ins.Src == asm.RFP, class.IsStore() && ins.Dst == asm.RFP:
			depth = -int(ins.Offset)
		case class.IsALU() && ins.OpCode.ALUOp() == asm.Add && ins.OpCode.Source() == asm.ImmSource &&
			last.OpCode.ALUOp() == asm.Mov && last.OpCode.Source() == asm.RegSource && last.Src == asm.RFP && last.Dst == ins.Dst:
			depth = -int(ins.Constant)
		}
		current.frame = max(current.frame, depth)
		if ins.IsFunctionCall() || ins.IsFunctionReference() {
			current.calls[ins.Reference()] = true
		}
		last = ins
	}
	return list
}

// deepest returns the bytes of the deepest chain of calls from a function, and the chain.
func deepest(list map[string]*function, name string) (int, []string) {
	f, there := list[name]
	if !there {
		return 0, nil
	}
	depth, chain := 0, []string(nil)
	for callee := range f.calls {
		if d, c := deepest(list, callee); d > depth {
			depth, chain = d, c
		}
	}
	frame := (max(f.frame, 1) + stackRound - 1) / stackRound * stackRound
	return depth + frame, append([]string{fmt.Sprintf("%s (%d)", name, frame)}, chain...)
}

// TestStack_EveryProgram_FitsLinux61 finds here what only a boot of 6.1 would show otherwise.
func TestStack_EveryProgram_FitsLinux61(t *testing.T) {
	root := moduleRoot(t)
	objects, err := objectFiles(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		spec, err := ebpf.LoadCollectionSpec(filepath.Join(root, object))
		if err != nil {
			t.Fatal(err)
		}
		for name, program := range spec.Programs {
			t.Run(object+"/"+name, func(t *testing.T) {
				list := functions(program.Instructions)
				depth, chain := deepest(list, name)
				if depth == 0 {
					t.Fatalf("no function %s among %d", name, len(list))
				}
				t.Logf("%d bytes: %s", depth, strings.Join(chain, ", "))
				if depth > stackLimit {
					t.Errorf("%d bytes of stack, %d allowed: %s", depth, stackLimit, strings.Join(chain, ", "))
				}
			})
		}
	}
}
