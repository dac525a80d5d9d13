// Package header writes PROXY protocol version 2 headers: the few bytes with which
// a backend learns who is calling and through which private endpoint.
//
// It implements the sender's side of "The PROXY protocol, versions 1 & 2" (haproxy,
// doc/proxy-protocol.txt, section 2.2) for TCP over IPv4, and LOCAL for probes.
//
// Invariants: a header is a value, at most MaxSize bytes, so that it always fits the
// smallest segment and can be written at once; the same input gives the same bytes.
//
// The package is pure and imports the standard library only. Tests, which read the
// headers with go-proxyproto: go test ./pkg/splice/header
package header
