// Package faults holds the tests that break things around pkg/dataplane while traffic runs, and
// count what was lost: the daemon killed, replaced and started again, interfaces, pins, programs
// and filters taken away, offloads switched, tables filled, notifications overrun.
//
// The rig is a gateway with consumers and a provider, as in pkg/dataplane/traffic. The dataplane
// runs either in the test's process or, where the daemon itself is to die, in a process of its
// own: the test binary, started again with FAULTS_DAEMON set, which opens the dataplane, applies
// a State it reads from a file and waits.
//
// Each test says what may be lost: nothing, or what was under way between two moments that the
// test itself saw. None depends on how fast the machine is.
//
// # Tests
//
// As root: go test ./pkg/dataplane/faults. FAULTS_KILLS and FAULTS_UPGRADES change how often the daemon
// is killed (100) and replaced (20); cmd/privlink does the same to `privlink run`, under real
// programs. FAULTS_ALONE=1 adds the tests that need the machine to themselves.
package faults
