package traffic

import (
	"bytes"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

const jumbo = 9000 // bytes of an IP packet

// Single packets of 9,000 bytes are larger than what XDP sees in one piece, which it passes up, and than a page.
func TestJumbo_PacketsLargerThanAPage_CrossWhole(t *testing.T) {
	eachMode(t, func(t *testing.T, o rigOptions) {
		o.wire.MTU = jumbo
		r := newRig(t, o)
		ctx := r.context(30 * time.Second)
		r.backend.EchoServer(backendIP + ":7")
		capture := r.backend.Capture("eth0")
		conn, err := r.consumers[0].Dial(ctx, "udp4", "", endpointIP+":7")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		var count, size uint64
		for _, payload := range []int{100, 3500, 4096, 8000, jumbo - 28} {
			if err := answered(conn, string(bytes.Repeat([]byte{byte(payload)}, payload))); err != nil {
				t.Errorf("a datagram of %d bytes: %v", payload, err)
			}
			count++
			size += uint64(payload + 28)
		}
		var seen, whole uint64
		for _, p := range capture.Stop() {
			if !p.Outgoing && p.Data[12] == 8 && p.Data[13] == 0 {
				seen++
				whole += uint64(len(p.Data) - 14)
			}
		}
		if seen != count || whole != size {
			t.Errorf("the backend got %d packets with %d bytes, want %d with %d", seen, whole, count, size)
		}
		stats, err := r.d.LinkStats()
		if err != nil {
			t.Fatal(err)
		}
		if s := stats[0]; s.PacketsIn != count || s.PacketsOut != count || s.BytesIn != size || s.BytesOut != size || s.Dropped != 0 {
			t.Errorf("counted %+v, want %d packets and %d bytes each way", s, count, size)
		}
		server := r.backend.BulkServer(backendIP + ":9000")
		if _, err := r.consumers[0].Transfer(ctx, "", endpointIP+":9000", lab.Bulk{Put: 16 << 20, Get: 16 << 20, Seed: 9}); err != nil {
			t.Error(err)
		}
		for _, err := range server.Errors() {
			t.Error(err)
		}
	})
}
