// Package doctor looks at everything around privlink that can be wrong without any part of it being
// broken: the kernel, the daemon, interfaces and their offloads, MTUs, neighbours, pins and modes of
// files, tables that fill up. Each finding says what to do, and some can be repaired.
//
// # Invariants
//
//   - Looking changes nothing. Repairing changes only what is said in the finding, and nothing that
//     could end a flow or take an interface from somebody else.
//   - What the daemon knows comes from the daemon; everything else is looked up where it is. Without
//     a daemon, what can be seen without it is looked at all the same.
//   - What is the daemon's to write, pins, attachments and maps, the daemon repairs: doctor asks it to.
//
// # Imports
//
// pkg/api, for what the daemon says, and pkg/dataplane, for what can be asked without one: features of the kernel, pins, the bpffs.
//
// # Tests
//
// As root. What can be done to a machine is done to a real daemon, by cmd/privlink (TestDoctor): each finding is
// provoked, repaired, and gone in the next examination. What belongs to all of a machine (a real NIC's offloads, whether BPF is
// compiled, a kernel that goes without something) is done to the virtual ones of scripts/test-kernels, build tag machine. Here is what
// is left: a feature that every supported kernel has, a daemon that is late. go test ./pkg/doctor
package doctor
