// Package traffic holds the tests that send real programs' traffic through the real dataplane:
// nginx and curl, sshd and ssh, dnsmasq and dig, iperf3, checked bulk transfers, and sockets whose
// errors are what a user would see.
//
// A rig is one gateway in a namespace of its own with consumers and a provider around it, joined by
// veth pairs whose offloads a test chooses, as those of VMs' and containers' interfaces, and whose VLAN
// tags: a VM's end tags by two small programs, since not every kernel has 802.1Q devices. The State is
// given to pkg/dataplane directly; no control plane takes part.
//
// # Tests
//
// As root: go test ./pkg/dataplane/traffic. Each test has namespaces and a bpffs folder of its own.
// TRAFFIC_BULK_MIB changes the size of the checked transfers (256).
package traffic
