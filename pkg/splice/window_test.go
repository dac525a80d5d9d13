package splice

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// owned are the bytes of data that the sockets of a splice's connections hold: what was read from neither.
func (r *rig) owned() (sum int) {
	r.t.Helper()
	done := make(chan int, len(r.server.loops))
	for _, l := range r.server.loops {
		l.post(func() {
			n := 0
			for _, c := range l.conns {
				for which := range c.ends {
					if queued, err := unix.IoctlGetInt(c.ends[which].fd, unix.TIOCINQ); err == nil {
						n += queued
					}
				}
			}
			done <- n
		})
	}
	for range r.server.loops {
		sum += <-done
	}
	return sum
}

// flood writes until nothing is taken for a while.
func flood(t *testing.T, server *net.TCPConn) (written int) {
	t.Helper()
	piece := make([]byte, 1<<20)
	for {
		if err := server.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, err := server.Write(piece)
		written += n
		if isTimeout(err) {
			return written
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A consumer that asks for much and reads nothing holds what the first window holds, with a pipe and without.
func TestWindow_NothingIsTaken_StaysSmall(t *testing.T) {
	for name, pipes := range map[string]int64{"pipes": 1000, "no pipes": 0} {
		t.Run(name, func(t *testing.T) {
			r := startRig(t, nil)
			r.server.pipes.Store(pipes)
			client, server := r.pair()
			if err := client.SetReadBuffer(32 << 10); err != nil {
				t.Fatal(err)
			}
			flood(t, server)
			// The kernel counts what a packet takes, twice the window at most.
			if n := r.owned(); n == 0 || n > 2*firstWindow {
				t.Errorf("%d bytes wait in the splice's sockets, the first window has %d", n, firstWindow)
			}
		})
	}
}

// The more is taken, the more may be under way, up to the link's share of all.
func TestWindow_MuchIsTaken_Grows(t *testing.T) {
	for name, before := range map[string]int64{"room": 0, "the link's share is taken": linkWindows} {
		t.Run(name, func(t *testing.T) {
			r := startRig(t, nil)
			consumer, server := r.pair()
			loop, c := r.first()
			c.share.windows.Add(before)
			transfer(t, server, consumer, 64<<20)
			var window, room, unsent int
			done := make(chan struct{})
			loop.post(func() {
				defer close(done)
				window = c.streams[backend].window
				room, _ = unix.GetsockoptInt(c.ends[client].fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
				unsent, _ = unix.GetsockoptInt(c.ends[client].fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)
			})
			<-done
			if room != window || unsent != unsentSize {
				t.Errorf("the sink has room for %d bytes, %d of them unsent, want %d and %d", room, unsent, window, unsentSize)
			}
			if want := map[bool]int{true: maxWindow, false: firstWindow}[before == 0]; window != want {
				t.Errorf("the window is %d, want %d", window, want)
			}
			share := c.share
			consumer.Close()
			server.Close()
			eventually(t, "the end", func() bool { return r.server.Stats().Active == 0 })
			if n, all := share.windows.Load()-before, r.server.occupancy.windows.Load(); n != 0 || all != 0 {
				t.Errorf("after the end the link has %d bytes of windows, all have %d", n, all)
			}
		})
	}
}

// first is a connection, with its loop.
func (r *rig) first() (*loop, *conn) {
	r.t.Helper()
	type found struct {
		l *loop
		c *conn
	}
	all := make(chan *found, len(r.server.loops))
	for _, l := range r.server.loops {
		l.post(func() {
			if len(l.conns) > 0 {
				all <- &found{l, l.conns[0]}
				return
			}
			all <- nil
		})
	}
	var one *found
	for range r.server.loops {
		if f := <-all; f != nil {
			one = f
		}
	}
	if one == nil {
		r.t.Fatal("there is no connection")
	}
	return one.l, one.c
}

// A link whose consumers read nothing holds its part of the pipes, not those of others.
func TestPipes_LinkReadsNothing_OthersHaveTheirs(t *testing.T) {
	const pipes = 8
	r := startRig(t, nil)
	r.server.pipes.Store(pipes)
	r.server.occupancy.maxHeld = pipes / heldShare
	for range pipes {
		client, server := r.pair()
		if err := client.SetReadBuffer(32 << 10); err != nil {
			t.Fatal(err)
		}
		flood(t, server)
	}
	_, c := r.first()
	if held := c.share.held.Load(); held == 0 || held > pipes/heldShare {
		t.Errorf("stuck streams hold %d pipes, at most %d", held, pipes/heldShare)
	}
}
