package traffic

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/privlink/privlink/pkg/lab"
)

func TestFragments_LargeDatagramsBothWays_ArriveWhole(t *testing.T) {
	eachMode(t, func(t *testing.T, o rigOptions) {
		r := newRig(t, o)
		r.backend.EchoServer(backendIP + ":7")
		s := r.consumers[0].Sequence(r.context(20*time.Second), endpointIP+":7", lab.SequenceOptions{Interval: 5 * time.Millisecond, Size: 60000})
		r.Wait("a hundred echoes of 60 kB", 15*time.Second, func() error {
			if s.Len() < 100 {
				return fmt.Errorf("%d echoes of %d sent", s.Len(), len(s.Sent()))
			}
			return nil
		})
	})
}

// Two consumers behind one NAT IP send datagrams in two fragments with equal IP ids, interleaved. The
// backend must see each whole, never one with the other's bytes.
func TestFragments_TwoConsumersEqualIDsInterleaved_NeverMixed(t *testing.T) {
	for _, checksum := range []bool{true, false} {
		t.Run(fmt.Sprintf("checksum %v", checksum), func(t *testing.T) {
			const datagrams, size = 60, 2000
			r := newRig(t, rigOptions{consumers: 2})
			// one backend port each, so that only the address and the id tell their fragments apart
			pc, err := r.backend.ListenPacket("udp4", backendIP+":9")
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			got := map[string]int{}
			done := make(chan struct{})
			go func() {
				defer close(done)
				buffer := make([]byte, 4096)
				for {
					n, _, err := pc.ReadFrom(buffer)
					if err != nil {
						return
					}
					data := buffer[:n]
					mu.Lock()
					if n != size || !bytes.Equal(data, bytes.Repeat(data[:1], n)) {
						t.Errorf("a datagram of %d bytes that begins with %c and ends with %c", n, data[0], data[n-1])
					}
					got[string(data[:1])]++
					mu.Unlock()
				}
			}()
			t.Cleanup(func() { pc.Close(); <-done })
			a := fragments(r, 0, 'A', datagrams, size, checksum)
			b := fragments(r, 1, 'B', datagrams, size, checksum)
			for i := range datagrams {
				// A1 B1 A2 B2
				for part := range 2 {
					if err := r.consumers[0].Inject("eth0", a[i][part]); err != nil {
						t.Fatal(err)
					}
					if err := r.consumers[1].Inject("eth0", b[i][part]); err != nil {
						t.Fatal(err)
					}
				}
			}
			r.Wait("all datagrams", 5*time.Second, func() error {
				mu.Lock()
				defer mu.Unlock()
				if got["A"] != datagrams || got["B"] != datagrams {
					return fmt.Errorf("%v of %d each", got, datagrams)
				}
				return nil
			})
		})
	}
}

// fragments makes UDP datagrams of one repeated byte, each as two frames, with IP ids from 1 on.
func fragments(r *rig, consumer int, fill byte, datagrams, size int, checksum bool) [][2][]byte {
	r.t.Helper()
	c := r.consumers[consumer]
	eth := &layers.Ethernet{SrcMAC: c.MAC("eth0"), DstMAC: r.gw.MAC(fmt.Sprintf("c%d", consumer+1)), EthernetType: layers.EthernetTypeIPv4}
	var all [][2][]byte
	for i := range datagrams {
		ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolUDP, Id: uint16(i + 1),
			SrcIP: net.ParseIP(clientIP).To4(), DstIP: net.ParseIP(endpointIP).To4()}
		udp := &layers.UDP{SrcPort: 5000, DstPort: 9}
		if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
			r.t.Fatal(err)
		}
		payload := bytes.Repeat([]byte{fill}, size)
		whole := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(whole, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, udp, gopacket.Payload(payload)); err != nil {
			r.t.Fatal(err)
		}
		bytesOfUDP := whole.Bytes()
		if !checksum {
			binary.BigEndian.PutUint16(bytesOfUDP[6:], 0)
		}
		const split = 1200
		var parts [2][]byte
		for n, part := range [][]byte{bytesOfUDP[:split], bytesOfUDP[split:]} {
			head := *ip
			if n == 0 {
				head.Flags = layers.IPv4MoreFragments
			} else {
				head.FragOffset = split / 8
			}
			frame := gopacket.NewSerializeBuffer()
			if err := gopacket.SerializeLayers(frame, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, &head, gopacket.Payload(part)); err != nil {
				r.t.Fatal(err)
			}
			parts[n] = bytes.Clone(frame.Bytes())
		}
		all = append(all, parts)
	}
	return all
}
