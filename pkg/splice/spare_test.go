package splice

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// resting asks the only loop for the sockets that rest in it.
func (r *rig) resting() []spare {
	r.t.Helper()
	list := make(chan []spare, 1)
	l := r.server.loops[0]
	if !l.post(func() { list <- append([]spare(nil), l.resting...) }) {
		r.t.Fatal("the loop has ended")
	}
	return <-list
}

// end ends a connection in order, first on one side, and waits until the splice is through with it.
func (r *rig) end(first, second interface{ Close() error }, halfClose func() error) {
	r.t.Helper()
	before := r.server.Stats().Finished
	if err := halfClose(); err != nil {
		r.t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "finished in order", func() bool { return r.server.Stats().Finished == before+1 })
	_ = first.Close()
}

func oneLoop(c *Config, _ *fakeGateway) { c.Loops = 1 }

// TestSpare_ClientEndsFirst_SocketServesAgain: the backend's socket of a connection that is over carries the next, with the
// header first and everything that was set on it.
func TestSpare_ClientEndsFirst_SocketServesAgain(t *testing.T) {
	r := startRig(t, oneLoop)
	var fd int
	for n := range 3 {
		consumer, server := r.pair()
		mustWrite(t, consumer, "request")
		mustRead(t, server, "request")
		mustWrite(t, server, "response")
		mustRead(t, consumer, "response")
		type options struct{ fd, linger, nodelay int }
		seen := make(chan options, 1)
		r.server.loops[0].post(func() {
			var o options
			o.fd = r.server.loops[0].conns[0].ends[backend].fd
			o.linger, _ = unix.GetsockoptInt(o.fd, unix.SOL_SOCKET, unix.SO_LINGER)
			o.nodelay, _ = unix.GetsockoptInt(o.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY)
			seen <- o
		})
		o := <-seen
		if o.linger != 1 || o.nodelay != 1 {
			t.Errorf("connection %d: linger %d, nodelay %d", n, o.linger, o.nodelay)
		}
		if n > 0 && o.fd != fd {
			t.Errorf("connection %d has socket %d, want %d again", n, o.fd, fd)
		}
		fd = o.fd
		r.end(consumer, server, consumer.CloseWrite)
		if list := r.resting(); len(list) != 1 || list[0].fd != fd {
			t.Fatalf("after connection %d there rest %+v, want socket %d", n, list, fd)
		}
		r.resting() // one more turn
	}
}

// TestSpare_SecondConnection_ResetIsPassedOn: what the first connection left in the socket does not turn the end of the
// second into another.
func TestSpare_SecondConnection_ResetIsPassedOn(t *testing.T) {
	for name, byClient := range map[string]bool{"by the client": true, "by the backend": false} {
		t.Run(name, func(t *testing.T) {
			r := startRig(t, oneLoop)
			consumer, server := r.pair()
			r.end(consumer, server, consumer.CloseWrite)
			r.resting()
			consumer, server = r.pair()
			if len(r.resting()) != 0 {
				t.Fatal("the socket was not used again")
			}
			mustWrite(t, consumer, "request")
			mustRead(t, server, "request")
			breaks, hears := consumer, server
			if !byClient {
				breaks, hears = server, consumer
			}
			if err := breaks.SetLinger(0); err != nil {
				t.Fatal(err)
			}
			breaks.Close()
			mustReset(t, hears)
			if len(r.resting()) != 0 {
				t.Error("the socket of a broken connection rests")
			}
		})
	}
}

// TestSpare_NotThrough_SocketIsClosed: a socket that still has something to deliver, or is not like the others, serves once.
func TestSpare_NotThrough_SocketIsClosed(t *testing.T) {
	t.Run("the backend ended first", func(t *testing.T) {
		r := startRig(t, oneLoop)
		consumer, server := r.pair()
		r.end(server, consumer, server.CloseWrite)
		if list := r.resting(); len(list) != 0 {
			t.Errorf("there rest %+v: the end of the stream to the backend is lost", list)
		}
	})
	t.Run("the backend has not read all", func(t *testing.T) {
		r := startRig(t, oneLoop)
		raw, err := r.backend.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		// Before there is a connection: a window that was offered is not taken back.
		if failure := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1) }); failure != nil || err != nil {
			t.Fatal(failure, err)
		}
		consumer, server := r.pair()
		text := strings.Repeat("request", 1000) // more than the backend's window, a small piece to the splice
		mustWrite(t, consumer, text)
		if err := consumer.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := server.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "finished in order", func() bool { return r.server.Stats().Finished == 1 })
		if list := r.resting(); len(list) != 0 {
			t.Errorf("there rest %+v: what the backend has not read is lost", list)
		}
		mustRead(t, server, text)
		mustEOF(t, server)
	})
	t.Run("much data", func(t *testing.T) {
		r := startRig(t, oneLoop)
		consumer, server := r.pair()
		transfer(t, consumer, server, 1<<20)
		r.end(consumer, server, func() error { return nil }) // half closed already
		if list := r.resting(); len(list) != 0 {
			t.Errorf("there rest %+v: its window is not that of a new connection", list)
		}
	})
	t.Run("urgent data", func(t *testing.T) {
		r := startRig(t, oneLoop)
		consumer, server := r.pair()
		mustWriteUrgent(t, server, "!")
		mustRead(t, consumer, "!")
		r.end(consumer, server, consumer.CloseWrite)
		if list := r.resting(); len(list) != 0 {
			t.Errorf("there rest %+v: its urgent data would come as others' does not", list)
		}
	})
}
