package load

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

// Options of a client. Zero values are the defaults; negative ones leave a kind of traffic out.
type Options struct {
	Datagram time.Duration // between datagrams: 1 ms
	Steady   time.Duration // between messages on the connection that stays: 10 ms
	Short    time.Duration // between the beginnings of short connections: 20 ms
	Bulk     int           // bytes of a transfer each way: 4 MiB
	Pause    time.Duration // between two transfers: 100 ms
	// PortEcho is where TCP echo is asked for, if not at the port that Serve serves it on.
	PortEcho int
	// Seed of the transfers' contents; one per client.
	Seed uint64
}

// patience is what a connection may stand still before it counts as broken, and settle how long the last
// echoes are waited for. Both are far above what an undisturbed network needs.
const (
	patience = 10 * time.Second
	settle   = 2 * time.Second
)

// Client is one namespace that asks a server behind an address.
type Client struct {
	n      *lab.Namespace
	ip     string
	o      Options
	cancel context.CancelFunc
	wait   sync.WaitGroup
	stream *stream
	lasts  atomic.Bool // the connections that stay are open

	mu     sync.Mutex
	report Report
}

// Start begins to send from the namespace to the address. It ends with Stop, or with ctx, the rest being left alone then.
func Start(ctx context.Context, n *lab.Namespace, ip string, o Options) (*Client, error) {
	defaults := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	defaults(&o.Datagram, time.Millisecond)
	defaults(&o.Steady, 10*time.Millisecond)
	defaults(&o.Short, 20*time.Millisecond)
	defaults(&o.Pause, 100*time.Millisecond)
	if o.Bulk == 0 {
		o.Bulk = 4 << 20
	}
	if o.PortEcho == 0 {
		o.PortEcho = PortEcho
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &Client{n: n, ip: ip, o: o, cancel: cancel}
	if o.Datagram > 0 {
		conn, err := n.Dial(ctx, "udp4", "", fmt.Sprintf("%s:%d", ip, PortDatagrams))
		if err != nil {
			cancel()
			return nil, fmt.Errorf("send datagrams to %s: %w", ip, err)
		}
		if err := enlarge(conn.(syscall.Conn)); err != nil {
			cancel()
			return nil, err
		}
		c.stream = newStream(conn)
		c.wait.Go(func() { c.stream.send(ctx, o.Datagram) })
		go c.stream.receive()
	}
	if o.Steady > 0 {
		c.wait.Go(func() { c.steady(ctx) })
	}
	if o.Short > 0 {
		c.wait.Go(func() { c.shorts(ctx) })
	}
	if o.Bulk > 0 {
		c.wait.Go(func() { c.bulk(ctx) })
	}
	return c, nil
}

// Stop ends all traffic in order and says what became of it.
func (c *Client) Stop() Report {
	c.cancel()
	c.wait.Wait()
	r := c.Report()
	if c.stream != nil {
		r.Packets, r.Lost = c.stream.end()
	}
	return r
}

// Report is what became of the connections so far; datagrams are counted by Stop.
func (c *Client) Report() Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.report
	r.Broken = append([]Broken(nil), r.Broken...)
	return r
}

// Steady says whether the connection that stays, and its silent companion, are open and have been heard.
func (c *Client) Steady() bool { return c.lasts.Load() }

// Known is a time so that every datagram sent until then has come back or is lost for good: what is under
// way now was sent later. A window of a fault begins here.
func (c *Client) Known() time.Time {
	if c.stream == nil {
		return time.Now()
	}
	return c.stream.known()
}

func (c *Client) ended(kind string, from time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Connections++
	if err != nil {
		c.report.Broken = append(c.report.Broken, Broken{from, time.Now(), c.n.String(), kind, err})
	}
}

// say sends a message and wants it back.
func say(conn net.Conn, message []byte) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := conn.Write(message); err != nil {
		return err
	}
	back := make([]byte, len(message))
	if _, err := io.ReadFull(conn, back); err != nil {
		return err
	}
	if !bytes.Equal(message, back) {
		return errors.New("the echo is not what was sent")
	}
	return nil
}

func (c *Client) dial() (net.Conn, error) {
	// Not the client's context: a connection that began is brought to its end.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return c.n.Dial(ctx, "tcp4", "", fmt.Sprintf("%s:%d", c.ip, c.o.PortEcho))
}

// steady keeps one connection busy and another one silent, and opens new ones when they break.
func (c *Client) steady(ctx context.Context) {
	for ctx.Err() == nil {
		from := time.Now()
		silent, err := c.dial()
		if err != nil {
			c.ended("new connection", from, err)
			wait(ctx, c.o.Short)
			continue
		}
		err = say(silent, []byte("before the silence"))
		opened := time.Now()
		c.busy(ctx)
		if err == nil {
			err = say(silent, []byte("after the silence"))
		}
		c.ended("silent connection", opened, err)
		silent.Close()
	}
}

// wait is for an interval, or until ctx ends.
func wait(ctx context.Context, interval time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(max(interval, time.Millisecond)):
	}
}

// busy is over when its connection broke, or with ctx.
func (c *Client) busy(ctx context.Context) {
	from := time.Now()
	conn, err := c.dial()
	if err != nil {
		c.ended("new connection", from, err)
		wait(ctx, c.o.Short)
		return
	}
	defer conn.Close()
	tick := time.NewTicker(c.o.Steady)
	defer tick.Stop()
	message := make([]byte, 1024)
	defer c.lasts.Store(false)
	for number := uint64(0); ; number++ {
		c.lasts.Store(number > 0)
		binary.BigEndian.PutUint64(message, number)
		from = time.Now()
		if err := say(conn, message); err != nil {
			c.ended("busy connection", from, fmt.Errorf("message %d: %w", number, err))
			return
		}
		select {
		case <-ctx.Done():
			c.ended("busy connection", from, nil)
			return
		case <-tick.C:
		}
	}
}

// shorts opens a connection at every tick, says something and closes it.
func (c *Client) shorts(ctx context.Context) {
	tick := time.NewTicker(c.o.Short)
	defer tick.Stop()
	var wait sync.WaitGroup
	defer wait.Wait()
	for {
		wait.Go(func() {
			from := time.Now()
			conn, err := c.dial()
			if err == nil {
				err = say(conn, []byte("a short connection"))
				conn.Close()
			}
			c.ended("short connection", from, err)
		})
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// bulk makes one checked transfer after the other.
func (c *Client) bulk(ctx context.Context) {
	for number := uint64(1); ; number++ {
		from := time.Now()
		limited, cancel := context.WithTimeout(context.Background(), 6*patience)
		_, err := c.n.Transfer(limited, "", fmt.Sprintf("%s:%d", c.ip, PortBulk),
			lab.Bulk{Put: uint64(c.o.Bulk), Get: uint64(c.o.Bulk), Seed: c.o.Seed<<32 + number})
		cancel()
		c.ended("transfer", from, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(c.o.Pause):
		}
	}
}
