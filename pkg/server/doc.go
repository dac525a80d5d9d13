// Package server is the daemon's API: Azure Resource Manager's JSON over HTTP, on the Unix
// socket always and on TCP with TLS where configured.
//
// Invariants:
//   - Every request goes through one road (road.go): caller, route, api-version, authorisation,
//     handler with body limits, answer. The table of routes (operations.go) says what each is about
//     and what it takes; a handler is only reached by a caller who may do that, and this is decided
//     before the store is asked whether a thing exists. The Controller checks again, for what a body
//     names and for its other callers.
//   - Paths compare without case, ids keep the spelling of the request that made them.
//   - What is quick is answered at once; what is not has an absolute URL to poll, which needs no
//     memory of the server's and outlives its restart.
//   - An etag is the version of what was written to a resource, a part has its resource's, a connection its own. Writes hold
//     If-Match and If-None-Match against it. Answers also show what others did, so GET never says "not modified".
//   - Links in answers name the host the request was sent to.
//   - An error answer is ARM's error body; what the server did wrong itself is logged with its
//     cause and answered without it.
//
// It imports pkg/api, pkg/auth, pkg/control and the errors of pkg/store, and knows the dataplane by the small interfaces
// in server.go only.
//
// Tests: go test ./pkg/server; those with the Azure SDK are in scripts/check-sdk.
package server
