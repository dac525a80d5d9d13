// Package control is the control plane: it decides what becomes of a request for a resource,
// keeps the outcome in the store, and has the dataplane make the kernel agree.
//
// Controller is the only way in. Its methods take who asks (auth.Actor), the id and the document;
// they return *api.Error for everything that is the caller's to repair. A write is one
// transaction: checked against all other resources, committed with compare-and-swap, then visible.
//
// Invariants:
//   - Authorisation is decided from the id alone, before anything is looked up.
//   - What a transaction changes in memory is undone unless the store took it.
//   - Records in memory are never changed, only replaced; so a snapshot is a copy of pointers.
//   - compile is a pure function of a snapshot; every change, restart and repair takes the one road
//     compile -> Applier.Apply, in one goroutine (Controller.Run).
//   - What takes time (drains, the deletion of a service with approved connections) is a mark in the store with the time
//     of its end; a restart goes on from there.
//   - LinkIDs and aliases are never given twice, also after a restore.
//
// It imports pkg/api, pkg/auth, pkg/store and of pkg/dataplane the types State and Result.
//
// Tests: go test ./pkg/control (no privileges needed). Example_flow shows the whole story.
package control
