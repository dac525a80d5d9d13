package dataplane

import "unsafe"

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
	mapReasons   = "reasons_v1"
	mapAddresses = "addresses_v1"
	mapRuleIndex = "ruleidx_v1"
	mapDials     = "dials_v1"
	mapDomains   = "domains_v1"
	mapMaglev    = "maglev_v1"
	mapXDPOuts   = "xdp_outs_v1"
	mapEvents    = "events_v1"
)

// Names of the programs.
const (
	programTC      = "privlink_tc"
	programXDP     = "privlink_xdp"
	programSweep   = "sweep_slice"
	programEndPair = "end_pair"
	programClock   = "read_clock"
	programFlows   = "flows_text"
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

	identNatset  = int(unsafe.Offsetof(bpfNatset{}.Ident) / 8)
	identBackend = int(unsafe.Offsetof(bpfBackend{}.Ident) / 8)
)
