// Package notify tells others of requests and decisions: it follows the journal and posts every event of a
// connection to the webhooks that may know of it.
//
// Invariants:
//   - Every event is delivered at least once and in order, also over restarts: the number of the last
//     delivered entry of each webhook is in the store. A receiver tells repeats by the number.
//   - A receiver that is down holds up its own webhook only, and nothing else of the daemon.
//   - The body is signed with the webhook's secret (HMAC-SHA256), with the time, against replay.
//
// It imports pkg/api, pkg/auth and logrus.
//
// Tests: go test ./pkg/notify.
package notify
