// Package doctor looks at everything around privlink that can be wrong without any part of it being
// broken: the kernel, the daemon, interfaces and their offloads, MTUs, neighbours, pins and modes of
// files, tables that fill up. Each finding says what to do, and some can be repaired.
//
// # Invariants
//
//   - Looking changes nothing. Repairing changes only what is said in the finding, and nothing that
//     could end a flow or take an interface from somebody else.
//   - What the daemon knows comes from its Status; everything else is looked up where it is. Without
//     a daemon, what can be seen without it is looked at all the same.
//
// # Imports
//
// pkg/api, for the Status. It knows nothing of the dataplane's insides but where its pins are.
//
// # Tests
//
// As root, because interfaces are made in namespaces: go test ./pkg/doctor. Each finding is provoked
// once, repaired, and gone in the next examination.
package doctor
