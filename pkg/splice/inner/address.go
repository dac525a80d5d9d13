package inner

import (
	"net/netip"
)

// ListenPort is the port the splice listens on, at Listen.
const ListenPort = 1

// MaxDialers is how many independent users of dial entries there can be: event loops and the prober.
const MaxDialers = 64

// Prefix is the whole inner VNet: shared address space (RFC 6598), which no tenant sees.
func Prefix() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 10) }

// Locals are the addresses of the daemon's own sockets.
func Locals() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 24) }

// Listen is where the splice listens: the backend of every proxied rule.
func Listen() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, 64, 0, 1}), ListenPort)
}

// DialSource is the source address of the n-th user of dial entries, 0..MaxDialers-1.
func DialSource(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{100, 64, 0, byte(64 + n%MaxDialers)})
}

// Sources are the addresses from which consumers' connections reach the listener: the
// NAT IPs of the inner VNet, in the order in which they fill.
func Sources() []netip.Addr {
	list := make([]netip.Addr, 8)
	for i := range list {
		list[i] = netip.AddrFrom4([4]byte{100, 64, 1, byte(i + 1)})
	}
	return list
}

// far is a made-up address that a socket connects to: the dial entry of its source says
// where it really goes. Different ones keep connections with one source port apart.
func far(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{100, 65, byte(n >> 8), byte(n)})
}
