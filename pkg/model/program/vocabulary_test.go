package program

import (
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/model"
)

// The model has the numbers of bpf/types.h in words of its own; here they are compared by name.
func TestVocabulary_ModelAndPrograms_Agree(t *testing.T) {
	specs, err := dataplane.LoadSpecs()
	if err != nil {
		t.Fatal(err)
	}
	for enum, want := range map[string]map[string]uint64{
		"action": {
			"ACTION_NONE": uint64(model.ActionNone), "ACTION_PASS": uint64(model.ActionPass), "ACTION_UP": uint64(model.ActionUp),
			"ACTION_DROP": uint64(model.ActionDrop), "ACTION_REDIRECT": uint64(model.ActionRedirect), "ACTION_ANSWER": uint64(model.ActionAnswer),
		},
		"flow_phase": {
			"PHASE_SYN": uint64(model.PhaseSYN), "PHASE_OPEN": uint64(model.PhaseOpen), "PHASE_CLOSING": uint64(model.PhaseClosing),
			"PHASE_RESET": uint64(model.PhaseReset), "PHASE_ENDED": uint64(model.PhaseEnded),
		},
		"flow_flags": {
			"FLOW_REVERSE": model.FlagReverse, "FLOW_FIN_CLIENT": model.FlagFINClient, "FLOW_FIN_BACKEND": model.FlagFINBackend,
			"FLOW_ANSWERED": model.FlagAnswered, "FLOW_RST_CLIENT": model.FlagRSTClient, "FLOW_RST_BACKEND": model.FlagRSTBackend,
			"FLOW_INNER": model.FlagInner, "FLOW_HA": model.FlagHA, "FLOW_TCP": model.FlagTCP,
			"FLOW_OVER_CLIENT": model.FlagOverClient, "FLOW_OVER_BACKEND": model.FlagOverBackend,
		},
		"flow_kind": {"KIND_FLOW": model.KindFlow, "KIND_FRAGMENT": model.KindFragment, "KIND_IPID": model.KindIPID},
		"timeouts": {
			"IDLE_MIN": model.IdleMin, "IDLE_DEFAULT": model.IdleDefault, "IDLE_SYN": model.IdleSYN, "IDLE_CLOSING": model.IdleClosing,
			"IDLE_RESET": model.IdleReset, "IDLE_FRAGMENT": model.IdleFragment, "PORT_REST": model.PortRest, "ORPHAN_AGE": model.OrphanAge,
		},
		"limits": {
			"FIRST_PORT": model.FirstPort, "PORT_COUNT": model.PortCount, "PORT_WORDS": model.PortWords, "MAX_NAT_IPS": model.MaxNATIPs,
			"MAX_FRAGMENTS": model.MaxFragments, "RST_PER_SECOND": model.RSTPerSecond, "ICMP_PER_SECOND": model.ICMPPerSecond,
		},
		"address_kind": {
			"ADDR_ENDPOINT": uint64(model.AddressEndpoint), "ADDR_PEERED": uint64(model.AddressPeered), "ADDR_FRONTEND": uint64(model.AddressFrontend),
			"ADDR_NAT": uint64(model.AddressNAT), "ADDR_GATEWAY": uint64(model.AddressGateway),
		},
		"link_state": {
			"LINK_PENDING": uint64(model.LinkPending), "LINK_APPROVED": uint64(model.LinkApproved), "LINK_REJECTED": uint64(model.LinkRejected),
			"LINK_DISCONNECTED": uint64(model.LinkDisconnected),
		},
		"backend_state": {"BACKEND_UP": uint64(model.BackendUp), "BACKEND_DOWN": uint64(model.BackendDown), "BACKEND_UNRESOLVED": uint64(model.BackendUnresolved)},
		"backend_flags": {"BACKEND_TCP_RESET": backendTCPReset, "BACKEND_HA": backendHA},
		"iface_flags":   {"IFACE_PASS_OTHER": ifacePassOther, "IFACE_INNER": ifaceInner},
		"out_flags":     {"OUT_XDP": outXDP},
		"distribution": {
			"DIST_5_TUPLE": uint64(model.Dist5Tuple), "DIST_SOURCE_IP": uint64(model.DistSourceIP), "DIST_SOURCE_IP_PROTOCOL": uint64(model.DistSourceIPProtocol),
		},
	} {
		have := enumValues(t, specs, enum)
		for name, number := range want {
			if got, ok := have[name]; !ok || got != number {
				t.Errorf("enum %s: %s is %d in the programs (there: %t), %d in the model", enum, name, got, ok, number)
			}
		}
	}
	reasons := enumValues(t, specs, "reason")
	if len(reasons) != int(model.ReasonCount)+1 || reasons["REASON_COUNT"] != uint64(model.ReasonCount) {
		t.Errorf("%d reasons in the programs, %d in the model", len(reasons)-1, model.ReasonCount)
	}
	for r := range model.ReasonCount {
		if got, ok := reasons["REASON_"+upper(r.String())]; !ok || got != uint64(r) {
			t.Errorf("reason %s is %d in the programs (there: %t), %d in the model", r, got, ok, r)
		}
	}
}

func enumValues(t *testing.T, specs dataplane.Specs, name string) map[string]uint64 {
	t.Helper()
	var enum *btf.Enum
	if err := specs.Control.Types.TypeByName(name, &enum); err != nil {
		t.Fatalf("enum %s: %v", name, err)
	}
	values := make(map[string]uint64)
	for _, v := range enum.Values {
		values[v.Name] = v.Value
	}
	return values
}

func upper(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}
