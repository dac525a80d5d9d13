// Package vm runs test binaries on other kernels: it boots a kernel in qemu with nothing but an
// initramfs in which a small init (package guest) runs the binaries and reports on the console.
//
// The emulation is plain software (TCG), the same on every machine; a boot takes some seconds and
// the tests in it about ten times as long as outside. It needs no root file system, no disk and no
// network device, and no rights beyond reading the kernel's files.
//
// A [Machine] is a kernel and what is to be run on it; [Machine.Run] builds the initramfs, boots and
// returns what each binary printed and how it ended. [Kernel] finds image and modules in an unpacked
// Debian package, [Archive] writes the initramfs, [Counts] reads the output of `go test -v`.
//
// # Invariants
//
// A binary without an end in the report has failed: a panic, a lock-up or a time-out of the machine
// never looks like success. Warnings of the guest's kernel are reported as well.
// Guest and host agree on the [Plan] and the marks in plan.go, written once for both.
// Files are written below the folder given, and nowhere else. qemu ends with the context.
//
// # Imports
//
// The standard library only, and golang.org/x/sys in the guest.
//
// # Tests
//
// go test ./pkg/lab/vm; no root, no qemu. scripts/test-kernels is the whole of it at work.
package vm
