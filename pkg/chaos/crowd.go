package chaos

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"syscall"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/lab/load"
)

// The crowd's endpoints may have a quarter of the table's pairs each, as any. The first one's are to be the ones that
// leave.
const (
	crowdEndpoints = 5
	crowdPort      = 9
	crowdShare     = 4 // an endpoint may have one in so many of the table's pairs
)

// rests is how long a pair stands in the table after its end, and early how long before that the last of the crowd comes:
// the kernel counts whole seconds, and its flows have to be opened.
const (
	rests = 15 * time.Second
	early = 2500 * time.Millisecond
)

func crowdEndpoint(i int) string { return fmt.Sprint("crowd", i) }

func crowdIP(i int) string { return fmt.Sprintf("10.0.1.%d", 10+i) }

// gather makes the crowd's service.
func (a *arena) gather(ctx context.Context) error {
	for _, args := range [][]string{
		{"lb", "create", "crowd", "--vnet", "yard", "--subnet", "servers", "--rule", fmt.Sprintf("udp:%d", crowdPort), "--backend", backendIP},
		{"service", "create", "crowd", "--lb", "crowd", "--nat-subnet", "servers", "--nat-ip-count", "8", "--visibility", "*", "--auto-approval", "*"},
	} {
		if _, err := a.daemon.CLI(ctx, args...); err != nil {
			return fmt.Errorf("make the crowd's service: %w", err)
		}
	}
	return nil
}

// uncrowded waits until a crowd that came before is gone.
func (a *arena) uncrowded(ctx context.Context) error { return a.atMost(ctx, tableSizes[0]/4) }

// atMost waits until no more flows than so many are in the table.
func (a *arena) atMost(ctx context.Context, flows int) error {
	return lab.Poll(time.Minute, func() error {
		s, err := a.status(ctx)
		if err == nil && s.Flows > flows {
			err = fmt.Errorf("%d flows are in the table, more than %d", s.Flows, flows)
		}
		return err
	})
}

// tableFull lets a crowd of tenants take every pair of the flow table that is free. To have it full for seconds, not for as
// long as an ended pair rests, a part of the crowd leaves before the last of it comes.
func tableFull(ctx context.Context, a *arena, _ *rand.Rand) error {
	if err := a.uncrowded(ctx); err != nil {
		return err
	}
	for i := range crowdEndpoints {
		if _, err := a.daemon.CLI(ctx, "endpoint", "create", crowdEndpoint(i), "--vnet", "crowd", "--subnet", "default",
			"--ip", crowdIP(i), "--service", a.service("crowd")); err != nil {
			return err
		}
	}
	out := a.crowd.Injector("eth0")
	share := a.flows / crowdShare
	if err := a.flood(out, 0, share); err != nil {
		return err
	}
	leaves := time.Now()
	if _, err := a.daemon.CLI(ctx, "endpoint", "delete", crowdEndpoint(0)); err != nil {
		return err
	}
	// What the traffic itself opens until then has room: a sixteenth, thousands of pairs.
	for i := 1; i < crowdShare; i++ {
		s, err := a.status(ctx)
		if err != nil {
			return err
		}
		if err := a.flood(out, i, min(share, a.flows-a.flows/16-s.Flows)); err != nil {
			return err
		}
	}
	if err := pause(ctx, time.Until(leaves.Add(rests-early))); err != nil {
		return err
	}

	a.window = load.Window{From: a.underWay()}
	if err := a.flood(out, crowdEndpoints-1, share); err != nil {
		return err
	}
	if err := reach(ctx, a.consumers[0], fmt.Sprintf("%s:%d", plainIP, load.PortEcho)); !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("a new connection with the table full: %w", err)
	}
	a.object = fmt.Sprintf("of %d pairs", a.flows)
	// Pairs of the traffic's own return at any time, and are taken again; those who left first make room that lasts.
	if err := errors.Join(a.atMost(ctx, a.flows-share/2), a.answers(ctx, 30*time.Second)); err != nil {
		return err
	}
	a.window.To = time.Now()

	for i := 1; i < crowdEndpoints; i++ {
		if _, err := a.daemon.CLI(ctx, "endpoint", "delete", crowdEndpoint(i)); err != nil {
			return err
		}
	}
	return nil
}

// flood lets the crowd's machine open flows to one of its endpoints: one datagram each.
func (a *arena) flood(out *lab.Injector, endpoint, flows int) error {
	eth := &layers.Ethernet{SrcMAC: a.crowd.MAC("eth0"), DstMAC: a.gw.MAC("crowd"), EthernetType: layers.EthernetTypeIPv4}
	udp := &layers.UDP{SrcPort: 1, DstPort: crowdPort}
	const udpAt, checksumAt, perSource = 34, 34 + 6, 32768
	var frame []byte
	for i := range flows {
		if i%perSource == 0 {
			ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolUDP,
				SrcIP: net.IPv4(10, 0, 128, byte(4+i/perSource)), DstIP: net.ParseIP(crowdIP(endpoint))}
			buffer := gopacket.NewSerializeBuffer()
			err := errors.Join(udp.SetNetworkLayerForChecksum(ip),
				gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, udp))
			if err != nil {
				return fmt.Errorf("make a datagram: %w", err)
			}
			frame = buffer.Bytes()
			binary.BigEndian.PutUint16(frame[checksumAt:], 0) // none
		}
		binary.BigEndian.PutUint16(frame[udpAt:], uint16(1024+i%perSource))
		if err := out.Send(frame); err != nil {
			return err
		}
	}
	return nil
}
