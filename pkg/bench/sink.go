package bench

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Sink counts the packets that reach a device, or verifies them.
type Sink struct {
	port Port
	objs sinkObjects
	link link.Link
}

// NewSink attaches a sink to a device. flows is the highest number of flows it will verify.
func NewSink(port Port, flows uint32) (*Sink, error) {
	spec, err := loadSink()
	if err != nil {
		return nil, err
	}
	spec.Maps[sinkMapSeen].MaxEntries = flows
	s := &Sink{port: port}
	if err := spec.LoadAndAssign(&s.objs, nil); err != nil {
		return nil, fmt.Errorf("load sink: %w", err)
	}
	err = port.NS.Do(func() (err error) {
		s.link, err = link.AttachXDP(link.XDPOptions{
			Program: s.objs.Count, Interface: port.Index, Flags: link.XDPDriverMode,
		})
		return err
	})
	if err != nil {
		_ = s.objs.Close()
		return nil, fmt.Errorf("attach sink to %s: %w", port, err)
	}
	return s, nil
}

// Seen is the map of what the verifying sink saw, by flow.
func (s *Sink) Seen() *ebpf.Map { return s.objs.Seen }

// Flows is what the verifying sink saw of flows 0..n-1.
func (s *Sink) Flows(n uint32) ([]sinkSeen, error) {
	memory, err := s.objs.Seen.Memory()
	if err != nil {
		return nil, err
	}
	seen := make([]sinkSeen, n)
	return seen, binary.Read(io.NewSectionReader(memory, 0, int64(memory.Size())), binary.NativeEndian, seen)
}

// Received is the number of packets since the sink was made.
func (s *Sink) Received() (uint64, error) {
	var perCPU []uint64
	if err := s.objs.Received.Lookup(uint32(0), &perCPU); err != nil {
		return 0, fmt.Errorf("read sink of %s: %w", s.port, err)
	}
	var n uint64
	for _, c := range perCPU {
		n += c
	}
	return n, nil
}

// Count goes back to counting only.
func (s *Sink) Count() error { return s.link.Update(s.objs.Count) }

// Verify checks every packet from now on against what is expected.
func (s *Sink) Verify(want sinkExpected) error {
	if err := s.objs.Wrong.Set(sinkFaults{}); err != nil {
		return err
	}
	if err := s.objs.Want.Set(want); err != nil {
		return err
	}
	return s.link.Update(s.objs.Verify)
}

// WrongPacketError says what the verifying sink found.
type WrongPacketError struct {
	Port   string
	Right  uint64
	Wrong  map[string]uint64 // by fault
	Sample []byte            // first wrong frame
}

func (e *WrongPacketError) Error() string {
	var parts []string
	for _, name := range faultNames {
		if n := e.Wrong[name]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d with wrong %s", n, name))
		}
	}
	return fmt.Sprintf("verify packets at %s: %s, %d right (first wrong frame: % x)",
		e.Port, strings.Join(parts, ", "), e.Right, e.Sample)
}

var faultNames = [sinkFaultFAULTS]string{
	sinkFaultFAULT_LENGTH:      "length",
	sinkFaultFAULT_HEADER:      "header",
	sinkFaultFAULT_IP_CHECKSUM: "IP checksum",
	sinkFaultFAULT_L4CHECKSUM:  "L4 checksum",
	sinkFaultFAULT_SOURCE:      "source",
	sinkFaultFAULT_DESTINATION: "destination",
	sinkFaultFAULT_TTL:         "TTL",
	sinkFaultFAULT_FLOW:        "flow",
}

// Verdict is the number of right packets since Verify, and a *WrongPacketError if there were others.
func (s *Sink) Verdict() (uint64, error) {
	var faults sinkFaults
	if err := s.objs.Wrong.Get(&faults); err != nil {
		return 0, err
	}
	right := faults.Count[sinkFaultFAULT_NONE]
	if faults.SampleFault == 0 {
		return right, nil
	}
	wrong := make(map[string]uint64)
	for i, name := range faultNames {
		if i > 0 && faults.Count[i] > 0 {
			wrong[name] = faults.Count[i]
		}
	}
	return right, &WrongPacketError{
		Port: s.port.String(), Right: right, Wrong: wrong,
		Sample: faults.Sample[:min(int(faults.SampleLen), len(faults.Sample))],
	}
}

// Close detaches and unloads the sink.
func (s *Sink) Close() error {
	err := s.link.Close()
	if cerr := s.objs.Close(); err == nil {
		err = cerr
	}
	return err
}
