// Command privlink is the Private Link service for Linux: the daemon (`privlink run`)
// and the command line that talks to it.
//
// Invariants: every command but run, down and demo is a client of the daemon's API and
// nothing else; commands take their world (streams, environment variables, clock) as an
// *environment, so that a test replaces it; flags may stand before and after names,
// permute sorts them by the command tree; an error ends in one of the exit codes of
// exit.go and says what to do next.
//
// One file per noun (vnet.go, lb.go, ...), each with one function that returns its part of
// the command tree. It may import every package of privlink; nothing imports it.
//
// Tests: go test ./cmd/privlink. They run the commands against a real server on a Unix
// socket with a real store. Those that load the dataplane need root.
// FAULTS_KILLS and FAULTS_UPGRADES change how often the daemon is killed (100) and replaced (20) under traffic.
package main
