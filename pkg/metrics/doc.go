// Package metrics shows what the dataplane counts to Prometheus.
//
// Everything is read when it is asked for; nothing is kept here. Names begin with privlink_.
// Labels are the keys of the State (lower-case resource ids), the reasons' labels and addresses.
//
// What Azure Monitor calls PLSBytesIn/Out is privlink_service_bytes_total, PLSNatPortsUsage is
// privlink_nat_ports_used over privlink_nat_ports_limit, PEBytesIn/Out is privlink_link_bytes_total.
//
// Invariants: a scrape that cannot read something fails as a whole, so that a missing counter
// never looks like a zero.
//
// It imports pkg/dataplane. Tests (promtool checks the text): go test ./pkg/metrics/
package metrics
