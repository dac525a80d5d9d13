package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Reference is the least possible NAT on the kernel's hash (bpf/bench/reference.c):
// what a stateful NAT in BPF costs when it does nothing but that.
type Reference struct {
	hook  Hook
	pairs uint32
	objs  referenceObjects
	links []link.Link
}

// movedClients is where the reference maps firstClient.
var movedClients = netip.MustParseAddr("100.64.0.0")

// NewReference makes a reference with room for so many flows; a flow takes an entry per direction.
func NewReference(hook Hook, pairs uint32) *Reference {
	return &Reference{hook: hook, pairs: pairs}
}

// Name implements Forwarder.
func (r *Reference) Name() string { return string(r.hook) + " reference" }

// Up implements Forwarder.
func (r *Reference) Up(t *Topology) error {
	spec, err := loadReference()
	if err != nil {
		return err
	}
	spec.Maps[referenceMapFlows].MaxEntries = 2 * r.pairs
	if err := setConstants(spec, map[string]any{
		referenceVarClientIfindex: uint32(t.GatewayClient.Index),
		referenceVarEndpoint:      netOrder(endpoint.Addr()),
		referenceVarEndpointPort:  netPort(endpoint.Port()),
		referenceVarBackend:       netOrder(firstServer),
		referenceVarBackendPort:   netPort(backendPort),
		referenceVarMove:          netOrder(firstClient) ^ netOrder(movedClients),
	}); err != nil {
		return err
	}
	if err := spec.LoadAndAssign(&r.objs, nil); err != nil {
		return fmt.Errorf("load reference: %w", err)
	}
	for i, pair := range [][2]Port{{t.GatewayServer, t.Server}, {t.GatewayClient, t.Client}} {
		n := referenceNeighbour{Ifindex: uint32(pair[0].Index)}
		macs := slices.Concat(pair[1].MAC, pair[0].MAC)
		for word := range n.Macs {
			n.Macs[word] = binary.NativeEndian.Uint32(macs[4*word:])
		}
		if err := r.objs.Neighbours.Put(uint32(i), n); err != nil {
			return err
		}
	}
	prog := r.objs.ReferenceTc
	if r.hook == XDP {
		prog = r.objs.ReferenceXdp
	}
	r.links, err = attach(t, r.hook, prog)
	return err
}

// Translation implements Forwarder.
func (*Reference) Translation() *Translation {
	return &Translation{
		FirstSource: movedClients, LastSource: addr(hostOrder(movedClients) + 1<<16 - 1),
		FirstSourcePort: firstClientPort, LastSourcePort: firstClientPort + flowsPerClient - 1,
		FirstBackend: firstServer, LastBackend: firstServer, BackendPort: backendPort,
	}
}

// TTL implements Forwarder.
func (*Reference) TTL() uint8 { return 0 }

// Forget implements Forwarder.
func (r *Reference) Forget() error {
	keys := make([]referenceKey, 4096)
	values := make([]referenceRewrite, 4096)
	var cursor ebpf.MapBatchCursor
	for {
		_, err := r.objs.Flows.BatchLookupAndDelete(&cursor, keys, values, nil)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("delete the reference's flows: %w", err)
		}
	}
}

// Drops implements Forwarder. It has no counter of drops: it drops nothing that it was meant for.
func (*Reference) Drops() (uint64, error) { return 0, nil }

// Close implements Forwarder.
func (r *Reference) Close() error {
	detach(r.links)
	return r.objs.Close()
}
