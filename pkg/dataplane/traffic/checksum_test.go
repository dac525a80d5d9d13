package traffic

import (
	"encoding/binary"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/privlink/privlink/pkg/lab"
)

// kind is a packet that privlink builds or translates, as its receiver sees it.
type kind struct {
	name string
	is   func(gopacket.Packet) bool
}

// A reset of privlink's has no options; those that come through from a kernel have none either.
var resets = kind{"RST", func(p gopacket.Packet) bool {
	tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
	return ok && tcp.RST
}}

// A nudge is an ACK without the timestamps that the VMs' kernels agree on.
var nudges = kind{"nudge", func(p gopacket.Packet) bool {
	tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
	return ok && tcp.ACK && !tcp.SYN && !tcp.RST && tcp.DataOffset == 5 && len(tcp.Payload) == 0
}}

func icmpOf(typ uint8) kind {
	return kind{"ICMP " + layers.CreateICMPv4TypeCode(typ, 0).String(), func(p gopacket.Packet) bool {
		icmp, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
		return ok && icmp.TypeCode.Type() == typ
	}}
}

// watched are the packets that both VMs get, until stop.
type watched struct {
	r                  *rig
	consumer, provider *lab.Capture
}

// watch captures what the first consumer and the backend see.
func watch(r *rig) watched {
	return watched{r, r.consumers[0].Capture("eth0"), r.backend.Capture("eth0")}
}

// stop checks the checksums of everything that arrived. What each side must have got is named; where checksums are to be
// complete, one of every kind named must have been checked.
func (w watched) stop(consumer, provider []kind) (atConsumer, atProvider []lab.Packet) {
	w.r.t.Helper()
	atConsumer, atProvider = w.consumer.Stop(), w.provider.Stop()
	checksums(w.r.t, "consumer", atConsumer, completes(w.r.o.wire), consumer)
	checksums(w.r.t, "provider", atProvider, completes(*w.r.o.providerWire), provider)
	return atConsumer, atProvider
}

// completes says whether packets reach the VM with complete checksums, as over a cable: because the VMs send them so, or
// because the gateway's interface does not take partial ones.
func completes(o lab.VethOptions) bool { return len(o.A.Off)+len(o.B.Off) > 0 }

// checksums checks those of every IPv4 packet that arrived, its own and those inside of what an ICMP error quotes. A packet that
// a VM's kernel left for a device to complete has none yet, nor has one that GRO put together: they are passed over. If the
// wire completes them, some of each kind must be left.
func checksums(t *testing.T, who string, packets []lab.Packet, complete bool, kinds []kind) {
	t.Helper()
	checked, found := 0, make([]int, len(kinds))
	for _, p := range packets {
		if p.Outgoing || p.Partial {
			continue
		}
		packet := gopacket.NewPacket(p.Data, layers.LayerTypeEthernet, gopacket.NoCopy)
		ip, ok := packet.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
		if !ok || ip.Flags&layers.IPv4MoreFragments != 0 || ip.FragOffset != 0 {
			continue
		}
		verify(t, who, packet)
		if icmp, ok := packet.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok && isError(icmp) {
			verifyQuote(t, who, icmp.Payload, complete)
		}
		checked++
		for i, k := range kinds {
			if k.is(packet) {
				found[i]++
			}
		}
	}
	for i, k := range kinds {
		if complete && found[i] == 0 {
			t.Errorf("%s: no %s among the %d packets of %d whose checksums could be checked", who, k.name, checked, len(packets))
		}
	}
}

func isError(icmp *layers.ICMPv4) bool {
	typ := icmp.TypeCode.Type()
	return typ == layers.ICMPv4TypeDestinationUnreachable || typ == layers.ICMPv4TypeTimeExceeded || typ == layers.ICMPv4TypeParameterProblem
}

// verify checks the checksums of a whole packet.
func verify(t *testing.T, who string, packet gopacket.Packet) {
	t.Helper()
	if l4, ok := packet.TransportLayer().(interface {
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}); ok {
		if err := l4.SetNetworkLayerForChecksum(packet.NetworkLayer()); err != nil {
			t.Fatal(err)
		}
	}
	if err, wrong := packet.VerifyChecksums(); err != nil || len(wrong) > 0 {
		t.Errorf("%s: checksums of %v: %v, %v", who, packet, wrong, err)
	}
}

// verifyQuote checks the IP header that an ICMP error quotes, and the rest where all of it is there and was ever complete.
func verifyQuote(t *testing.T, who string, quote []byte, complete bool) {
	t.Helper()
	if len(quote) < 28 || len(quote) < int(quote[0]&15)*4+8 {
		t.Errorf("%s: an ICMP error quotes %d bytes", who, len(quote))
		return
	}
	sum := uint32(0)
	for i := 0; i < int(quote[0]&15)*4; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(quote[i:]))
	}
	if sum = sum>>16 + sum&0xffff; sum != 0xffff {
		t.Errorf("%s: IP header quoted by an ICMP error sums to %#x: %x", who, sum, quote)
	}
	if total := int(binary.BigEndian.Uint16(quote[2:])); complete && total <= len(quote) {
		verify(t, who, gopacket.NewPacket(quote[:total], layers.LayerTypeIPv4, gopacket.NoCopy))
	}
}
