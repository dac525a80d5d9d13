// Compare measures ways to move the bytes of a proxied connection, beside each other in one run:
// privlink's splice, sockmap (an sk_skb program that hands segments from socket to socket),
// io.Copy, and haproxy with splicing. All send a PROXY v2 header and run on one core, between the
// same two namespaces, without the dataplane.
//
//	go run ./pkg/splice/compare [-rounds 5] [-seconds 2]
//
// As root. It prints bulk throughput, the proxy's own CPU time per GiB, connections per second
// and the median time of a request and its response: the best of all rounds, which are interleaved
// because a round's noise is as large as the differences.
//
// Then it says how much of its bytes the splice did not copy, which must be nearly all, how sockmap compares, and
// which of the two these numbers are for.
//
// What was found on 6.18: see ../SERVERS.md, "Why splice".
package main
