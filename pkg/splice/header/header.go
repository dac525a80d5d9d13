package header

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
)

// MaxSize is the length of the longest header Append writes, in bytes: addresses,
// the AWS TLV and the checksum TLV.
const MaxSize = fixedSize + addressSize + (tlvSize + 1 + len("vpce-") + 17) + (tlvSize + 4)

const (
	fixedSize   = 16 // signature, version and command, family and protocol, length
	addressSize = 12 // two IPv4 addresses, two ports
	tlvSize     = 3  // type and length of a TLV

	commandLocal = 0x20 // version 2, LOCAL
	commandProxy = 0x21 // version 2, PROXY
	familyTCP4   = 0x11

	typeCRC32C = 0x03
	typeGCP    = 0xE0
	typeAWS    = 0xEA
	typeAzure  = 0xEE

	subtypeAWSEndpoint = 0x01
	subtypeAzureLink   = 0x01
)

const signature = "\r\n\r\n\x00\r\nQUIT\n"

// Style is whose way of writing the LinkID a header follows.
type Style uint8

// Styles.
const (
	Azure Style = iota // type 0xEE: 0x01 and the LinkID, little endian
	AWS                // type 0xEA: 0x01 and "vpce-" with the LinkID in 17 hexadecimal digits
	GCP                // type 0xE0: the LinkID in 8 bytes, big endian
	None               // no TLV
)

var styleNames = [...]string{Azure: "azure", AWS: "aws", GCP: "gcp", None: "none"}

// String returns the style's name as the API spells it.
func (s Style) String() string {
	if int(s) < len(styleNames) {
		return styleNames[s]
	}
	return fmt.Sprintf("style %d", uint8(s))
}

// ParseStyle returns the style of that name; the empty name is Azure.
func ParseStyle(name string) (Style, error) {
	if name == "" {
		return Azure, nil
	}
	for style, known := range styleNames {
		if name == known {
			return Style(style), nil
		}
	}
	return 0, fmt.Errorf("parse TLV style %q: unknown (one of azure, aws, gcp, none)", name)
}

// Header is what a backend is told.
type Header struct {
	Source      netip.AddrPort // the consumer's client, IPv4
	Destination netip.AddrPort // the private endpoint, IPv4
	LinkID      uint32
	Style       Style
	// CRC32C adds the checksum TLV (section 2.2.4 of the specification).
	CRC32C bool
}

// Append adds the header's bytes to b and returns the longer slice. Both addresses must be IPv4.
func (h *Header) Append(b []byte) []byte {
	start := len(b)
	b = append(b, signature...)
	b = append(b, commandProxy, familyTCP4, 0, 0)

	source, destination := h.Source.Addr().As4(), h.Destination.Addr().As4()
	b = append(b, source[:]...)
	b = append(b, destination[:]...)
	b = binary.BigEndian.AppendUint16(b, h.Source.Port())
	b = binary.BigEndian.AppendUint16(b, h.Destination.Port())
	b = h.appendLink(b)
	if h.CRC32C {
		b = append(b, typeCRC32C, 0, 4, 0, 0, 0, 0)
	}

	whole := b[start:]
	binary.BigEndian.PutUint16(whole[14:], uint16(len(whole)-fixedSize))
	if h.CRC32C {
		// The sum is taken over the whole header with the sum's own field zero.
		sum := crc32.Checksum(whole, crc32.MakeTable(crc32.Castagnoli))
		binary.BigEndian.PutUint32(whole[len(whole)-4:], sum)
	}
	return b
}

// appendLink adds the TLV with the LinkID.
func (h *Header) appendLink(b []byte) []byte {
	switch h.Style {
	case Azure:
		b = append(b, typeAzure, 0, 5, subtypeAzureLink)
		b = binary.LittleEndian.AppendUint32(b, h.LinkID)
	case AWS:
		b = append(b, typeAWS, 0, byte(1+len("vpce-")+17), subtypeAWSEndpoint)
		b = fmt.Appendf(b, "vpce-%017x", h.LinkID)
	case GCP:
		b = append(b, typeGCP, 0, 8)
		b = binary.BigEndian.AppendUint64(b, uint64(h.LinkID))
	case None:
	}
	return b
}

// Local is the header of a probe: command LOCAL, family 0, no addresses. Exactly
// this form is accepted by haproxy, nginx and Go servers of all versions tried;
// LOCAL with addresses is not.
func Local() []byte {
	return append([]byte(signature), commandLocal, 0, 0, 0)
}
