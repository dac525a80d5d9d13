// Check runs the PROXY path through the real dataplane, with real servers and clients, and prints
// one line per case and `N passed, N failed` at the end. `make check-proxy` calls it; as root.
//
//	go run ./pkg/splice/check [-quick] [-run PATTERN] [-v]
//
// Everything happens in namespaces of a pkg/lab laboratory: a gateway, two consumers whose networks
// and addresses are the same, and a provider with nginx, haproxy, sshd and a Go server. The gateway
// (dataplane, splice, prober) is a process of its own, this program again, so that it can be killed
// and its memory and descriptors counted.
//
// -quick takes less than a minute: it makes fewer connections and smaller transfers, and leaves out, saying so, what
// only time can show.
//
// Files: gateway.go the gateway's process, world.go networks and State, servers.go the provider,
// and one file of cases per subject.
package main
