package dataplane

// The objects and their bindings. control has the types of everything that C and Go share, and the
// programs the daemon runs; tc and xdp have one packet program each; probe is for kernels before 6.3. Two targets, because arm64 orders
// its loads in other ways (see bpf/flowtable.h). The compiler and its flags come from the Makefile.

//go:generate go tool bpf2go -target amd64,arm64 -type iface -type out -type name -type link -type usage -type link_stats -type reason_stats -type address_key -type address -type rule_key -type rule_ref -type rule -type natset -type backend -type dial_key -type dial -type domain_key -type domain -type bucket -type table -type config -type event -type sweep -type ending -type carry -type clock_reading -type flow_key -type flow_tag -type via_forward -type hop -type rewrite -type flow -type limits -type timeouts -type flow_kind -type flow_phase -type flow_flags -type iface_flags -type out_flags -type link_state -type address_kind -type distribution -type rule_flags -type backend_state -type backend_flags -type event_type -type action -type reason -type slot_state bpf ../../bpf/control.c
//go:generate go tool bpf2go -target amd64,arm64 -no-global-types tc ../../bpf/privlink_tc.c
//go:generate go tool bpf2go -target amd64,arm64 -no-global-types xdp ../../bpf/privlink_xdp.c
//go:generate go tool bpf2go -target amd64,arm64 probe ../../bpf/redirect_probe.c
