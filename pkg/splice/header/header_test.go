package header

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
)

// example is the connection whose bytes are documented.
func example(style Style, sum bool) *Header {
	return &Header{
		Source:      netip.MustParseAddrPort("10.1.0.7:50000"),
		Destination: netip.MustParseAddrPort("10.9.0.5:443"),
		LinkID:      536870913,
		Style:       style,
		CRC32C:      sum,
	}
}

func TestAppend_Azure_ExactBytes(t *testing.T) {
	want := strings.ReplaceAll("0d0a0d0a000d0a515549540a21110014 0a0100070a090005c35001bb ee000501 01000020", " ", "")
	if got := hex.EncodeToString(example(Azure, false).Append(nil)); got != want {
		t.Errorf("header\n got %s\nwant %s", got, want)
	}
}

func TestAppend_EveryStyle_GoProxyprotoReadsIt(t *testing.T) {
	for _, style := range []Style{Azure, AWS, GCP, None} {
		for _, sum := range []bool{false, true} {
			sent := example(style, sum)
			b := sent.Append(nil)
			if len(b) > MaxSize {
				t.Errorf("%v: %d bytes, more than MaxSize %d", style, len(b), MaxSize)
			}
			got, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(b)))
			if err != nil {
				t.Errorf("%v, checksum %v: read: %v", style, sum, err)
				continue
			}
			if got.SourceAddr.String() != sent.Source.String() || got.DestinationAddr.String() != sent.Destination.String() {
				t.Errorf("%v: addresses %v -> %v", style, got.SourceAddr, got.DestinationAddr)
			}
			tlvs, err := got.TLVs()
			if err != nil {
				t.Errorf("%v: TLVs: %v", style, err)
			}
			checkLink(t, style, tlvs)
		}
	}
}

// checkLink compares the LinkID as three independent decoders see it.
func checkLink(t *testing.T, style Style, tlvs []proxyproto.TLV) {
	t.Helper()
	azure, isAzure := tlvparse.FindAzurePrivateEndpointLinkID(tlvs)
	aws := tlvparse.FindAWSVPCEndpointID(tlvs)
	gcp, isGCP := tlvparse.ExtractPSCConnectionID(tlvs)
	if isAzure != (style == Azure) || (isAzure && azure != 536870913) {
		t.Errorf("%v: Azure LinkID %d, %v", style, azure, isAzure)
	}
	if want := "vpce-00000000020000001"; (aws != "") != (style == AWS) || (aws != "" && aws != want) {
		t.Errorf("%v: AWS endpoint %q, want %q", style, aws, want)
	}
	if isGCP != (style == GCP) || (isGCP && gcp != 536870913) {
		t.Errorf("%v: GCP connection %d, %v", style, gcp, isGCP)
	}
}

// TestAppend_Checksum_CoversTheHeader compares with a second, table-free CRC32C
// (polynomial 0x82f63b78) over the header with a zero sum.
func TestAppend_Checksum_CoversTheHeader(t *testing.T) {
	b := example(Azure, true).Append(nil)
	sum := bytes.Clone(b[len(b)-4:])
	copy(b[len(b)-4:], []byte{0, 0, 0, 0})
	crc := ^uint32(0)
	for _, octet := range b {
		crc ^= uint32(octet)
		for range 8 {
			crc = crc>>1 ^ 0x82f63b78&-(crc&1)
		}
	}
	crc = ^crc
	if want := []byte{byte(crc >> 24), byte(crc >> 16), byte(crc >> 8), byte(crc)}; !bytes.Equal(sum, want) {
		t.Errorf("checksum %x, want %x", sum, want)
	}
}

func TestLocal_Probe_NoFamilyNoLength(t *testing.T) {
	if got, want := hex.EncodeToString(Local()), "0d0a0d0a000d0a515549540a20000000"; got != want {
		t.Errorf("LOCAL header %s, want %s", got, want)
	}
	got, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(Local())))
	if err != nil || !got.Command.IsLocal() {
		t.Errorf("read: %+v, %v", got, err)
	}
}

func TestParseStyle_Names_RoundTrip(t *testing.T) {
	for _, style := range []Style{Azure, AWS, GCP, None} {
		if got, err := ParseStyle(style.String()); err != nil || got != style {
			t.Errorf("ParseStyle(%q) = %v, %v", style, got, err)
		}
	}
	if got, err := ParseStyle(""); err != nil || got != Azure {
		t.Errorf(`ParseStyle("") = %v, %v, want azure`, got, err)
	}
	if _, err := ParseStyle("gce"); err == nil {
		t.Error("an unknown style was accepted")
	}
}

func TestAppend_Azure_AllocatesNothing(t *testing.T) {
	h, b := example(Azure, false), make([]byte, 0, MaxSize)
	if n := testing.AllocsPerRun(100, func() { b = h.Append(b[:0]) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
