// Package store keeps what the control plane decides: keys and values with revisions,
// compare-and-swap and watch. The interface is small enough for etcd to stand behind it;
// Bolt is the embedded store of one node.
//
// Invariants:
//   - A Commit happens wholly or not at all, and is on disk when it returns.
//   - Every Commit raises the store's revision by one; an entry carries the revision of the
//     Commit that wrote it last.
//   - One process at a time has a Bolt store open; a file that is damaged (one bit of an entry is enough) or of a newer
//     schema is refused, never repaired by guessing.
//   - A file of an older schema, and such a backup, is brought to this one in one transaction: see migrations.
//
// It imports go.etcd.io/bbolt and knows nothing of what the values mean.
//
// Tests: go test ./pkg/store.
package store
