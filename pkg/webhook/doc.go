// Package webhook tells HTTP servers of connection requests and decisions.
//
// Each hook gets every entry of the journal that has an event, in order, as a POST with the entry's JSON.
// It is signed: X-Privlink-Signature is "sha256=" and the HMAC-SHA256, in hexadecimal, of the timestamp
// header, a full stop and the body. X-Privlink-Delivery is the entry's number: who gets one twice
// (an answer that was lost) recognises it.
//
// Invariants: an answer 2xx ends a delivery; anything else is tried again, later and later, for a
// bounded time, and then given up with an error in the log; a hook that does not answer holds up no other; how far each
// hook is survives a restart.
//
// It imports pkg/api and pkg/auth.
//
// Tests: go test ./pkg/webhook.
package webhook
