package bench

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Direction of a run.
type Direction int

// Directions.
const (
	Forward Direction = iota // client to server
	Reverse                  // server to client
)

// Directions lists both.
var Directions = []Direction{Forward, Reverse}

// String is the word for tables and metric names.
func (d Direction) String() string {
	if d == Forward {
		return "forward"
	}
	return "reverse"
}

// Plan says what one run of the generator sends.
type Plan struct {
	Direction Direction
	// Base and Flows: the flows in use are Base .. Base+Flows-1.
	Base, Flows uint32
	// Packets to time, and packets sent before these to warm the caches, rounded up to batches of 64.
	Packets, Warmup uint64
	// Scatter takes the flows in hash order instead of in sequence.
	Scatter bool
	// Window makes the time that of the quietest 4,096 packets in a row, which is right where any
	// of them do the same work.
	Window bool
}

// Sent is what the generator says of a run.
type Sent struct {
	Packets     uint64
	Timed       uint64  // packets between the two clock reads
	NSPerPacket float64 // of these, or of those of the quietest window
}

// Generator makes packets in the kernel and sends them out of one device.
type Generator struct {
	core *Core
	port Port
	objs generatorObjects
}

// As in bpf/bench/bench.h.
const (
	batch           = 64
	window          = 4096
	flowsPerClient  = 256
	firstClientPort = 20000
)

// Addresses of the benchmark. Clients have 256 flows each, from port 20000 on.
var (
	firstClient = netip.MustParseAddr("10.64.0.0")
	endpoint    = netip.MustParseAddrPort("10.80.0.5:80")
	backendPort = uint16(8080)
	firstNAT    = netip.MustParseAddr("172.31.0.5")
	lastNAT     = netip.MustParseAddr("172.31.0.12")
	firstServer = netip.MustParseAddr("172.31.1.1")
)

// NewGenerator loads a generator for a device. next is the MAC its frames go to,
// seen the map in which the verifying sink of the other direction keeps what it saw.
func NewGenerator(core *Core, port Port, next net.HardwareAddr, seen *ebpf.Map) (*Generator, error) {
	spec, err := loadGenerator()
	if err != nil {
		return nil, err
	}
	spec.Maps[generatorMapSeen].MaxEntries = seen.MaxEntries()
	plan := generatorPlan{
		Out: uint32(port.Index), Client: hostOrder(firstClient),
		Endpoint: netOrder(endpoint.Addr()), EndpointPort: netPort(endpoint.Port()),
	}
	copy(plan.Dmac[:], next)
	copy(plan.Smac[:], port.MAC)
	if err := spec.Variables[generatorVarGen].Set(plan); err != nil {
		return nil, err
	}
	g := &Generator{core: core, port: port}
	opts := &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{generatorMapSeen: seen}}
	if err := spec.LoadAndAssign(&g.objs, opts); err != nil {
		return nil, fmt.Errorf("load generator: %w", err)
	}
	return g, nil
}

// Spoil adds numbers to the IP and L4 checksums of all packets from now on.
func (g *Generator) Spoil(ip, l4 uint16) error {
	var plan generatorPlan
	if err := g.objs.Gen.Get(&plan); err != nil {
		return err
	}
	plan.SpoilIp, plan.SpoilL4 = ip, l4
	return g.objs.Gen.Set(plan)
}

// Run sends a plan's packets and returns when the last has left.
func (g *Generator) Run(p Plan) (Sent, error) {
	var plan generatorPlan
	if err := g.objs.Gen.Get(&plan); err != nil {
		return Sent{}, err
	}
	plan.Sent, plan.Skip = 0, (p.Warmup+batch-1)/batch*batch
	plan.Limit = plan.Skip + p.Packets
	plan.FirstNs, plan.LastNs, plan.Last, plan.WindowNs, plan.BestNs = 0, 0, 0, 0, 0
	plan.Flows, plan.Base, plan.Scatter = p.Flows, p.Base, 0
	if p.Scatter {
		plan.Scatter = 1
	}
	if err := g.objs.Gen.Set(plan); err != nil {
		return Sent{}, err
	}
	prog := g.objs.Forward
	if p.Direction == Reverse {
		prog = g.objs.Reverse
	}
	err := g.core.Do(g.port.NS, func() error {
		_, err := prog.Run(&ebpf.RunOptions{
			Data:    make([]byte, 60),
			Repeat:  uint32(plan.Limit),
			Flags:   unix.BPF_F_TEST_XDP_LIVE_FRAMES,
			Context: &xdpContext{DataEnd: 60, IngressIfindex: uint32(g.port.Index)},
		})
		return err
	})
	if err != nil {
		return Sent{}, fmt.Errorf("send %d packets from %s: %w", plan.Limit, g.port, err)
	}
	if err := g.objs.Gen.Get(&plan); err != nil {
		return Sent{}, err
	}
	s := Sent{Packets: plan.Sent}
	if plan.Last > plan.Skip {
		s.Timed = plan.Last - plan.Skip
		s.NSPerPacket = float64(plan.LastNs-plan.FirstNs) / float64(s.Timed)
	}
	if p.Window && plan.BestNs > 0 {
		s.NSPerPacket = float64(plan.BestNs) / window
	}
	if s.Packets != plan.Limit {
		return s, errors.New("generator stopped early")
	}
	return s, nil
}

// Close unloads the generator.
func (g *Generator) Close() error { return g.objs.Close() }

// xdpContext is struct xdp_md.
type xdpContext struct {
	Data, DataEnd, DataMeta                     uint32
	IngressIfindex, RxQueueIndex, EgressIfindex uint32
}
