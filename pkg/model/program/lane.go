package program

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/model"
)

// Lane sends frames through programs that other lanes use at the same time, each on a thread of its
// own. It tells what became of a frame by what the programs return; their records of decisions are of
// no use then, as all lanes write the same.
type Lane struct {
	p    *Programs
	lane Programs // only its buffers
}

// Joiner remembers the calling goroutine's network: what it returns takes another goroutine, whose
// thread then ends with it, into the same.
func Joiner() (join func() error, leave func(), err error) {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, nil, fmt.Errorf("remember the network namespace: %w", err)
	}
	return func() error {
		runtime.LockOSThread()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("join the network namespace: %w", err)
		}
		return nil
	}, func() { f.Close() }, nil
}

// Lane returns one more user of the programs.
func (p *Programs) Lane() *Lane {
	l := &Lane{p: p}
	l.lane.input, l.lane.output = make([]byte, maxFrame), make([]byte, 2*maxFrame)
	return l
}

// SetClock is the time for all lanes and for the sweep, in seconds, and the state of the random
// generator for all lanes together.
func (p *Programs) SetClock(now, random uint32) {
	for _, h := range []*hook{p.tc, p.front, p.sweep} {
		if h != nil {
			h.input.Now = now
			if random != 0 {
				h.input.Random = random
			}
		}
	}
}

// Send runs a frame through XDP (where asked for) and TC. It says whether the frame left by a
// redirect, translated or as an answer, and what it looks like then; the frame is valid until the
// next Send.
func (l *Lane) Send(ifindex uint32, frame []byte) (left bool, out []byte, err error) {
	copy(l.lane.input, frame)
	if l.p.xdp {
		put32(l.lane.xdpContext[4:], uint32(len(frame)))
		put32(l.lane.xdpContext[12:], ifindex)
		ret, out, err := l.lane.run(l.p.front, len(frame), l.lane.xdpContext[:], 0)
		if err != nil || ret != xdpPass {
			return ret == xdpRedirect, out, err
		}
	}
	put32(l.lane.tcContext[40:], ifindex)
	ret, out, err := l.lane.run(l.p.tc, len(frame), l.lane.tcContext[:], 0)
	return ret == tcRedirect, out, err
}

// Nothing runs a program that does nothing on a frame, in XDP's place: what a run costs that Send measures as well.
func (l *Lane) Nothing(frame []byte) error {
	copy(l.lane.input, frame)
	put32(l.lane.xdpContext[4:], uint32(len(frame)))
	_, _, err := l.lane.run(l.p.nothing, len(frame), l.lane.xdpContext[:], 0)
	return err
}

// Flows is the flow table itself, shared with the programs.
func (p *Programs) Flows() []dataplane.RawFlow { return p.flows }

// Pairs is how many pairs are counted.
func (p *Programs) Pairs() uint32 { return p.table[0].Pairs }

// Domains are all port domains.
func (p *Programs) Domains() (map[dataplane.RawDomainKey]*dataplane.RawDomain, error) {
	all := make(map[dataplane.RawDomainKey]*dataplane.RawDomain)
	var k dataplane.RawDomainKey
	entries := p.maps["domains_v1"].Iterate()
	d := new(dataplane.RawDomain)
	for entries.Next(&k, d) {
		all[k] = d
		d = new(dataplane.RawDomain)
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read port domains: %w", err)
	}
	return all, nil
}

// SetCursors lets every port domain take its next port from the same word of its bitmap. Nothing may open
// a flow meanwhile.
func (p *Programs) SetCursors(word uint32) error {
	domains, err := p.Domains()
	if err != nil {
		return err
	}
	for k, d := range domains {
		d.Cursor = word
		if err := p.maps["domains_v1"].Put(k, d); err != nil {
			return fmt.Errorf("set the cursor of a port domain: %w", err)
		}
	}
	return nil
}

// LinkStats are the counters of a link, of all CPUs.
func (p *Programs) LinkStats(link uint32) (sum dataplane.RawLinkStats, err error) {
	var stats []dataplane.RawLinkStats
	if err := p.maps["link_stats_v1"].Lookup(link, &stats); err != nil {
		return sum, fmt.Errorf("counters of link %d: %w", link, err)
	}
	for _, s := range stats {
		sum.PacketsIn += s.PacketsIn
		sum.PacketsOut += s.PacketsOut
		sum.Opened += s.Opened
		sum.Refused += s.Refused
		sum.Dropped += s.Dropped
	}
	return sum, nil
}

// Reasons are the packets of every reason, of all CPUs.
func (p *Programs) Reasons() (packets [model.ReasonCount]uint64, err error) {
	var stats []dataplane.RawReason
	for r := range packets {
		if err := p.maps["reasons_v2"].Lookup(uint32(r), &stats); err != nil {
			return packets, fmt.Errorf("counters of reason %s: %w", model.Reason(r), err)
		}
		for _, s := range stats {
			packets[r] += s.Packets
		}
	}
	return packets, nil
}
