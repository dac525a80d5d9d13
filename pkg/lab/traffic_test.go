package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func TestTransfer_BothWays_IsComparedAndNamesItsServer(t *testing.T) {
	a, b := pair(t, VethOptions{})
	server := b.BulkServer("10.9.0.2:9000")
	received := 0
	bulk := Bulk{Put: 8<<20 + 1, Get: 16<<20 + 3, Seed: 7, OnBytes: func(n int) { received += n }}
	result, err := a.Transfer(t.Context(), "10.9.0.1:5555", server.Addr, bulk)
	if err != nil {
		t.Fatal(err)
	}
	if result.Server != "b" || uint64(received) != bulk.Get {
		t.Errorf("server %q, received %d", result.Server, received)
	}
	a.lab.Wait("the server to count it", 5*time.Second, func() error {
		if server.Finished() != 1 {
			return errors.New("not counted")
		}
		return nil
	})
	if errs := server.Errors(); len(errs) > 0 {
		t.Error(errs)
	}
}

// flip passes a connection's bytes on and changes the one at an offset.
type flip struct {
	net.Conn
	at, seen int
}

func (f *flip) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	if f.seen <= f.at && f.at < f.seen+n {
		b[f.at-f.seen] ^= 0x80
	}
	f.seen += n
	return n, err
}

func TestTransfer_OneByteChanged_IsFoundAndNamed(t *testing.T) {
	a, b := pair(t, VethOptions{})
	server := b.BulkServer("10.9.0.2:9000")
	conn, err := a.Dial(t.Context(), "tcp4", "", server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	name := 1 + len("b")
	_, err = TransferOver(&flip{Conn: conn, at: name + 100_000}, Bulk{Get: 200_000, Seed: 1})
	if err == nil || !strings.Contains(err.Error(), "corrupt: byte 100000 of 200000") {
		t.Errorf("got %v", err)
	}
}

func TestTransfer_OtherSeed_IsCorrupt(t *testing.T) {
	var wire bytes.Buffer
	if err := newStream(1, toServer).send(&wire, 1000); err != nil {
		t.Fatal(err)
	}
	for _, other := range []*stream{newStream(2, toServer), newStream(1, toClient)} {
		err := other.receive(bytes.NewReader(wire.Bytes()), 1000, nil)
		if err == nil || !strings.Contains(err.Error(), "corrupt") {
			t.Errorf("got %v", err)
		}
	}
}

func TestTransfer_ConnectionEndsEarly_TellsWhere(t *testing.T) {
	short := io.LimitReader(zeros{}, 0)
	err := newStream(1, toServer).receive(short, 1000, nil)
	if !errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "byte 0 of 1000") {
		t.Errorf("got %v", err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestSequence_Echoed_ArrivalsAtBothEnds(t *testing.T) {
	a, b := pair(t, VethOptions{})
	echo := b.EchoServer("10.9.0.2:7")
	begin := time.Now()
	seq := a.Sequence(t.Context(), echo.Addr, SequenceOptions{Size: 100})
	a.lab.Wait("50 echoes", 10*time.Second, func() error {
		if seq.Len() < 50 {
			return errors.New("fewer")
		}
		return nil
	})
	seq.Stop()
	first, ok := echo.FirstAfter(begin)
	if !ok || first.Sequence != 0 || !strings.HasPrefix(first.From, "10.9.0.1:") {
		t.Errorf("first arrival %+v, %v", first, ok)
	}
	if _, ok := echo.FirstAfter(time.Now()); ok {
		t.Error("an arrival from the future")
	}
	sent := seq.Sent()
	for i, arrival := range seq.Arrivals() {
		if int(arrival.Sequence) != i || arrival.At.Before(sent[i]) {
			t.Fatalf("echo %d: %+v, sent at %v", i, arrival, sent[i])
		}
	}
	if last, ok := seq.Last(); !ok || int(last.Sequence) >= len(sent) {
		t.Errorf("last echo %+v of %d", last, len(sent))
	}
}

// frame is an Ethernet frame to everybody with the local experimental EtherType.
func frame(text string) []byte {
	f := append(bytes.Repeat([]byte{0xff}, 6), 2, 0, 0, 0, 0, 9)
	f = binary.BigEndian.AppendUint16(f, 0x88b5)
	return append(f, text...)
}

func TestCapture_InjectedFrames_AreSeenAtBothEnds(t *testing.T) {
	a, b := pair(t, VethOptions{})
	out, in := a.Capture("eth0"), b.Capture("eth0")
	want := [][]byte{frame("one"), frame("two"), frame(strings.Repeat("x", 1400))}
	if err := a.Inject("eth0", want...); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		packets  []Packet
		outgoing bool
	}{{"sender", out.Stop(), true}, {"receiver", in.Stop(), false}} {
		if len(c.packets) != len(want) {
			t.Fatalf("%s saw %d frames, want %d", c.name, len(c.packets), len(want))
		}
		for i, p := range c.packets {
			if !bytes.Equal(p.Data, want[i]) || p.Outgoing != c.outgoing || p.Tagged {
				t.Errorf("%s, frame %d: %+v", c.name, i, p)
			}
		}
	}
}

func TestCapture_TaggedFrame_ShowsTagAside(t *testing.T) {
	a, b := pair(t, VethOptions{})
	in := b.Capture("eth0")
	tagged := frame("tagged")
	tagged = append(tagged[:12:12], append([]byte{0x81, 0x00, 0x00, 100}, tagged[12:]...)...)
	if err := a.Inject("eth0", tagged); err != nil {
		t.Fatal(err)
	}
	got := in.Stop()
	if len(got) != 1 || !got[0].Tagged || got[0].VLAN != 100 || !bytes.Equal(got[0].Data, frame("tagged")) {
		t.Errorf("got %+v", got)
	}
}

func TestCapture_LocalTCP_HasPartialChecksums(t *testing.T) {
	a, b := pair(t, VethOptions{})
	in := b.Capture("eth0")
	server := b.BulkServer("10.9.0.2:9000")
	if _, err := a.Transfer(t.Context(), "", server.Addr, Bulk{Put: 1}); err != nil {
		t.Fatal(err)
	}
	in.Stop()
	if in.Count(func(p Packet) bool { return p.Partial }) == 0 {
		t.Error("no packet with a partial checksum over a veth with default offloads")
	}
}

func TestServers_RealClients_GetAnswers(t *testing.T) {
	l := New(t)
	gw := l.Namespace("gw")
	client := l.VM(gw, "client", "10.9.0.1/24", VethOptions{})
	server := l.VM(gw, "server", "10.9.0.2/24", VethOptions{})
	gw.Bridge("br0", "client", "server")
	ctx := t.Context()

	web := server.Nginx(ctx, NginxOptions{
		Listen: []string{"10.9.0.2:80", "10.9.0.2:81 proxy_protocol"},
		Files:  map[string]string{"index.html": "hello\n"},
		Sparse: map[string]int64{"big": 1 << 40},
	})
	ssh := server.Sshd(ctx, "10.9.0.2:22")
	server.Dnsmasq(ctx, "10.9.0.2:53", map[string]string{"a.example": "192.0.2.7"})
	server.Iperf3(ctx, "10.9.0.2:5201")
	server.Haproxy(ctx, `
defaults
  mode tcp
  timeout connect 5s
  timeout client 5s
  timeout server 5s
listen l
  bind 10.9.0.2:8080
  server s 10.9.0.2:81 send-proxy-v2
`, "10.9.0.2:8080")

	for _, c := range []struct {
		command []string
		want    string
	}{
		{[]string{"curl", "-sS", "http://10.9.0.2/"}, "hello"},
		{[]string{"curl", "-sS", "-r", "0-99", "-o", "/dev/null", "-w", "%{size_download}", "http://10.9.0.2/big"}, "100"},
		{[]string{"curl", "-sS", "--local-port", "40000", "http://10.9.0.2:8080/"}, "hello"},
		{append(append([]string{"ssh"}, ssh.ClientArgs("10.9.0.2", 22)...), "echo", "logged in"), "logged in"},
		{[]string{"dig", "+short", "@10.9.0.2", "a.example"}, "192.0.2.7"},
		{[]string{"iperf3", "-c", "10.9.0.2", "-n", "1M"}, "receiver"},
	} {
		out, err := client.Run(ctx, c.command[0], c.command[1:]...)
		if err != nil {
			t.Error(err)
		} else if !strings.Contains(out, c.want) {
			t.Errorf("%v: %q has no %q", c.command, out, c.want)
		}
	}
	log := strings.Join(web.AccessLog(), "\n")
	for _, want := range []string{`10.9.0.1 `, ` 10.9.0.1 40000 "GET / HTTP/1.1" 200 6`} {
		if !strings.Contains(log, want) {
			t.Errorf("access log without %q:\n%s", want, log)
		}
	}
}

func TestWait_ConditionNeverTrue_FailsWithItsLastError(t *testing.T) {
	want := errors.New("not yet")
	err := Run(context.Background(), Options{}, func(_ context.Context, l *Lab) error {
		l.Wait("rain", 10*time.Millisecond, func() error { return want })
		return nil
	})
	if err == nil || err.Error() != "waited 10ms for rain: not yet" {
		t.Errorf("got %v", err)
	}
}

func TestInjectPaged_FramesOfEverySize_ArriveAsTheyStand(t *testing.T) {
	a, b := pair(t, VethOptions{MTU: 9000})
	capture := b.Capture("eth0")
	var frames [][]byte
	for _, size := range []int{14, 15, 60, 1514, 9014} {
		frame := bytes.Repeat([]byte{byte(size)}, size)
		copy(frame, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5})
		frames = append(frames, frame)
	}
	if err := a.InjectPaged("eth0", frames...); err != nil {
		t.Fatal(err)
	}
	a.Lab().Wait("the frames", 5*time.Second, func() error {
		if n := len(capture.Packets()); n != len(frames) {
			return fmt.Errorf("%d of %d", n, len(frames))
		}
		return nil
	})
	for i, p := range capture.Stop() {
		if !bytes.Equal(p.Data, frames[i]) {
			t.Errorf("frame of %d bytes arrived as %d: %x", len(frames[i]), len(p.Data), p.Data[:min(40, len(p.Data))])
		}
	}
	if err := a.InjectPaged("eth0", make([]byte, pagedPlace)); err == nil {
		t.Error("a frame larger than its place was sent")
	}
}
