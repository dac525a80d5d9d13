// Package api holds the resources of privlink as people and programs write them: the
// types of Azure Resource Manager's Microsoft.Network with their JSON names, resource
// ids, limits, validation, decoding and the error body.
//
// Invariants:
//   - A type's JSON is ARM's. What privlink adds stands in own.go and nowhere else.
//   - Validation here needs nothing but the resource itself; what needs other resources
//     (references, addresses in use) is checked in pkg/control.
//   - Every limit is a constant of limits.go and stands in the error that enforces it.
//   - Every refusal is an *Error that names the property and the rule.
//
// The package is a leaf: it does no I/O and imports the standard library only.
//
// Tests: go test ./pkg/api; fuzzing: go test -fuzz FuzzDecode ./pkg/api.
package api
