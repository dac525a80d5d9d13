// Package demo shows privlink's main job on one machine, with a real daemon, real servers and real
// clients: a provider publishes a service, two consumers with the same addresses connect to it by its
// alias, the provider decides, and traffic follows the decisions.
//
// Everything happens in network namespaces of a [lab.Lab]; the machine's own network is not touched.
// The daemon is driven as a user would drive it: by the privlink command line. Every step is checked,
// and the first that is not as it should be ends the demo with the reason.
//
// It may import pkg/lab and, to read what the commands print, pkg/api.
//
// Tests: the demo is its own test; pkg/demo's runs it in both modes (root).
package demo
