package splice

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"github.com/privlink/privlink/pkg/splice/header"
)

func parseHeader(b []byte) (*proxyproto.Header, error) {
	return proxyproto.Read(bufio.NewReader(bytes.NewReader(b)))
}

func TestHeader_FirstSegment_IsTheHeaderWhole(t *testing.T) {
	r := startRig(t, nil)
	consumer := r.dial()
	server := r.accept()

	// One Read returns what the first segments brought; the client has said nothing yet.
	first := make([]byte, 4096)
	n, err := server.Read(first)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parseHeader(first[:n])
	if err != nil {
		t.Fatalf("header: %v", err)
	}
	if got := parsed.SourceAddr.String(); got != consumer.LocalAddr().String() {
		t.Errorf("source %s, want the client's %s", got, consumer.LocalAddr())
	}
	if got := parsed.DestinationAddr.String(); got != consumer.RemoteAddr().String() {
		t.Errorf("destination %s, want the endpoint's %s", got, consumer.RemoteAddr())
	}
	tlvs, err := parsed.TLVs()
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := tlvparse.FindAzurePrivateEndpointLinkID(tlvs); !ok || id != 0x20000001 {
		t.Errorf("LinkID %#x, %v", id, ok)
	}
}

func TestHeader_StyleOfTheRule_IsWritten(t *testing.T) {
	r := startRig(t, func(_ *Config, g *fakeGateway) {
		g.identity.Style, g.identity.CRC32C = header.GCP, true
	})
	r.dial()
	tlvs, err := skipHeader(t, r.accept()).TLVs()
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := tlvparse.ExtractPSCConnectionID(tlvs); !ok || id != 0x20000001 {
		t.Errorf("connection id %#x, %v", id, ok)
	}
	if len(tlvs) != 2 || tlvs[1].Type != proxyproto.PP2_TYPE_CRC32C {
		t.Errorf("TLVs %v, want the checksum second", tlvs)
	}
}
