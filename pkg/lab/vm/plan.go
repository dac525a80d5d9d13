package vm

// Where the guest finds its plan in the initramfs.
const PlanPath = "/plan.json"

// Marks at the beginning of a line on the guest's console. What follows a mark is one JSON value, a
// [Mark]; everything between a begin and an end is what the binary printed.
const (
	MarkBegin  = "@@begin "
	MarkEnd    = "@@end "
	MarkKernel = "@@kernel "
	MarkDone   = "@@done "
)

// Mark is what the guest says behind a mark.
type Mark struct {
	// Name of the binary in the plan (begin, end).
	Name string `json:"name,omitempty"`
	// Exit code, -1 if it was ended by a signal (end).
	Exit int `json:"exit"`
	// Seconds it ran (end), or since the boot (done).
	Seconds float64 `json:"seconds,omitempty"`
	// A warning of the kernel (kernel), the version of the kernel (done).
	Text string `json:"text,omitempty"`
}

// Plan is what the guest is to do after it has booted.
type Plan struct {
	// Modules to load, in this order: paths in the initramfs.
	Modules []string `json:"modules"`
	// Runs in their order.
	Runs []Run `json:"runs"`
}

// Run is one binary.
type Run struct {
	Name string   `json:"name"`
	Path string   `json:"path"`
	Args []string `json:"args"`
	Env  []string `json:"env"`
	// The working folder.
	Folder string `json:"folder"`
	// After so many seconds it gets SIGQUIT (Go prints its goroutines), 10 s later SIGKILL.
	TimeoutSeconds int `json:"timeoutSeconds"`
}
