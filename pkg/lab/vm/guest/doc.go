// Command guest is the init of the virtual machines of package vm: it prepares a kernel that has just
// booted, runs the binaries of its plan one after the other, reports on the console, and switches the
// machine off. Built static (CGO_ENABLED=0), it is process 1 and the only other program in there.
package main
