package dataplane

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/cilium/ebpf/features"
	"github.com/privlink/privlink/pkg/lab"
)

// echo serves TCP connections with what they say, until the lab is gone.
func echo(t *testing.T, n *lab.Namespace, address string) {
	t.Helper()
	l, err := n.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c) // ends with the connection, however that ends
			}()
		}
	}()
}

func dial(n *lab.Namespace, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return n.Dial(ctx, "tcp", "", address)
}

// needsHook skips a test on a kernel that is older than TCX.
func needsHook(t *testing.T, hook string) {
	t.Helper()
	if hook != hookTCX {
		return
	}
	version, err := features.LinuxVersionCode()
	if err != nil {
		t.Fatal(err)
	}
	const six6 = 6<<16 | 6<<8
	if version < six6 {
		t.Skipf("TCX is of kernel 6.6, this is %d.%d", version>>16, version>>8&0xff)
	}
}

// say sends a line and wants it back.
func say(c net.Conn, line string) error {
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, line); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, len(line)))
	return err
}

func TestApply_Approved_CarriesTraffic(t *testing.T) {
	for _, hook := range []string{hookTCX, hookClsact} {
		t.Run(hook, func(t *testing.T) {
			needsHook(t, hook)
			g, consumer, provider, s := newPair(t)
			g.edit = func(o *Options) { o.NoTCX = hook == hookClsact }
			g.open()
			echo(t, provider, "10.0.1.4:8080")
			r := g.apply(s)
			for _, a := range r.Attachments {
				if a.Err != nil || a.Hook != hook || a.Mode != ModeTC {
					t.Errorf("attachment: %+v", a)
				}
			}
			c, err := dial(consumer, "10.0.1.10:80")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := say(c, "hello\n"); err != nil {
				t.Fatal(err)
			}
		})
	}
}
