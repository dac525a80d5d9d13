package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/splice"
	"github.com/privlink/privlink/pkg/splice/inner"
)

// Splice is privlink with PROXY headers: the splice path behind the dataplane in TC. It runs in
// a process of its own, as the daemon does, so that it can be pinned and its memory be seen.
type Splice struct {
	executable string // this program; with "splice" and a setup it serves
	cpu        int
	process    *lab.Process
	setup      spliceSetup
}

// NewSplice makes privlink's splice path. The executable must call ServeSplice when its
// arguments are "splice" and a text.
func NewSplice(executable string, cpu int) *Splice { return &Splice{executable: executable, cpu: cpu} }

// spliceSetup is what the process is told.
type spliceSetup struct {
	BPFFS     string
	Namespace string // of the inner network
	Ready     string // file that appears when traffic may come
	State     dataplane.State
}

// Name implements Forwarder.
func (*Splice) Name() string { return nameProxyPrivlink }

// Up implements Forwarder.
func (s *Splice) Up(t *Topology) error {
	gateway := t.Gateway()
	l := gateway.Lab()
	plain := NewPrivlink(TC, 1<<18, 1)
	t.Server.NS.Addr(t.Server.Name, firstServer.String()+"/16")
	s.setup = spliceSetup{
		BPFFS: l.BPFFS(gateway.String()), Namespace: gateway.Name + "-inner",
		Ready: l.Path(gateway.String() + ".ready"), State: plain.describe(t),
	}
	for i := range s.setup.State.RuleSets[0].Rules {
		rule := &s.setup.State.RuleSets[0].Rules[i]
		rule.Proxy = rule.Protocol == dataplane.ProtocolTCP
	}
	text, err := json.Marshal(s.setup)
	if err != nil {
		return err
	}
	s.process = gateway.StartCommand(context.Background(), exec.Command("nice", "-n", "-20",
		"taskset", "-c", strconv.Itoa(s.cpu), s.executable, "splice", string(text)))
	return lab.Poll(2*settle, func() error {
		select {
		case <-s.process.Exited():
			return fmt.Errorf("the splice's process ended: %s", s.process.Output())
		default:
		}
		_, err := os.Stat(s.setup.Ready)
		return err
	})
}

// ServeSplice is the process's life; it ends with the context.
func ServeSplice(ctx context.Context, text string) error {
	var o spliceSetup
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return fmt.Errorf("read setup: %w", err)
	}
	log := logrus.New()
	log.SetLevel(logrus.WarnLevel)
	if _, err := splice.RaiseDescriptors(0); err != nil {
		return err
	}
	network, err := inner.Setup(inner.Config{Namespace: o.Namespace})
	if err != nil {
		return err
	}
	server, err := splice.New(network, splice.Config{}, log)
	if err != nil {
		return err
	}
	opts := dataplane.Options{
		BPFFS: o.BPFFS, Pairs: 1 << 18, Log: log,
		Inner: dataplane.Inner{Network: "inner", Interface: network.Interface(), Listen: inner.Listen(), Sources: inner.Sources()},
	}
	plane, err := dataplane.Open(ctx, opts)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx, plane) }()
	p := Privlink{hook: TC, plane: plane, state: o.State}
	if err := p.apply(ctx); err != nil {
		return err
	}
	if err := os.WriteFile(o.Ready, nil, 0o600); err != nil {
		return err
	}
	err = <-ended
	return errors.Join(err, plane.Close(), dataplane.Down(context.Background(), opts))
}

// Translation implements Forwarder: the client connects to the endpoint.
func (*Splice) Translation() *Translation { return &Translation{} }

// TTL implements Forwarder.
func (*Splice) TTL() uint8 { return 1 }

// Forget implements Forwarder.
func (*Splice) Forget() error { return nil }

// Drops implements Forwarder.
func (*Splice) Drops() (uint64, error) { return 0, nil }

// Close implements Forwarder.
func (s *Splice) Close() error {
	if s.process != nil {
		s.process.Stop()
	}
	return nil
}

// residentBytes is the memory of the splice's process that is in RAM.
func (s *Splice) residentBytes() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.process.PID()))
	if err != nil {
		return 0, err
	}
	pages, err := strconv.ParseFloat(strings.Fields(string(text))[1], 64)
	return pages * float64(os.Getpagesize()), err
}

// idle opens connections through the splice, lets them be, and returns what each adds to the process: to
// the `fresh` bytes that it had before its first, or to what it has now, whichever is less.
func (s *Splice) idle(ctx context.Context, l *proxyLane, p Progress, fresh float64, connections int) (float64, error) {
	before, err := s.residentBytes()
	if err != nil {
		return 0, err
	}
	listener, err := l.topology.Server.NS.Listen("tcp4", l.conversation.listen.String())
	if err != nil {
		return 0, err
	}
	defer func() { _ = listener.Close() }()
	accepted := make(chan net.Conn, connections)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- conn
		}
	}()
	var open []io.Closer
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	b := make([]byte, 16)
	for i := range connections {
		if i%100 == 0 {
			p.Step("proxy: %d idle connections", i)
		}
		conn, err := l.topology.Client.NS.Dial(ctx, "tcp4", clientAddress(i%clientAddresses).String(), l.target.String())
		if err != nil {
			return 0, fmt.Errorf("idle connection %d: %w", i, err)
		}
		open = append(open, conn)
		far, ok := <-accepted
		if !ok {
			return 0, fmt.Errorf("idle connection %d: it never arrived", i)
		}
		open = append(open, far)
		if _, err := io.ReadFull(far, b); err != nil { // the header is written: it is idle now
			return 0, fmt.Errorf("idle connection %d: %w", i, err)
		}
	}
	after, err := s.residentBytes()
	return (after - min(fresh, before)) / float64(connections), err
}
