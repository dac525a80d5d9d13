package dataplane

import (
	"fmt"
	"maps"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// Names of the maps, each with the version of its layout. A changed layout is a new name.
const (
	mapFlows     = "flows_v1"
	mapTable     = "table_v1"
	mapConfig    = "config_v1"
	mapVNets     = "vnets_v1"
	mapServices  = "services_v1"
	mapPools     = "pools_v1"
	mapIfaces    = "ifaces_v1"
	mapOuts      = "outs_v1"
	mapLinks     = "links_v1"
	mapUsage     = "usage_v1"
	mapRules     = "rules_v1"
	mapNatsets   = "natsets_v1"
	mapBackends  = "backends_v1"
	mapLinkStats = "link_stats_v1"
	mapReasons   = "reasons_v2"
	mapAddresses = "addresses_v1"
	mapRuleIndex = "ruleidx_v1"
	mapDials     = "dials_v1"
	mapDomains   = "domains_v1"
	mapMaglev    = "maglev_v1"
	mapXDPOuts   = "xdp_outs_v1"
	mapEvents    = "events_v1"
	mapBuckets   = "buckets_v1"
	mapRefills   = "refills_v1"

	// mapOldFlows is a place for the table of before: see migration.
	mapOldFlows = "flows_old"
)

// role is what becomes of what is in a map when its layout changes (see migration).
type role int

const (
	// roleShared maps are changed by packets all the time, in ways that no copy can follow: another layout is refused.
	roleShared role = iota
	// roleFlows is carried over by the programs themselves.
	roleFlows
	// roleConfig maps are written by the daemon alone. They go together: when one changes all are made anew, take over
	// what only they know, and are filled from the State.
	roleConfig
	// roleCounters take over their numbers.
	roleCounters
	// rolePassing maps begin empty: nobody misses for long what was in them. Drop reasons are among them,
	// as their numbers mean others in another version.
	rolePassing
)

// layout says what becomes of a map.
type layout struct {
	role role
	// kept are the fields that must be found in the map of before, by name and size: a State does not say them, or tells by
	// comparing with them what has to end. The other fields are the State's; what is still there of them is taken over too, for
	// what the State has no more.
	kept []string
	// left are fields that speak of what begins anew, and are not taken over.
	left []string
	// fresh maps begin empty, and the State says everything in them.
	fresh bool
}

// layouts are those of all maps that are pinned.
var layouts = map[string]layout{
	mapFlows:     {role: roleFlows},
	mapTable:     {role: roleShared},
	mapUsage:     {role: roleShared},
	mapDomains:   {role: roleShared},
	mapConfig:    {role: roleConfig, kept: []string{"seed", "maglev_seed", "homes", "max_pairs", "port_step", "port_offset", "port_inverse"}},
	mapVNets:     {role: roleConfig, kept: []string{"ident"}},
	mapServices:  {role: roleConfig, kept: []string{"ident"}},
	mapPools:     {role: roleConfig, kept: []string{"ident"}},
	mapOuts:      {role: roleConfig, kept: []string{"ident", "flags"}},
	mapLinks:     {role: roleConfig, kept: []string{"ident", "gen", "state", "epoch", "link_id", "service", "addr", "vnet"}},
	mapRules:     {role: roleConfig, kept: []string{"ident"}, left: []string{"balance"}},
	mapNatsets:   {role: roleConfig, kept: []string{"ident", "count"}},
	mapBackends:  {role: roleConfig, kept: []string{"ident", "gen", "state", "flags", "hop_mac", "hop_out", "addr", "port", "vnet", "idle_tcp", "idle_udp", "rule", "pool"}},
	mapAddresses: {role: roleConfig, kept: []string{"key_addr", "key_vnet", "link", "kind", "arp"}},
	mapIfaces:    {role: roleConfig, fresh: true},
	mapRuleIndex: {role: roleConfig, fresh: true},
	mapDials:     {role: roleConfig, fresh: true},
	mapMaglev:    {role: roleConfig, fresh: true},
	mapXDPOuts:   {role: roleConfig, fresh: true},
	mapLinkStats: {role: roleCounters},
	mapReasons:   {role: rolePassing},
	mapBuckets:   {role: rolePassing},
	mapRefills:   {role: rolePassing},
	mapEvents:    {role: rolePassing},
}

// Names of the programs.
const (
	programTC      = "privlink_tc"
	programXDP     = "privlink_xdp"
	programSweep   = "sweep_slice"
	programEndPair = "end_pair"
	programClock   = "read_clock"
	programFlows   = "flows_text"
	programMigrate = "migrate_slice"
)

// flowWindow is FLOW_WINDOW of bpf/flowtable.h: slots behind the last home.
const flowWindow = 30

// Words of the elements that decide, written last (see array.store). The layout test
// checks that all fields that must change at once are in them.
const (
	wordIface   = int(unsafe.Offsetof(bpfIface{}.Ifindex) / 8)
	wordOut     = int(unsafe.Offsetof(bpfOut{}.Ifindex) / 8)
	wordLink    = int(unsafe.Offsetof(bpfLink{}.Gen) / 8)
	wordRule    = int(unsafe.Offsetof(bpfRule{}.Ident) / 8) // a rule is found through ruleidx only
	wordNatset  = int(unsafe.Offsetof(bpfNatset{}.Count) / 8)
	wordBackend = int(unsafe.Offsetof(bpfBackend{}.Gen) / 8)

	balanceRule  = int(unsafe.Offsetof(bpfRule{}.Balance) / 8)
	identNatset  = int(unsafe.Offsetof(bpfNatset{}.Ident) / 8)
	identBackend = int(unsafe.Offsetof(bpfBackend{}.Ident) / 8)
)

// sameLayout compares sizes, and the members of the value by their BTF.
func sameLayout(spec *ebpf.MapSpec, m *ebpf.Map) error {
	if err := spec.Compatible(m); err != nil {
		return err
	}
	for _, typ := range []btf.Type{spec.Key, spec.Value} {
		s, ok := typ.(*btf.Struct)
		if !ok {
			continue
		}
		handle, err := m.Handle()
		if err != nil {
			return fmt.Errorf("read its BTF: %w", err)
		}
		have, err := handle.Spec(nil)
		handle.Close()
		if err != nil {
			return fmt.Errorf("read its BTF: %w", err)
		}
		var other *btf.Struct
		if err := have.TypeByName(s.Name, &other); err != nil {
			return fmt.Errorf("find struct %s in its BTF: %w", s.Name, err)
		}
		if err := sameStruct(s, other); err != nil {
			return err
		}
	}
	return nil
}

func sameStruct(a, b *btf.Struct) error {
	if a.Size != b.Size || len(a.Members) != len(b.Members) {
		return fmt.Errorf("struct %s has %d bytes and %d members, there %d and %d", a.Name, a.Size, len(a.Members), b.Size, len(b.Members))
	}
	for i := range a.Members {
		if a.Members[i].Name != b.Members[i].Name || a.Members[i].Offset != b.Members[i].Offset {
			return fmt.Errorf("struct %s: %s at bit %d is %s at bit %d there", a.Name,
				a.Members[i].Name, a.Members[i].Offset, b.Members[i].Name, b.Members[i].Offset)
		}
	}
	return nil
}

// leaf is a field that has no fields, by its path: "rw_via_reverse_mac".
type leaf struct {
	offset, size uint32
	// within is the path of the union it is in, which is copied as a whole; from there on the offset must be ours.
	within string
	inside uint32
}

// leaves are the fields of a type, and the unions in it.
func leaves(t btf.Type, path string, at uint32, in leaf, to map[string]leaf) error {
	size, err := btf.Sizeof(t)
	if err != nil {
		return fmt.Errorf("size of %s: %w", path, err)
	}
	var members []btf.Member
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		members = t.Members
	case *btf.Union:
		members = t.Members
		if in.within == "" {
			to[path] = leaf{offset: at, size: uint32(size)}
			in = leaf{within: path, offset: at}
		}
	}
	if members == nil {
		l := leaf{offset: at, size: uint32(size), within: in.within}
		if in.within != "" {
			l.inside = at - in.offset
		}
		to[path] = l
		return nil
	}
	for _, m := range members {
		name := m.Name
		if path != "" {
			name = path + "_" + name
		}
		if err := leaves(m.Type, name, at+m.Offset.Bytes(), in, to); err != nil {
			return err
		}
	}
	return nil
}

// flowOffsets are the places of our fields in the entries of another table, in the order of struct flow_offsets.
func flowOffsets(specs Specs, c *carrier) ([]uint16, error) {
	variable := specs.TC.Variables["old_offsets"]
	order, ok := btf.UnderlyingType(variable.Type.Type).(*btf.Struct)
	if !ok {
		return nil, fmt.Errorf("the program's variable %s is no struct", variable.Name)
	}
	offsets := make([]uint16, 0, len(order.Members))
	for _, m := range order.Members {
		is, ok := c.have[m.Name]
		if !ok {
			return nil, fmt.Errorf("it has no field %s", m.Name)
		}
		offsets = append(offsets, uint16(is.offset))
	}
	return offsets, nil
}

// flowCarrier finds every field of a flow in another table: what is in a table is never guessed.
func flowCarrier(spec *ebpf.MapSpec, old *ebpf.Map) (*carrier, error) {
	all := make(map[string]leaf)
	if err := leaves(spec.Value, "", 0, leaf{}, all); err != nil {
		return nil, err
	}
	return newCarrier(spec.Value, old, slices.Sorted(maps.Keys(all)), nil)
}
