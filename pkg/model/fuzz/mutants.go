package fuzz

// Mutant is a fault that bpf/mutants.h can compile into the programs.
type Mutant struct {
	Number uint32
	Fault  string
}

// Mutants are all of them; a test compares the numbers with those in bpf/.
var Mutants = []Mutant{}
