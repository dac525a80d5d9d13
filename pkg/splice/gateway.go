package splice

import (
	"net/netip"
	"time"

	"github.com/privlink/privlink/pkg/splice/header"
	"github.com/privlink/privlink/pkg/splice/inner"
)

// Gateway is what the splice asks of the dataplane. All methods are called from event loops,
// several at once, for every connection: they must not block.
type Gateway interface {
	inner.Door

	// Ready is closed when the gateway can answer. Until then connections wait to be accepted.
	Ready() <-chan struct{}

	// Identify returns whose connection reached the listener: one lookup of the reverse entry
	// {inner VNet, local, peer}. It fails if there is no live entry.
	Identify(local, peer netip.AddrPort) (Identity, error)

	// Targets returns up to limit different backends of the rule that may take a new flow, in
	// the order of its Maglev table, beginning with the place of this client.
	Targets(id *Identity, limit int) []netip.AddrPort

	// Stands says whether the link is what it was when the connection was identified: approved,
	// and not taken back and given again in between.
	Stands(id *Identity) bool

	// Heard returns how long ago, in whole seconds, the far end of a connection of the inner
	// VNet last sent a packet: of the flow whose entry {inner VNet, local, peer} is the splice's
	// half, the other half's stamp. ok is false if there is no live flow.
	Heard(local, peer netip.AddrPort) (age time.Duration, ok bool)
}

// Identity is a consumer's connection as the flow table knows it.
type Identity struct {
	Client   netip.AddrPort // in the consumer's network
	Endpoint netip.AddrPort // the private endpoint and the port asked for
	LinkID   uint32
	// Link, RuleSet and Rule are keys of the dataplane's State.
	Link, RuleSet, Rule string
	// LinkRef is the dataplane's own word for the link and its generation; handed back in
	// inner.Destination, so that a link revoked in between admits nothing.
	LinkRef uint64
	// Style and CRC32C are what the rule's backends want to read.
	Style  header.Style
	CRC32C bool
	// IdleTimeout is the rule's, 10 s .. 86400 s. The flows of a proxied rule need a longer one
	// (IdleMargin more) in the dataplane, as it is the splice that ends them.
	IdleTimeout time.Duration
}

// IdleMargin is how much longer than Identity.IdleTimeout the dataplane keeps both legs of a
// proxied connection, so that the resets at its end still find their flows.
const IdleMargin = 30 * time.Second

func (id *Identity) header() header.Header {
	return header.Header{
		Source: id.Client, Destination: id.Endpoint, LinkID: id.LinkID, Style: id.Style, CRC32C: id.CRC32C,
	}
}
