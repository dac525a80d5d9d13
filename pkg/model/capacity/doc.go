// Package capacity measures how the programs behave when much of something is in use: all ports of
// eight NAT IPs, a million pairs to sweep, threads on all CPUs that open and close the same tuples.
// The model has no part in it; what must be so afterwards is counted in the tables themselves.
//
// Tests only. They need root, some 600 MB and a few minutes: go test ./pkg/model/capacity. The
// environment variable PRIVLINK_STRESS_SECONDS shortens the run of the threads (60 by default).
package capacity
