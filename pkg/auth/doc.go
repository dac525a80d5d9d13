// Package auth decides who may do what: principals with roles on scopes, which services a
// subscription can see, and what becomes of a connection request.
//
// Invariants: everything here is a pure function of its arguments; no decision depends on
// whether a resource exists; a request that is not visible looks like one for something
// that does not exist.
//
// It imports pkg/api only.
//
// Tests: go test ./pkg/auth.
package auth
