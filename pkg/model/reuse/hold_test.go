package reuse

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/model"
	"github.com/privlink/privlink/pkg/model/program"
)

// holding is one kind of packet that is held, and of the flow that takes its slots meanwhile.
type holding struct {
	name          string
	reverse       bool // the packet comes from the backend, else from the client
	proto, others byte // of the flow of the packet that is held, and of the other tenant's
	flags         byte // of a TCP segment
	moved         bool // the client's packet comes from another MAC than before
}

// outcome counts tries.
type outcome struct {
	overlapped int // the packet was held while its slots got another owner
	late       int // it was not: the threads were too slow
	translated int // of the overlapped: left with the rewrite of its own tenant
	answered   int // the sender was told
	equalPorts int // both tenants' flows had the same NAT port
	foreign    int // left with anything else
	harmed     int // the other tenant's flow was changed
	example    string
}

// stage is the programs on one CPU, and a thread on another that sends the packet that is held.
type stage struct {
	*program.Programs
	lane    *program.Lane
	indexes []uint32
	now     uint32
	frames  chan []byte
	results chan result
}

type result struct {
	left  bool
	frame []byte
	err   error
}

// heldFor bounds the wait for the other thread. Who is held goes on by himself after some 10 ms.
const heldFor = 5 * time.Second

// onStage runs f on programs with two tenants.
func onStage(o program.Options, f func(s *stage) error) error {
	cpus, err := twoCPUs()
	if err != nil {
		return err
	}
	return program.InNetwork(devices, func(indexes []uint32) error {
		c := config(indexes)
		p, err := program.Load(&c, o)
		if err != nil {
			return err
		}
		defer p.Close()
		if err := p.Write(&c); err != nil {
			return err
		}
		if err := pin(cpus[0]); err != nil {
			return err
		}
		join, leave, err := program.Joiner()
		if err != nil {
			return err
		}
		defer leave()
		s := &stage{Programs: p, lane: p.Lane(), indexes: indexes, now: 1000, frames: make(chan []byte), results: make(chan result)}
		defer close(s.frames)
		go func() {
			defer close(s.results)
			err := join()
			if err == nil {
				err = pin(cpus[1])
			}
			s.send(err)
		}()
		return f(s)
	})
}

// send serves s.frames. The frame of a result is valid until the next one is asked for.
func (s *stage) send(err error) {
	lane := s.Lane()
	for frame := range s.frames {
		r := result{err: err}
		if err == nil {
			from := s.indexes[mine]
			if look(frame).from == backendIP {
				from = s.indexes[provider]
			}
			r.left, r.frame, r.err = lane.Send(from, frame)
		}
		s.results <- r
	}
}

// twoCPUs are two that this process may use, asked for before any thread is bound to one.
var twoCPUs = sync.OnceValues(func() (cpus [2]int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return cpus, fmt.Errorf("which CPUs may be used: %w", err)
	}
	found := 0
	for cpu := 0; found < len(cpus) && cpu < 64*len(set); cpu++ {
		if set.IsSet(cpu) {
			cpus[found] = cpu
			found++
		}
	}
	if found < len(cpus) {
		return cpus, errors.New("a packet is held on one CPU while another goes on: this machine has only one")
	}
	return cpus, nil
})

// pin keeps the calling thread, which has to be locked, on a CPU.
func pin(cpu int) error {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("stay on CPU %d: %w", cpu, err)
	}
	return nil
}

func (s *stage) pass(seconds uint32) {
	s.now += seconds
	s.SetClock(s.now, 0)
}

// end lets every flow become idle and its ports rest, and frees the slots.
func (s *stage) end() error {
	for _, wait := range []uint32{model.IdleDefault + 1, model.PortRest + 1} {
		s.pass(wait)
		if _, err := s.Sweep(0, homes+model.Window, s.now); err != nil {
			return err
		}
	}
	return nil
}

// pair is one flow: its slots and what they hold.
type pair struct {
	slots [2]int // forward, reverse
	flows [2]dataplane.RawFlow
}

func (p *pair) port() uint16 { return p.flows[0].Rw.Sport }

// open opens a tenant's flow and returns its pair.
func (s *stage) open(t tenant, proto byte) (p pair, err error) {
	frame := packet(proto, model.SYN, devices[t], t.client(), clientIP, endpointIP, clientPort, servicePort)
	left, out, err := s.lane.Send(s.indexes[t], frame)
	if err != nil {
		return p, err
	}
	if !left || look(out).from != t.nat() {
		return p, fmt.Errorf("tenant %d: its flow was not opened (%+v)", t, look(out))
	}
	for i := range s.Flows() {
		f := &s.Flows()[i]
		if f.State&3 == 2 && f.Key.Vnet == uint16(t.number()) {
			p = pair{slots: [2]int{i, int(f.Twin)}}
			p.flows = s.read(p.slots)
			return p, nil
		}
	}
	return p, fmt.Errorf("tenant %d: no entry of its flow", t)
}

// read copies two entries, without the words that belong to other slots.
func (s *stage) read(slots [2]int) (flows [2]dataplane.RawFlow) {
	for i, slot := range slots {
		flows[i] = s.Flows()[slot]
		flows[i].Home = 0
	}
	return flows
}

// frame is the packet of a case, in the flow p of the first tenant.
func (h holding) frame(p pair) []byte {
	if h.reverse {
		port := p.port()
		return packet(h.proto, h.flags, devices[provider], backendMAC, backendIP, mine.nat(), servicePort, port<<8|port>>8)
	}
	return packet(h.proto, h.flags, devices[mine], h.client(), clientIP, endpointIP, clientPort, servicePort)
}

func (h holding) client() model.MAC {
	if h.moved {
		return mine.moved()
	}
	return mine.client()
}

// own says whether a frame is the first tenant's, as it may be: to his backend from his NAT IP, to his
// client from his endpoint, or an answer to who sent the packet that was held.
func (h holding) own(sent seen, got seen) (translated, answered bool) {
	toBackend := got.src == devices[provider] && got.dst == backendMAC && got.from == mine.nat() && got.to == backendIP && got.dport == servicePort
	toClient := got.src == devices[mine] && got.from == endpointIP && got.to == clientIP && got.sport == servicePort && got.dport == clientPort
	if got.proto != h.proto {
		return false, false
	}
	answered = got.dst == sent.src && got.src == sent.dst && got.from == sent.to && got.to == sent.from && got.sport == sent.dport && got.dport == sent.sport
	if h.reverse {
		return toClient && got.dst == mine.client(), answered
	}
	return toBackend, answered
}

// try holds one packet.
func (s *stage) try(h holding, o *outcome) error {
	before, err := s.open(mine, h.proto)
	if err != nil {
		return err
	}
	s.pass(1) // a packet refreshes its flow once a second
	frame := h.frame(before)
	sent := look(frame)
	s.Arm()
	s.frames <- frame
	held := s.WaitHeld(heldFor)
	err = s.end()
	after, errOpen := s.open(theirs, h.others)
	held = s.Release() && held
	r := <-s.results
	if err := errors.Join(err, errOpen, r.err); err != nil {
		return err
	}
	if now := s.read(after.slots); now != after.flows {
		o.harmed++
		o.example = fmt.Sprintf("%s: the other tenant's flow is %+v, was %+v", h.name, now, after.flows)
	}
	switch {
	case !held:
		o.late++
	case after.slots != before.slots:
		return fmt.Errorf("%s: slots %v, before %v", h.name, after.slots, before.slots)
	default:
		o.overlapped++
		if after.port() == before.port() {
			o.equalPorts++
		}
		if r.left {
			got := look(r.frame)
			switch translated, answered := h.own(sent, got); {
			case translated:
				o.translated++
			case answered:
				o.answered++
			default:
				o.foreign++
				o.example = fmt.Sprintf("%s: %+v left as %+v", h.name, sent, got)
			}
		}
	}
	if err := s.end(); err != nil {
		return err
	}
	if s.Pairs() != 0 {
		return fmt.Errorf("%s: %d pairs are left", h.name, s.Pairs())
	}
	return nil
}

// run tries each case until so many tries overlapped: on a machine that has other things to do some come
// late, but not as many as those.
func (s *stage) run(cases []holding, tries int) (map[string]*outcome, error) {
	all := make(map[string]*outcome)
	for t := mine; t <= theirs; t++ { // makes the port domains
		for _, proto := range []byte{model.TCP, model.UDP} {
			if _, err := s.open(t, proto); err != nil {
				return nil, err
			}
			if err := s.end(); err != nil {
				return nil, err
			}
		}
	}
	for _, h := range cases {
		// Ports are taken in turn: from the same place on, and opening equally often, both tenants have equal ones.
		if err := s.SetCursors(0); err != nil {
			return nil, err
		}
		o := &outcome{}
		all[h.name] = o
		for n := 0; o.overlapped < tries; n++ {
			if n == 2*tries {
				return nil, fmt.Errorf("%s: %d of %d tries overlapped, want %d", h.name, o.overlapped, n, tries)
			}
			if err := s.try(h, o); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}
