// Package privilege leaves the daemon the capabilities it needs and no others. The list with the
// reasons is Needed; scripts/privlink.service has the same list, and a test compares them.
//
// # Invariants
//
//   - What is dropped cannot come back: it leaves the bounding set, and the process executes itself
//     again, so that all of its threads have the smaller set from their first instruction.
//   - What is missing is not made up for: a daemon that was given less than it needs says so.
//
// # Imports
//
// Nothing of privlink.
//
// # Tests
//
// go test ./pkg/privilege, as root; cmd/privlink tests a daemon that runs with exactly these, and under a
// real systemd in the unit's whole sandbox.
package privilege
