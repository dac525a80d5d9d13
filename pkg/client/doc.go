// Package client talks to the daemon: over its Unix socket, or over TLS to a daemon
// elsewhere. The command line and the tests are built on it.
//
// Invariants: a refusal of the daemon comes back as *api.Error with its HTTP status; a
// daemon that cannot be reached is an *Unreachable; writes return when the daemon says
// that the kernel agrees, unless their context ends before; credentials are sent to the
// configured server only, also when an answer names an URL elsewhere.
//
// It imports pkg/api and the standard library.
//
// Tests: go test ./pkg/client ./pkg/server (those run it against the real server).
package client
