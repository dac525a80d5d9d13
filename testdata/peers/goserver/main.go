// Command goserver shows how a Go server behind a private link service with enableProxyProtocol
// learns who calls. It answers each connection with one line, which it logs as well, and closes:
//
//	client 10.0.1.4:50000 endpoint 10.0.1.10:7009 link 536870913
//
// Usage: goserver ADDRESS
package main

import (
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: goserver ADDRESS")
	}
	plain, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	listener := &proxyproto.Listener{
		Listener: plain,
		// A connection without a header is refused, never served as somebody else's.
		ConnPolicy: func(proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) { return proxyproto.REQUIRE, nil },
		// The header comes at once; who is silent for longer is no private link service.
		ReadHeaderTimeout: 3 * time.Second,
	}
	for {
		c, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(c.(*proxyproto.Conn))
	}
}

func serve(c *proxyproto.Conn) {
	defer c.Close()
	header := c.ProxyHeader() // reads it
	if header == nil || header.Command.IsLocal() {
		return // a probe: connected is all it wants to know
	}
	who := fmt.Sprintf("client %v endpoint %v link %d", header.SourceAddr, header.DestinationAddr, linkID(header))
	log.Print(who)
	fmt.Fprintln(c, who)
}

// linkID returns the connection's LinkID, in whichever style the service writes it (proxyTlv); 0 if none.
func linkID(header *proxyproto.Header) uint64 {
	tlvs, err := header.TLVs()
	if err != nil {
		return 0
	}
	if id, ok := tlvparse.FindAzurePrivateEndpointLinkID(tlvs); ok {
		return uint64(id)
	}
	if id, ok := tlvparse.ExtractPSCConnectionID(tlvs); ok {
		return id
	}
	var id uint64
	if _, err := fmt.Sscanf(tlvparse.FindAWSVPCEndpointID(tlvs), "vpce-%x", &id); err != nil {
		return 0
	}
	return id
}
