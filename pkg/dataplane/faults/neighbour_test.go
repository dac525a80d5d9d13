package faults

import (
	"encoding/binary"
	"encoding/gob"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/lab"
)

// neighbourVariable says what the test binary is, in a process of its own that is bound to one processor:
// "server", "client", "attacker", "loris" or "holder".
const neighbourVariable = "FAULTS_NEIGHBOUR"

// Ports of the servers. Behind a service with PROXY headers they want one.
const (
	portSink        = 7100 // reads to the end and says how much that was
	portOne         = 7101 // one byte back
	portSinkProxied = 7102
	portOneProxied  = 7103
	portHolder      = 7104 // a byte back, and what is asked for by the first
)

// What the client does when it is asked for a round.
const (
	bulkTime    = 200 * time.Millisecond
	connections = 40 // one every connectionPace
	pace        = 5 * time.Millisecond
	patience    = 10 * time.Second // for one connection: longer than three lost SYNs take
)

// share is what the client got in one round.
type share struct {
	Rate   float64 // bytes a second
	Opened int     // of `connections`
	Err    string
}

func beNeighbour(role string, args []string) error {
	switch role {
	case "server":
		return beServer(args[0])
	case "client":
		return beClient(args[0], args[1], args[2])
	case "attacker":
		return beAttacker(args[0])
	case "loris":
		return beLoris(args[0], args[1])
	case "holder":
		return beHolder(args[0], len(args) > 1)
	}
	return fmt.Errorf("nobody is a %q", role)
}

func beServer(ip string) error {
	one := func(c net.Conn) { _, _ = io.CopyN(c, c, 1) } // whoever does not get its byte notices
	sink := func(c net.Conn) {
		n, err := io.Copy(io.Discard, c)
		if err == nil {
			_ = binary.Write(c, binary.BigEndian, n) // the same
		}
	}
	for port, serve := range map[int]func(net.Conn){
		portOne: one, portSink: sink, portOneProxied: behindHeader(one), portSinkProxied: behindHeader(sink),
	} {
		l, err := net.Listen("tcp4", fmt.Sprintf("%s:%d", ip, port))
		if err != nil {
			return err
		}
		go accept(l, serve)
	}
	fmt.Println("ready")
	select {}
}

// behindHeader serves what comes behind a PROXY header of version 2.
func behindHeader(serve func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		head := make([]byte, 16)
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint16(head[14:]))); err != nil {
			return
		}
		serve(c)
	}
}

func accept(l net.Listener, serve func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			serve(c)
		}()
	}
}

// beClient does a round whenever something connects to its socket, and writes its share there.
func beClient(socket, sink, single string) error {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		s, err := round(sink, single)
		if err != nil {
			s.Err = err.Error()
		}
		if err := gob.NewEncoder(c).Encode(s); err != nil {
			return err
		}
		c.Close()
	}
}

func round(sink, single string) (s share, err error) {
	if s.Rate, err = bulk(sink); err != nil {
		return s, err
	}
	done := make(chan bool, connections)
	next := time.NewTicker(pace)
	defer next.Stop()
	for range connections {
		<-next.C
		go func() { done <- one(single) == nil }()
	}
	for range connections {
		if <-done {
			s.Opened++
		}
	}
	return s, nil
}

func bulk(address string) (rate float64, err error) {
	c, err := net.DialTimeout("tcp4", address, patience)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	begin := time.Now()
	if err := c.SetDeadline(begin.Add(patience)); err != nil {
		return 0, err
	}
	piece := make([]byte, 256<<10)
	for time.Since(begin) < bulkTime {
		if _, err := c.Write(piece); err != nil {
			return 0, err
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, err
	}
	var n int64
	if err := binary.Read(c, binary.BigEndian, &n); err != nil {
		return 0, err
	}
	return float64(n) / time.Since(begin).Seconds(), nil
}

func one(address string) error {
	c, err := net.DialTimeout("tcp4", address, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	b := []byte{1}
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err = io.ReadFull(c, b)
	return err
}

// beAttacker sends the frames of a file over and over, as fast as one processor can, around the queues of its own end.
func beAttacker(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	var frames [][]byte
	err = gob.NewDecoder(f).Decode(&frames)
	if err != nil {
		return err
	}
	eth, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return err
	}
	to := &unix.SockaddrLinklayer{Ifindex: eth.Index}
	fmt.Println("ready")
	for {
		for _, frame := range frames {
			// A full ring refuses frames: at full rate that is how it is.
			_ = unix.Sendto(fd, frame, 0, to)
		}
	}
}

// neighbour starts one in a namespace, bound to a processor, and waits until it is ready.
func neighbour(t *testing.T, n *lab.Namespace, cpu int, role string, args ...string) *lab.Process {
	t.Helper()
	cmd := taskset(t, cpu, args)
	cmd.Env = append(os.Environ(), neighbourVariable+"="+role)
	p := n.StartCommand(t.Context(), cmd)
	n.Lab().Wait("the "+role, 60*time.Second, func() error {
		if p.Output() == "" {
			return errEarly
		}
		if p.Output() != "ready\n" {
			t.Fatal(p.Output())
		}
		return nil
	})
	return p
}
