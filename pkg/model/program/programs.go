package program

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/model"
)

// Options of a set of programs.
type Options struct {
	XDP    bool   // XDP in front of TC; else TC alone
	Mutant uint32 // number of the fault to compile in, 0 = none
	// Hold is where a packet may be held (enum hold_place in bpf/hold.h), 0 = nowhere: in XDP, or in TC
	// where that is alone. Fault is one of enum fault in bpf/faults.h, 0 = none.
	Hold, Fault uint32
	SweepBudget time.Duration // of a slice of the sweep; 0 = as compiled in
	Sums        Sums
}

// Sums is what the kernel knows of the L4 checksums of the packets in TC (skb->ip_summed). What becomes of a packet does
// not depend on it. A partial one cannot be had in a test run.
type Sums int

// The kinds of knowledge.
const (
	SumsNone     Sums = iota // only that they are in the packet
	SumsSecret               // the same, and it does not say so, as before Linux 6.2
	SumsComplete             // the sum of each packet, which has to be right when the program is done with it
	SumsAny                  // one of these, by the packet's random number
)

// Sizes of maps that need not be as large as in life.
const (
	maxRows  = 4096
	maxFrame = 4096 // TC test runs take less
)

// Programs are the real ones, with maps of their own. One goroutine, locked to its thread, uses them.
type Programs struct {
	xdp     bool
	sums    Sums
	tc      *hook
	front   *hook
	sweep   *hook
	nothing *hook // see Lane.Nothing
	maps    map[string]*ebpf.Map
	all     []*ebpf.Collection

	flows    []dataplane.RawFlow
	ifaces   []dataplane.RawIface
	outs     []dataplane.RawOut
	links    []dataplane.RawLink
	usage    []dataplane.RawUsage
	rules    []dataplane.RawRule
	natsets  []dataplane.RawNatset
	backends []dataplane.RawBackend
	table    []dataplane.RawTable
	buckets  []dataplane.RawBucket
	memory   [][]byte
	resets   uint64

	maglev    *ebpf.MapSpec
	places    map[uint32][]uint32 // what each rule's table holds
	inner     map[uint32]*ebpf.Map
	addresses map[dataplane.RawAddressKey]dataplane.RawAddress
	ruleRefs  map[dataplane.RawRuleKey]dataplane.RawRuleRef
	dials     map[dataplane.RawDialKey]dataplane.RawDial

	input, output []byte
	tcContext     [192]byte
	xdpContext    [24]byte
}

// hook is one program and the variables of its object.
type hook struct {
	program *ebpf.Program
	input   *dataplane.RawTestInput
	verdict *dataplane.RawVerdict
	step    *uint32 // of the packet that is held, enum hold_step
}

// Load loads the programs for a configuration's sizes and seeds. Write has to follow.
func Load(c *model.Config, o Options) (_ *Programs, err error) {
	specs, err := dataplane.LoadSpecs()
	if err != nil {
		return nil, err
	}
	p := &Programs{
		xdp: o.XDP, sums: o.Sums, maps: make(map[string]*ebpf.Map),
		places: make(map[uint32][]uint32), inner: make(map[uint32]*ebpf.Map),
		addresses: make(map[dataplane.RawAddressKey]dataplane.RawAddress),
		ruleRefs:  make(map[dataplane.RawRuleKey]dataplane.RawRuleRef),
		dials:     make(map[dataplane.RawDialKey]dataplane.RawDial),
		input:     make([]byte, maxFrame), output: make([]byte, 2*maxFrame),
	}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	behind := o
	if o.XDP {
		behind.Hold = 0
	}
	if p.tc, err = p.load(specs.TC, "privlink_tc", c, behind); err != nil {
		return nil, err
	}
	if o.XDP {
		if p.front, err = p.load(specs.XDP, "privlink_xdp", c, o); err != nil {
			return nil, err
		}
	}
	behind.Hold = 0
	if p.sweep, err = p.load(specs.Control, "sweep_slice", c, behind); err != nil {
		return nil, err
	}
	nothing, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "Dual MIT/GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpDrop), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("load a program that does nothing: %w", err)
	}
	p.nothing = &hook{program: nothing}
	p.maglev = specs.TC.Maps["maglev_v1"].InnerMap
	return p, errors.Join(
		view(p, "flows_v1", &p.flows), view(p, "ifaces_v1", &p.ifaces), view(p, "outs_v1", &p.outs),
		view(p, "links_v1", &p.links), view(p, "usage_v1", &p.usage), view(p, "rules_v1", &p.rules),
		view(p, "natsets_v1", &p.natsets), view(p, "backends_v1", &p.backends), view(p, "table_v1", &p.table), view(p, "buckets_v1", &p.buckets))
}

// load loads one object; the first one's maps serve all.
func (p *Programs) load(spec *ebpf.CollectionSpec, name string, c *model.Config, o Options) (*hook, error) {
	for _, m := range []string{"backends_v1", "links_v1", "usage_v1", "link_stats_v1", "rules_v1", "natsets_v1", "maglev_v1",
		"addresses_v1", "ruleidx_v1", "dials_v1", "vnets_v1", "services_v1", "pools_v1"} {
		if spec.Maps[m] != nil {
			spec.Maps[m].MaxEntries = min(spec.Maps[m].MaxEntries, maxRows)
		}
	}
	if spec.Maps["domains_v1"] != nil {
		spec.Maps["domains_v1"].MaxEntries = uint32(c.MaxDomains)
	}
	if spec.Maps["flows_v1"] != nil {
		spec.Maps["flows_v1"].MaxEntries = c.Homes + model.Window
	}
	inverse := uint32(0)
	for i := uint64(1); i < model.PortCount; i++ {
		if i*uint64(c.PortStep)%model.PortCount == 1 {
			inverse = uint32(i)
		}
	}
	for name, value := range map[string]any{
		"test_mode": uint8(1), "mutant": o.Mutant, "flow_homes": c.Homes, "flow_seed": c.FlowSeed, "balance_seed": c.BalanceSeed,
		"max_pairs": c.MaxPairs, "port_step": c.PortStep, "port_offset": c.PortOffset, "port_inverse": inverse,
		"hold_at": o.Hold, "hold_fault": o.Fault,
		"sweep_budget": uint64(cmp.Or(o.SweepBudget, dataplane.SweepBudget)),
	} {
		if v := spec.Variables[name]; v != nil {
			if err := v.Set(value); err != nil {
				return nil, fmt.Errorf("set %s: %w", name, err)
			}
		}
	}
	replace := make(map[string]*ebpf.Map)
	for name := range spec.Maps {
		if m := p.maps[name]; m != nil {
			replace[name] = m
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil {
		return nil, fmt.Errorf("load program %s: %w", name, err)
	}
	p.all = append(p.all, coll)
	h := &hook{program: coll.Programs[name]}
	if h.program == nil {
		return nil, fmt.Errorf("load program %s: not in its object", name)
	}
	var bss []byte
	for name, m := range coll.Maps {
		if name == ".bss" {
			if bss, err = p.mmap(m); err != nil {
				return nil, err
			}
		} else if name[0] != '.' && p.maps[name] == nil {
			p.maps[name] = m
		}
	}
	// The verdict is initialised data or not, as the compiler likes; both stand in .bss when zero.
	if in, out := spec.Variables["test_input"], spec.Variables["test_verdict"]; in != nil && out != nil && bss != nil {
		h.input = (*dataplane.RawTestInput)(unsafe.Pointer(&bss[in.Offset]))
		h.verdict = (*dataplane.RawVerdict)(unsafe.Pointer(&bss[out.Offset]))
	}
	if step := spec.Variables["hold_step"]; step != nil && step.SectionName == ".bss" && bss != nil {
		h.step = (*uint32)(unsafe.Pointer(&bss[step.Offset]))
	}
	return h, nil
}

func (p *Programs) mmap(m *ebpf.Map) ([]byte, error) {
	page := unix.Getpagesize()
	size := (int(m.ValueSize()) + 7) / 8 * 8 * int(m.MaxEntries())
	b, err := unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %v into memory: %w", m, err)
	}
	p.memory = append(p.memory, b)
	return b, nil
}

func view[T any](p *Programs, name string, to *[]T) error {
	m := p.maps[name]
	if m == nil {
		return fmt.Errorf("map %s: not in the objects", name)
	}
	var zero T
	if m.ValueSize() != uint32(unsafe.Sizeof(zero)) {
		return fmt.Errorf("map %s: values of %d bytes, not %d", name, m.ValueSize(), unsafe.Sizeof(zero))
	}
	b, err := p.mmap(m)
	if err != nil {
		return err
	}
	*to = unsafe.Slice((*T)(unsafe.Pointer(&b[0])), m.MaxEntries())
	return nil
}

// Close gives everything back.
func (p *Programs) Close() {
	for _, m := range p.inner {
		m.Close()
	}
	for _, b := range p.memory {
		unix.Munmap(b)
	}
	for _, c := range p.all {
		c.Close()
	}
	if p.nothing != nil {
		p.nothing.program.Close()
	}
}

// testRun is the part of union bpf_attr that BPF_PROG_TEST_RUN reads.
type testRun struct {
	program, retval     uint32
	sizeIn, sizeOut     uint32
	dataIn, dataOut     uint64
	repeat, duration    uint32
	contextIn, contextO uint32
	context, contextOut uint64
	flags, cpu, batch   uint32
	_                   uint32
}

const (
	bpfProgTestRun       = 10
	testChecksumComplete = 1 << 2 // BPF_F_TEST_SKB_CHECKSUM_COMPLETE
)

// errSum says that the sum of a packet is not what skb->csum says when the program is done.
var errSum = errors.New("skb->csum is not the sum of the packet any more")

// run runs a program on p.input[:size], with flags of the kernel's; the frame it leaves is in p.output.
func (p *Programs) run(h *hook, size int, context []byte, flags uint32) (retval uint32, frame []byte, err error) {
	attr := testRun{
		program: uint32(h.program.FD()), sizeIn: uint32(size), sizeOut: uint32(len(p.output)),
		dataIn: uint64(uintptr(unsafe.Pointer(&p.input[0]))), dataOut: uint64(uintptr(unsafe.Pointer(&p.output[0]))),
		contextIn: uint32(len(context)), context: uint64(uintptr(unsafe.Pointer(&context[0]))), repeat: 1, flags: flags,
	}
	_, _, errno := unix.Syscall(unix.SYS_BPF, bpfProgTestRun, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(p)
	if errno == unix.EBADMSG {
		return 0, nil, errSum
	}
	if errno != 0 {
		return 0, nil, fmt.Errorf("run a program on %d bytes: %w", size, errno)
	}
	return attr.retval, p.output[:attr.sizeOut], nil
}

// What the programs return (enum xdp_action, linux/pkt_cls.h).
const (
	xdpDrop     = 1
	xdpPass     = 2
	xdpRedirect = 4
	tcUnspec    = 0xffffffff
	tcShot      = 2
	tcRedirect  = 7
)

// Packet runs one frame through XDP (where asked for) and TC. The random state is the caller's. The decision has no frame
// where the kernel shows none: a packet with a complete checksum that was cut to become an answer has that no more.
func (p *Programs) Packet(in model.Input, now, random uint32) (model.Decision, error) {
	copy(p.input, in.Frame)
	test := dataplane.RawTestInput{Now: now, Random: random, Vlan: uint32(in.VLAN)}
	if p.xdp && in.VLAN == 0 && in.GSO.Size == 0 {
		*p.front.input = test
		*p.front.verdict = dataplane.RawVerdict{}
		put32(p.xdpContext[4:], uint32(len(in.Frame)))
		put32(p.xdpContext[12:], in.Interface)
		ret, frame, err := p.run(p.front, len(in.Frame), p.xdpContext[:], 0)
		if err != nil {
			return model.Decision{}, fmt.Errorf("xdp: %w", err)
		}
		d, want := p.front.decision(frame), uint32(xdpDrop)
		switch d.Action {
		case model.ActionRedirect:
			want = xdpRedirect
		case model.ActionUp:
			want = xdpPass
			if string(frame) != string(in.Frame) {
				return d, errors.New("xdp: passed a frame up that it had changed")
			}
		}
		if ret != want {
			return d, fmt.Errorf("xdp: returned %d for %s", ret, d.Action)
		}
		if d.Action != model.ActionUp {
			return d, nil
		}
		test.Random = p.front.input.Random
	}
	flags := uint32(0)
	sums := p.sums
	if sums == SumsAny {
		sums = Sums(random >> 8 % uint32(SumsAny))
	}
	switch sums {
	case SumsSecret:
		test.Blind = 1
	case SumsComplete:
		flags = testChecksumComplete
	}
	*p.tc.input = test
	*p.tc.verdict = dataplane.RawVerdict{}
	put32(p.tcContext[40:], in.Interface)
	put32(p.tcContext[164:], in.GSO.Segments)
	put32(p.tcContext[176:], in.GSO.Size)
	ret, frame, err := p.run(p.tc, len(in.Frame), p.tcContext[:], flags)
	d := p.tc.decision(frame)
	if err == errSum && d.Action != model.ActionRedirect {
		return d, nil
	}
	if err != nil {
		return model.Decision{}, fmt.Errorf("tc: %w", err)
	}
	want := uint32(tcShot)
	switch d.Action {
	case model.ActionRedirect, model.ActionAnswer:
		want = tcRedirect
	case model.ActionPass:
		want = tcUnspec
	}
	if ret != want {
		return d, fmt.Errorf("tc: returned %d for %s", int32(ret), d.Action)
	}
	return d, nil
}

func (h *hook) decision(frame []byte) model.Decision {
	d := model.Decision{Action: model.Action(h.verdict.Action), Reason: model.Reason(h.verdict.Reason), Out: uint16(h.verdict.Out), Frame: frame}
	if d.Action != model.ActionDrop { // whose tag means nothing
		d.VLAN = uint16(h.verdict.Vlan)
	}
	return d
}

func put32(b []byte, v uint32) {
	b[0], b[1], b[2], b[3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
}
