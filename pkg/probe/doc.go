// Package probe finds out which backends are healthy.
//
// A check is one question, asked again and again: does this backend accept on this port, does it
// answer this path with 200? Checks go out through a dialler that the caller gives; in the
// daemon that is the inner VNet's (pkg/splice/inner), so that a probe takes the way of the
// traffic whose success it predicts: through the dataplane, from a NAT IP.
//
// Invariants:
//   - one scheduler, a bounded number of probes at once, never two of one check at a time;
//   - an owner's backends that keep silent never use up the places of others; one that answers no ARP is not dialled;
//   - the first result decides at once, later ones after the threshold, and a backend that flaps
//     is held down longer;
//   - nobody is taken out for not having been asked yet: the checks of a new group count as healthy until
//     their first result, and one that is asked on another way keeps its verdict;
//   - what cannot be sent for want of something on this machine is no result: verdicts stay;
//   - a result belongs to the check that was asked: one that was replaced reports nothing.
//
// Files: check.go what is asked, ask.go asking, hint.go what an error suggests, history.go
// threshold and damping, prober.go the scheduler.
//
// It imports pkg/splice/inner and pkg/splice/header, logrus, client_golang and the standard library.
// Tests need no root: go test ./pkg/probe
package probe
