package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"github.com/privlink/privlink/pkg/dataplane"
)

var headerCases = []namedCase{
	{"header, TLV style azure, decoded by go-proxyproto", func(ctx context.Context, s *suite) (string, error) { return s.header(ctx, "azure") }},
	{"header, TLV style aws with CRC32C", func(ctx context.Context, s *suite) (string, error) { return s.header(ctx, "aws") }},
	{"header, TLV style gcp", func(ctx context.Context, s *suite) (string, error) { return s.header(ctx, "gcp") }},
	{"header, no TLV", func(ctx context.Context, s *suite) (string, error) { return s.header(ctx, "none") }},
	{"LinkID is one number: State, flow list, bpftool, backend", oneNumber},
	{"two identical consumers at once, told apart, bytes to and from the right one", identical},
	{"two identical consumers in the backend's log", identicalLogged},
	{"two PROXY services and a plain one on one provider at once", threeServices},
	{"UDP rule of a PROXY service passes as a plain flow", udpPasses},
}

// pairOf connects a client of a consumer with the case's backend.
func (s *suite) pairOf(ctx context.Context, consumer int, name string) (*net.TCPConn, arrival, error) {
	client, err := s.dial(ctx, consumer, "", name, portPair)
	if err != nil {
		return nil, arrival{}, err
	}
	server, err := take(ctx, s.servers.pair)
	if err != nil {
		client.Close()
		return nil, arrival{}, err
	}
	return client, server, nil
}

// header compares what a backend reads with what is true.
func (s *suite) header(ctx context.Context, name string) (string, error) {
	client, server, err := s.pairOf(ctx, 0, name)
	if err != nil {
		return "", err
	}
	defer client.Close()
	defer server.Close()
	if err := checkHeader(server.header, client, name, linkID(0, name)); err != nil {
		return "", err
	}
	if peer := server.RemoteAddr().(*net.TCPAddr).IP.String(); peer != nat(name) {
		return "", fmt.Errorf("the backend's peer is %s, want the NAT IP %s", peer, nat(name))
	}
	return fmt.Sprintf("LinkID %d, peer %v", linkID(0, name), server.RemoteAddr()), nil
}

func checkHeader(h *proxyproto.Header, client net.Conn, name string, want uint32) error {
	if h.SourceAddr.String() != client.LocalAddr().String() || h.DestinationAddr.String() != client.RemoteAddr().String() {
		return fmt.Errorf("header says %v -> %v, the client is %v -> %v", h.SourceAddr, h.DestinationAddr, client.LocalAddr(), client.RemoteAddr())
	}
	id, err := decodedLink(h, name)
	if err != nil {
		return err
	}
	if name != "none" && id != uint64(want) {
		return fmt.Errorf("LinkID %d, want %d", id, want)
	}
	return nil
}

// decodedLink is the LinkID as the style's decoder sees it.
func decodedLink(h *proxyproto.Header, name string) (uint64, error) {
	tlvs, err := h.TLVs()
	if err != nil {
		return 0, err
	}
	switch name {
	case "azure":
		id, ok := tlvparse.FindAzurePrivateEndpointLinkID(tlvs)
		if !ok {
			return 0, errors.New("no Azure TLV")
		}
		return uint64(id), nil
	case "aws":
		text, ok := strings.CutPrefix(tlvparse.FindAWSVPCEndpointID(tlvs), "vpce-")
		var id uint64
		if _, err := fmt.Sscanf(text, "%x", &id); !ok || len(text) != 17 || err != nil {
			return 0, fmt.Errorf("AWS endpoint %q", text)
		}
		if len(tlvs) != 2 || tlvs[1].Type != proxyproto.PP2_TYPE_CRC32C {
			return 0, errors.New("no CRC32C TLV")
		}
		return id, nil
	case "gcp":
		id, ok := tlvparse.ExtractPSCConnectionID(tlvs)
		if !ok {
			return 0, errors.New("no GCP TLV")
		}
		return id, nil
	}
	if len(tlvs) != 0 {
		return 0, fmt.Errorf("unexpected TLVs %v", tlvs)
	}
	return 0, nil
}

// oneNumber compares the LinkID in every place where it can be read, before and after a rejection.
func oneNumber(ctx context.Context, s *suite) (string, error) {
	want := linkID(0, "azure")
	for _, step := range []string{"approved", "rejected and approved again"} {
		client, server, err := s.pairOf(ctx, 0, "azure")
		if err != nil {
			return "", fmt.Errorf("%s: %w", step, err)
		}
		defer client.Close()
		defer server.Close()
		decoded, err := decodedLink(server.header, "azure")
		if err != nil {
			return "", err
		}
		flow, err := s.listed(client)
		if err != nil {
			return "", err
		}
		tool, err := s.bpftoolLink(ctx, flow.Slot)
		if err != nil {
			return "", err
		}
		if decoded != uint64(want) || flow.LinkID != want || tool != want {
			return "", fmt.Errorf("%s: header %d, flow list %d, bpftool %d, want %d", step, decoded, flow.LinkID, tool, want)
		}
		if step == "approved" {
			if err := s.reject(0, "azure"); err != nil {
				return "", err
			}
			if err := s.apply(s.newState()); err != nil {
				return "", err
			}
		}
	}
	return fmt.Sprint(want), nil
}

// reject takes back an approval; another epoch makes the approval after it a new one.
func (s *suite) reject(consumer int, name string) error {
	return s.change(func(state *dataplane.State) {
		for i := range state.Links {
			if state.Links[i].Key == linkKey(consumer, name) {
				state.Links[i].State = dataplane.LinkRejected
			}
		}
	})
}

// listed is a client's connection in the flow list.
func (s *suite) listed(client net.Conn) (dataplane.Flow, error) {
	var flows []dataplane.Flow
	if err := s.calls.Call("Gateway.Flows", Empty{}, &flows); err != nil {
		return dataplane.Flow{}, err
	}
	for _, f := range flows {
		if f.Client.String() == client.LocalAddr().String() && f.Endpoint.String() == client.RemoteAddr().String() {
			return f, nil
		}
	}
	return dataplane.Flow{}, fmt.Errorf("%v is not in the flow list of %d", client.LocalAddr(), len(flows))
}

// bpftoolLink follows a flow's entry to its link's, as bpftool prints them, and returns the LinkID.
func (s *suite) bpftoolLink(ctx context.Context, slot uint32) (uint32, error) {
	var flow struct {
		Rw struct {
			Tag struct {
				Of struct {
					Link uint32 `json:"link"`
				} `json:"of"`
			} `json:"tag"`
		} `json:"rw"`
	}
	if err := s.bpftool(ctx, "flows_v*", slot, &flow); err != nil {
		return 0, err
	}
	var link struct {
		LinkID uint32 `json:"link_id"`
	}
	err := s.bpftool(ctx, "links_v*", flow.Rw.Tag.Of.Link, &link)
	return link.LinkID, err
}

// bpftool looks up an element of a pinned array.
func (s *suite) bpftool(ctx context.Context, name string, slot uint32, value any) error {
	found, err := filepath.Glob(filepath.Join(s.setup.BPFFS, "maps", name))
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("pinned maps %s in %s: %v", name, s.setup.BPFFS, found)
	}
	args := []string{"-j", "map", "lookup", "pinned", found[0], "key"}
	for shift := range 4 {
		args = append(args, fmt.Sprint(slot>>(8*shift)&0xff))
	}
	out, err := exec.CommandContext(ctx, "bpftool", args...).Output()
	if err != nil {
		return fmt.Errorf("bpftool %s: %w", strings.Join(args, " "), err)
	}
	element := struct {
		Formatted struct {
			Value any `json:"value"`
		} `json:"formatted"`
	}{}
	element.Formatted.Value = value
	if err := json.Unmarshal(out, &element); err != nil {
		return fmt.Errorf("read bpftool's output: %w", err)
	}
	return nil
}

// identical uses the same client address and port in both consumers at the same time.
func identical(ctx context.Context, s *suite) (string, error) {
	const local = clientIP + ":41000"
	type end struct {
		client *net.TCPConn
		server arrival
	}
	byLink := make(map[uint64]end)
	for consumer := range 2 {
		client, err := s.dial(ctx, consumer, local, "azure", portPair)
		if err != nil {
			return "", err
		}
		defer client.Close()
		server, err := take(ctx, s.servers.pair)
		if err != nil {
			return "", err
		}
		defer server.Close()
		if err := checkHeader(server.header, client, "azure", linkID(consumer, "azure")); err != nil {
			return "", err
		}
		byLink[uint64(linkID(consumer, "azure"))] = end{client, server}
	}
	if len(byLink) != 2 {
		return "", errors.New("one LinkID for both")
	}
	done := make(chan error, 2*len(byLink))
	for id, e := range byLink {
		for name, way := range map[string]struct {
			from io.Writer
			to   io.Reader
		}{"for": {e.server, e.client}, "by": {e.client, e.server}} {
			go func() {
				own := strings.Repeat(fmt.Sprintf("%s link %d only. ", name, id), 200000)
				go func() { _, _ = io.WriteString(way.from, own) }()
				got := make([]byte, len(own))
				if _, err := io.ReadFull(way.to, got); err != nil {
					done <- err
				} else if string(got) != own {
					done <- fmt.Errorf("what was sent %s link %d arrived elsewhere", name, id)
				} else {
					done <- nil
				}
			}()
		}
	}
	for range 2 * len(byLink) {
		if err := <-done; err != nil {
			return "", err
		}
	}
	return "both from " + local, nil
}

// identicalLogged has both ask the Go server from one address and port.
func identicalLogged(ctx context.Context, s *suite) (string, error) {
	const local = clientIP + ":41001"
	var clients []net.Conn
	for consumer := range 2 {
		c, err := s.dial(ctx, consumer, local, "azure", portGo)
		if err != nil {
			return "", err
		}
		defer c.Close()
		clients = append(clients, c)
	}
	for consumer, c := range clients {
		line := fmt.Sprintf("client %s endpoint %s:%d link %d\n", local, endpoint("azure"), portGo, linkID(consumer, "azure"))
		if err := expect(c, line); err != nil {
			return "", err
		}
		if err := s.servers.logged(s.servers.goserver.Output, strings.TrimSpace(line)); err != nil {
			return "", err
		}
	}
	return "both from " + local, nil
}

func threeServices(ctx context.Context, s *suite) (string, error) {
	for _, name := range []string{"azure", "gcp"} {
		client, server, err := s.pairOf(ctx, 0, name)
		if err != nil {
			return "", err
		}
		defer client.Close()
		defer server.Close()
		if err := checkHeader(server.header, client, name, linkID(0, name)); err != nil {
			return "", err
		}
	}
	client, err := s.dial(ctx, 0, "", "plain", portPlainEcho)
	if err != nil {
		return "", err
	}
	defer client.Close()
	return "", echoed(client, "no header here")
}

// echoed sends a text and expects it back.
func echoed(c net.Conn, text string) error {
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return fmt.Errorf("echo: %w", err)
	}
	if string(got) != text {
		return fmt.Errorf("echo %q, want %q", got, text)
	}
	return nil
}

func udpPasses(ctx context.Context, s *suite) (string, error) {
	c, err := s.consumers[0].Dial(ctx, "udp4", "", fmt.Sprintf("%s:%d", endpoint("azure"), portUDP))
	if err != nil {
		return "", err
	}
	defer c.Close()
	return "", retryDatagram(c, "datagram of more than the forty bytes that sequences begin with")
}
