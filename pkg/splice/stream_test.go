package splice

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestStream_EitherSpeaksFirst_OtherHears(t *testing.T) {
	r := startRig(t, nil)
	consumer, server := r.pair()
	mustWrite(t, server, "220 ready\r\n")
	mustRead(t, consumer, "220 ready\r\n")
	mustWrite(t, consumer, "EHLO\r\n")
	mustRead(t, server, "EHLO\r\n")
}

func TestStream_ClientSpeaksBeforeBackendIsThere_NothingLost(t *testing.T) {
	r := startRig(t, nil)
	consumer := r.dial()
	mustWrite(t, consumer, "hello")
	if err := consumer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	server := r.accept()
	skipHeader(t, server)
	mustRead(t, server, "hello")
	mustEOF(t, server)
	mustWrite(t, server, "answer")
	server.Close()
	mustRead(t, consumer, "answer")
	mustEOF(t, consumer)
	eventually(t, "finished in order", func() bool { return r.server.Stats().Finished == 1 })
}

func TestStream_HalfClose_OtherDirectionGoesOn(t *testing.T) {
	for name, clientFirst := range map[string]bool{"client first": true, "backend first": false} {
		t.Run(name, func(t *testing.T) {
			r := startRig(t, nil)
			first, second := r.pair()
			if !clientFirst {
				first, second = second, first
			}
			if err := first.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			mustEOF(t, second)
			for range 3 {
				mustWrite(t, second, "still here")
				mustRead(t, first, "still here")
			}
			if s := r.server.Stats(); s.Active != 1 || s.Finished != 0 {
				t.Errorf("half closed: %+v", s)
			}
			second.Close()
			mustEOF(t, first)
			eventually(t, "finished in order", func() bool { s := r.server.Stats(); return s.Active == 0 && s.Finished == 1 && s.Reset == 0 })
		})
	}
}

// TestStream_EndsBeforeAllIsDelivered_NothingIsLost: what is still in the kernel when both ends have
// closed must reach a slow reader, although an unfinished connection is reset on close.
func TestStream_EndsBeforeAllIsDelivered_NothingIsLost(t *testing.T) {
	r := startRig(t, nil)
	consumer, server := r.pair()
	if err := consumer.SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	if err := consumer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	mustEOF(t, server)
	const size = firstWindow // as much as the splice's own socket takes
	if _, err := server.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	server.Close()
	eventually(t, "finished with data on its way", func() bool { return r.server.Stats().Finished == 1 })
	if n, err := io.Copy(io.Discard, consumer); err != nil || n != size {
		t.Errorf("read %d bytes, %v, want %d", n, err, size)
	}
}

func TestStream_Reset_PassedOnAsReset(t *testing.T) {
	for name, clientFirst := range map[string]bool{"by client": true, "by backend": false} {
		t.Run(name, func(t *testing.T) {
			r := startRig(t, nil)
			first, second := r.pair()
			if !clientFirst {
				first, second = second, first
			}
			if err := first.SetLinger(0); err != nil {
				t.Fatal(err)
			}
			first.Close()
			mustReset(t, second)
			eventually(t, "counted", func() bool { s := r.server.Stats(); return s.Reset == 1 && s.Active == 0 })
		})
	}
}

func TestStream_ClientClosesAtOnce_BackendSeesTheEnd(t *testing.T) {
	r := startRig(t, nil)
	r.dial().Close()
	server := r.accept()
	skipHeader(t, server)
	mustEOF(t, server)
}

// TestStream_SlowReader_PushesBack checks that what a receiver does not read stops the sender,
// and that every byte arrives once it reads again.
func TestStream_SlowReader_PushesBack(t *testing.T) {
	r := startRig(t, nil)
	consumer, server := r.pair()
	const size = 64 << 20
	sum := sha256.New()
	sent := make(chan error, 1)
	progress := make(chan int64, 1)
	go func() {
		random := rand.NewChaCha8([32]byte{1})
		written := int64(0)
		block := make([]byte, 1<<16)
		for written < size {
			_, _ = random.Read(block)
			sum.Write(block)
			if err := server.SetWriteDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
				sent <- err
				return
			}
			n, err := server.Write(block)
			written += int64(n)
			if errors.Is(err, syscall.EAGAIN) || isTimeout(err) {
				progress <- written
				if err := server.SetWriteDeadline(time.Time{}); err != nil {
					sent <- err
					return
				}
				if _, err := server.Write(block[n:]); err != nil {
					sent <- err
					return
				}
				written += int64(len(block) - n)
			} else if err != nil {
				sent <- err
				return
			}
		}
		sent <- server.CloseWrite()
	}()

	select {
	case stuck := <-progress:
		t.Logf("the sender stopped after %d bytes", stuck)
		if pipes := r.server.Stats().Pipes; pipes == 0 {
			t.Error("no pipe holds the data that waits")
		}
	case err := <-sent:
		t.Fatalf("everything was taken although nobody reads (%v)", err)
	}
	go func() {
		for range progress { // later pauses
		}
	}()
	got := sha256.New()
	n, err := io.Copy(got, consumer)
	if err != nil || n != size {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	close(progress)
	if string(got.Sum(nil)) != string(sum.Sum(nil)) {
		t.Error("the bytes differ")
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// transfer sends random bytes one way and compares sums.
func transfer(t *testing.T, from, to *net.TCPConn, size int64) {
	t.Helper()
	type result struct {
		sum [32]byte
		err error
	}
	sent := make(chan result, 1)
	go func() {
		hash := sha256.New()
		_, err := io.Copy(io.MultiWriter(from, hash), io.LimitReader(rand.NewChaCha8([32]byte{7}), size))
		sent <- result{[32]byte(hash.Sum(nil)), errors.Join(err, from.CloseWrite())}
	}()
	hash := sha256.New()
	n, err := io.Copy(hash, to)
	if err != nil || n != size {
		t.Fatalf("received %d of %d bytes, %v", n, size, err)
	}
	s := <-sent
	if s.err != nil {
		t.Fatal(s.err)
	}
	if s.sum != [32]byte(hash.Sum(nil)) {
		t.Error("the bytes differ")
	}
}

func TestStream_BothWaysAtOnce_SumsAreEqual(t *testing.T) {
	r := startRig(t, nil)
	consumer, server := r.pair()
	done := make(chan struct{})
	go func() {
		defer close(done)
		transfer(t, consumer, server, 48<<20)
	}()
	transfer(t, server, consumer, 48<<20)
	<-done
	eventually(t, "finished", func() bool {
		s := r.server.Stats()
		return s.Finished == 1 && s.BytesIn == 48<<20 && s.BytesOut == 48<<20
	})
	// The first piece of each direction is small as far as anybody knows.
	if s := r.server.Stats(); s.Spliced < 90<<20 || s.Copied != 0 {
		t.Errorf("of 96 MiB %d bytes were spliced, %d pieces copied for want of a pipe", s.Spliced, s.Copied)
	}
}

func TestStream_NoPipeToBeHad_BytesAreCopied(t *testing.T) {
	r := startRig(t, nil)
	r.server.pipes.Store(0)
	consumer, server := r.pair()
	transfer(t, server, consumer, 8<<20)
	transfer(t, consumer, server, 8<<20)
	eventually(t, "finished", func() bool { s := r.server.Stats(); return s.Finished == 1 && s.Copied > 0 && s.Pipes == 0 })
	r.server.pipes.Store(0) // as it was found
}

// TestStream_UrgentByte_ArrivesInLine: splice(2) stops at urgent data and would wait for ever.
// mustWriteUrgent sends text whose last byte is urgent.
func mustWriteUrgent(t *testing.T, c *net.TCPConn, text string) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := raw.Write(func(fd uintptr) bool {
		failed = unix.Sendto(int(fd), []byte(text), unix.MSG_OOB, nil)
		return true
	}); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
}

func TestStream_UrgentByte_ArrivesInLine(t *testing.T) {
	r := startRig(t, nil)
	consumer, server := r.pair()
	mustWrite(t, consumer, "before")
	mustWriteUrgent(t, consumer, "!")
	mustWrite(t, consumer, "after")
	mustRead(t, server, "before!after")
	transfer(t, consumer, server, 1<<20)
}

// TestServer_GatewayNotReady_ConnectionsWait checks that what arrives between listening and the first
// configuration is served, not refused.
func TestServer_GatewayNotReady_ConnectionsWait(t *testing.T) {
	ready := make(chan struct{})
	r := startRig(t, func(_ *Config, g *fakeGateway) { g.ready = ready })
	consumer := r.dial()
	mustWrite(t, consumer, "early")
	if s := r.server.Stats(); s.Accepted != 0 {
		t.Errorf("%d connections were accepted before the gateway was ready", s.Accepted)
	}
	close(ready)
	server := r.accept()
	skipHeader(t, server)
	mustRead(t, server, "early")
}

// TestStream_SmallPiecesSlowReader_LastOneWaitsInThePipe fills the way to a backend that does not read with pieces
// that are copied: of the last one, part or all has to wait in the pipe.
func TestStream_SmallPiecesSlowReader_LastOneWaitsInThePipe(t *testing.T) {
	r := startRig(t, nil)
	consumer, server := r.pair()
	waits := func() bool {
		held := make(chan bool, 2)
		for _, l := range r.server.loops {
			l.post(func() {
				held <- len(l.conns) == 1 && l.conns[0].streams[client].pipe != nil && l.conns[0].streams[client].pipe.held > 0
			})
		}
		one, two := <-held, <-held
		return one || two
	}
	random := rand.NewChaCha8([32]byte{2})
	var sent []byte
	for !waits() {
		if len(sent) > 64<<20 {
			t.Fatal("64 MiB fit on the way")
		}
		piece := make([]byte, 5000)
		_, _ = random.Read(piece)
		sent = append(sent, piece...)
		mustWrite(t, consumer, string(piece))
		// One by one, so that each is a small one.
		eventually(t, "piece taken", func() bool { return r.server.Stats().BytesIn == uint64(len(sent)) })
	}
	if s := r.server.Stats(); s.Copied != 0 {
		t.Errorf("%d pieces were copied for want of a pipe", s.Copied)
	}
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(server, got); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes are not those that were sent: %v", len(got), err)
	}
}

// TestStream_Sockets_DelayNothingAndResetUntilTheEnd looks at the options of both legs.
func TestStream_Sockets_DelayNothingAndResetUntilTheEnd(t *testing.T) {
	r := startRig(t, nil)
	r.pair()
	seen := make(chan int, 2)
	for _, l := range r.server.loops {
		l.post(func() {
			for _, c := range l.conns {
				for which := range c.ends {
					fd := c.ends[which].fd
					nodelay, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY)
					if err != nil || nodelay != 1 {
						t.Errorf("side %d: TCP_NODELAY %d, %v", which, nodelay, err)
					}
					// struct linger is two words; the first says that it is on, the second is 0 seconds.
					linger, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_LINGER)
					if err != nil || linger != 1 {
						t.Errorf("side %d: SO_LINGER %d, %v", which, linger, err)
					}
				}
			}
			seen <- len(l.conns)
		})
	}
	if <-seen+<-seen != 1 {
		t.Error("the connection was not looked at")
	}
}

// stock is how many unused sockets the rig's two loops may hold.
const stock = 2 * stockSize

func TestStream_IdleConnection_HoldsTwoDescriptors(t *testing.T) {
	r := startRig(t, nil)
	const count = 200
	before := descriptors(t)
	for range count {
		consumer, server := r.pair()
		mustWrite(t, consumer, "ping")
		mustRead(t, server, "ping")
	}
	kept := 2 * int(r.server.Stats().Pipes)
	if kept > 4*keptPipes {
		t.Errorf("%d descriptors of pipes are kept", kept)
	}
	// The client's and the backend's descriptors are this process's too.
	if got := descriptors(t) - before - 2*count - kept; got < 2*count || got > 2*count+stock {
		t.Errorf("%d connections hold %d descriptors, want two each and at most %d in stock", count, got, stock)
	}
}

func TestStream_ManyShortConnections_NothingLeaks(t *testing.T) {
	r := startRig(t, nil)
	go func() {
		for {
			c, err := r.backend.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				// Without the pipes that io.Copy would keep between sockets.
				_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			}()
		}
	}()
	before := descriptors(t)
	for range 500 {
		c := r.dial()
		mustWrite(t, c, "x")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if all, err := io.ReadAll(c); err != nil || len(all) < 2 {
			t.Fatalf("echo: %d bytes, %v", len(all), err)
		}
		c.Close()
	}
	eventually(t, "all ended", func() bool { s := r.server.Stats(); return s.Finished == 500 && s.Active == 0 })
	eventually(t, "descriptors given back", func() bool {
		return descriptors(t) <= before+2*int(r.server.Stats().Pipes)+stock
	})
}
