// Package lab builds the networks in which privlink is tested, shown and measured: named network
// namespaces, veth pairs between them, real servers and clients inside, packet captures, checked
// transfers. It removes all of it again, whatever happens to the process that asked for it.
//
// A test takes a lab with [New] and builds what it needs; everything is gone when the test ends.
// A program that is no test (demo, benchmark) calls [Run], which offers the same methods.
//
//	l := lab.New(t)
//	gw := l.Namespace("gw")
//	c1 := l.VM(gw, "c1", "10.0.1.4/16", lab.VethOptions{})
//	web := l.VM(gw, "web", "10.0.0.4/16", lab.VethOptions{})
//	web.Nginx(ctx, lab.NginxOptions{Listen: []string{"10.0.0.4:80"}})
//	out, err := c1.Run(ctx, "curl", "-s", "http://10.0.1.10/")
//
// Methods that build fail the test (or end [Run]) when they cannot; they must be called from the
// goroutine of the test. Methods whose failure is a result (Do, Run, Dial) return an error and may
// be called from anywhere.
//
// # Invariants
//
// Every name made starts with "plab-" and the lab's id, which contains process id and start time of
// the owner: namespaces in /run/netns, folders in bpffs and in the temporary folder. Interfaces are
// made inside the namespaces, so none ever stands in the host's, and their names may be short.
// Labs of several processes and of parallel tests therefore never meet.
//
// What removes a lab, in the order of who comes first:
//   - the test's Cleanup or the end of [Run], also after a failed test;
//   - [Main], when the test binary gets SIGTERM or SIGINT;
//   - the guardian, a copy of the executable that waits for its parent's death (panic, kill -9) and
//     then removes what the parent left; its processes are killed by the kernel (PDEATHSIG);
//   - [RemoveOrphans], which `make lab-clean` calls, for what even that did not reach.
//
// The goroutine of a [Namespace.Do] holds its thread; a thread that could not be returned to its own
// namespace is thrown away. Processes are all started from one thread per lab, because PDEATHSIG
// means the death of the starting thread, and the threads of Do come and go.
//
// bpffs stays visible inside, since only the network namespace is entered (`ip netns exec` would
// mount a new /sys).
//
// # Imports
//
// lab imports nothing of privlink: every other package's tests may import it.
//
// # Tests
//
// As root: go test ./pkg/lab. They need the programs that scripts/setup installs.
package lab
