package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
	"github.com/privlink/privlink/pkg/lab"
)

// styled is a service on a frontend of its own, and what its backends read of it.
type styled struct {
	name string
	tlv  api.ProxyTLV // empty: no header
	sum  bool
	ip   string // of its endpoint
}

var allStyles = []styled{
	{"azure", api.ProxyTLVAzure, false, "10.0.1.10"},
	{"aws", api.ProxyTLVAWS, true, "10.0.1.11"},
	{"gcp", api.ProxyTLVGCP, false, "10.0.1.12"},
	{"none", api.ProxyTLVNone, false, "10.0.1.13"},
	{"plain", "", false, "10.0.1.14"},
}

const haproxyOnly = `global
    log stdout format raw local0
defaults
    mode http
    timeout connect 5s
    timeout client 10s
    timeout server 10s
frontend web
    bind 10.0.0.5:8081 accept-proxy
    http-request return status 200 content-type text/plain lf-string "you are %[src]:%[src_port]\n"
frontend ready
    bind 10.0.0.5:8091
    http-request return status 200
`

// TestRun_ProxyStyles_EachServiceHasItsOwn has services in every style and a plain one on five frontends of one load
// balancer, and compares what a backend reads with the bytes written here by hand. haproxy checks the checksum as well.
func TestRun_ProxyStyles_EachServiceHasItsOwn(t *testing.T) {
	l, d := gateway(t)
	provider := l.VM(d.Namespace, "web", "10.0.0.5/16", lab.VethOptions{})
	consumer := l.VM(d.Namespace, "home", "10.0.1.4/16", lab.VethOptions{})
	provider.Haproxy(t.Context(), haproxyOnly, "10.0.0.5:8091")
	backend, err := provider.Listen("tcp4", "10.0.0.5:7009")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	heard := make(chan []byte, 16)
	go func() { // each connection ends with a line; everything up to it
		for {
			c, err := backend.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				all, _ := io.ReadAll(c)
				heard <- all
				_, _ = io.WriteString(c, "heard\n")
			}()
		}
	}()

	must := func(words ...string) string {
		t.Helper()
		out, err := d.CLI(t.Context(), words...)
		if err != nil {
			t.Fatalf("privlink %s: %v", strings.Join(words, " "), err)
		}
		return out
	}
	words := func(text string) []string { return strings.Fields(text) }
	must(words("vnet create datacenter --prefix 10.0.0.0/16 --interface web")...)
	must(words("vnet create home --prefix 10.0.0.0/16 --interface home --subscription consumer")...)
	lb := words("lb create web --vnet datacenter --backend 10.0.0.5")
	for _, s := range allStyles {
		lb = append(lb, "--frontend", s.name, "--rule", s.name+"/tcp:443:7009", "--rule", s.name+"/tcp:8081")
	}
	must(lb...)
	c, err := client.New(client.Options{Socket: d.Socket})
	if err != nil {
		t.Fatal(err)
	}
	links := make(map[string]uint32)
	for _, s := range allStyles {
		var service api.PrivateLinkService
		must(words("service create " + s.name + " --lb web --frontend " + s.name + " --nat-ip-count 1 --visibility * --auto-approval *")...)
		read(t, must("service", "show", s.name, "-o", "json"), &service)
		if s.tlv != "" { // as a user of the API says it
			service.Properties.EnableProxyProtocol = true
			service.Properties.ProxyTLV = api.Set(s.tlv)
			service.Properties.ProxyCRC32C = api.Set(s.sum)
			if _, err := client.Put[api.PrivateLinkService](t.Context(), c, api.IDOf(&service), &service, client.Conditions{}); err != nil {
				t.Fatal(err)
			}
		}
		must(words("endpoint create to-" + s.name + " --vnet home --ip " + s.ip + " --service " + service.Properties.Alias + " --subscription consumer")...)
		read(t, must("service", "show", s.name, "-o", "json"), &service)
		id, err := strconv.ParseUint(service.Properties.PrivateEndpointConnections[0].Properties.LinkIdentifier, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		links[s.name] = uint32(id)
	}

	// Ready, one by one; then all at once.
	for _, s := range allStyles {
		l.Wait("an answer through "+s.name, 20*time.Second, func() error {
			c, err := consumer.Dial(t.Context(), "tcp4", "", s.ip+":443")
			if err != nil {
				return err
			}
			defer c.Close()
			return saidAndHeard(c, "ready "+s.name)
		})
	}
	for len(heard) > 0 {
		<-heard
	}
	open := make(map[string]net.Conn)
	for _, s := range allStyles {
		c, err := consumer.Dial(t.Context(), "tcp4", "", s.ip+":443")
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		defer c.Close()
		open[s.name] = c
	}
	for _, s := range allStyles {
		if err := saidAndHeard(open[s.name], "I am "+s.name); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		want := "I am " + s.name
		if s.tlv != "" {
			want = handMade(open[s.name], s, links[s.name]) + want
		}
		if got := <-heard; string(got) != want {
			t.Errorf("%s: the backend read\n%x, want\n%x", s.name, got, want)
		}
	}

	// haproxy refuses a header whose checksum is wrong, and takes the service's.
	answer, err := consumer.Run(t.Context(), "curl", "-sS", "--max-time", "5", "-w", "%{local_port}", "http://10.0.1.11:8081/")
	if text, port, _ := strings.Cut(answer, "\n"); err != nil || text != "you are 10.0.1.4:"+port {
		t.Errorf("haproxy behind a header with checksum: %q, %v", answer, err)
	}
	for name, wrong := range map[string]byte{"right": 0, "wrong": 1} {
		c, err := provider.Dial(t.Context(), "tcp4", "", "10.0.0.5:8081")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		header := []byte(handMade(c, allStyles[1], 0x20000001))
		header[len(header)-1] ^= wrong
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(append(header, "GET / HTTP/1.0\r\n\r\n"...)); err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(c) // refused: a reset or an end without an answer
		if served := strings.Contains(string(answer), "you are"); served != (wrong == 0) {
			t.Errorf("haproxy, %s checksum: served %v", name, served)
		}
	}
}

// saidAndHeard says a text, ends, and waits for the backend's answer.
func saidAndHeard(c net.Conn, text string) error {
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	answer, err := io.ReadAll(c)
	if err == nil && string(answer) != "heard\n" {
		err = fmt.Errorf("answer %q", answer)
	}
	return err
}

// handMade is the header of a client's connection, written from the specifications and not by pkg/splice/header.
func handMade(c net.Conn, s styled, id uint32) string {
	from, to := c.LocalAddr().(*net.TCPAddr), c.RemoteAddr().(*net.TCPAddr)
	body := string(from.IP.To4()) + string(to.IP.To4()) +
		string([]byte{byte(from.Port >> 8), byte(from.Port), byte(to.Port >> 8), byte(to.Port)})
	switch s.tlv {
	case api.ProxyTLVAzure:
		body += string([]byte{0xee, 0, 5, 1, byte(id), byte(id >> 8), byte(id >> 16), byte(id >> 24)})
	case api.ProxyTLVAWS:
		body += "\xea\x00\x17\x01vpce-" + fmt.Sprintf("%017x", id)
	case api.ProxyTLVGCP:
		body += string([]byte{0xe0, 0, 8, 0, 0, 0, 0, byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)})
	}
	if s.sum {
		body += "\x03\x00\x04\x00\x00\x00\x00"
	}
	header := []byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11" + string([]byte{byte(len(body) >> 8), byte(len(body))}) + body)
	if s.sum {
		binary.BigEndian.PutUint32(header[len(header)-4:], castagnoli(header))
	}
	return string(header)
}

// castagnoli is CRC-32C, bit by bit (RFC 3720, appendix B.4).
func castagnoli(data []byte) uint32 {
	sum := ^uint32(0)
	for _, b := range data {
		sum ^= uint32(b)
		for range 8 {
			low := sum & 1
			sum >>= 1
			if low == 1 {
				sum ^= 0x82f63b78
			}
		}
	}
	return ^sum
}
