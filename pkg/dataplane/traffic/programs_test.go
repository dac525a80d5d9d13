package traffic

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
)

// eachMode runs a test with TC alone, with XDP in front of it, and with one side each.
func eachMode(t *testing.T, test func(t *testing.T, o rigOptions)) {
	for name, o := range map[string]rigOptions{
		"tc":                    {},
		"xdp":                   {consumer: dataplane.ModeXDP, provider: dataplane.ModeXDP},
		"consumer xdp":          {consumer: dataplane.ModeXDP},
		"provider xdp":          {provider: dataplane.ModeXDP},
		"xdp on wires":          {consumer: dataplane.ModeXDP, provider: dataplane.ModeXDP, wire: wire()},
		"tc, output completes":  {wire: lab.VethOptions{A: lab.EndOptions{Off: offloads}}},
		"xdp, output completes": {consumer: dataplane.ModeXDP, provider: dataplane.ModeXDP, wire: lab.VethOptions{A: lab.EndOptions{Off: offloads}}},
	} {
		t.Run(name, func(t *testing.T) { test(t, o) })
	}
}

// wire makes a veth look like a cable: complete checksums, no segmentation, and ends that take XDP frames.
func wire() lab.VethOptions {
	return lab.VethOptions{B: lab.EndOptions{Off: offloads, On: []string{"rx-gro"}}}
}

func TestPrograms_WebSecureShellAndNames_WorkThroughTheLink(t *testing.T) {
	eachMode(t, func(t *testing.T, o rigOptions) {
		r := newRig(t, o)
		ctx := r.context(time.Minute)
		web := r.backend.Nginx(ctx, lab.NginxOptions{Listen: []string{backendIP + ":80"}, Files: map[string]string{"index.html": "behind the link\n"}})
		shell := r.backend.Sshd(ctx, backendIP+":22")
		r.backend.Dnsmasq(ctx, backendIP+":53", map[string]string{"db.example": "192.0.2.7"})

		c := r.consumers[0]
		out, err := c.Run(ctx, "curl", "-sS", "--max-time", "5", "http://"+endpointIP+"/")
		if err != nil || out != "behind the link\n" {
			t.Errorf("curl: %q, %v", out, err)
		}
		r.Wait("the web server to log the NAT IP "+natIP, 5*time.Second, func() error {
			if log := web.AccessLog(); len(log) != 1 || !strings.HasPrefix(log[0], natIP+" ") {
				return fmt.Errorf("its log is %q", log)
			}
			return nil
		})
		out, err = c.Run(ctx, "ssh", append(shell.ClientArgs(endpointIP, 22), "echo", "logged", "in")...)
		if err != nil || out != "logged in\n" {
			t.Errorf("ssh: %q, %v", out, err)
		}
		for _, args := range [][]string{{"+notcp"}, {"+tcp"}} {
			out, err = c.Run(ctx, "dig", append(args, "+short", "+time=2", "+tries=1", "@"+endpointIP, "db.example")...)
			if err != nil || out != "192.0.2.7\n" {
				t.Errorf("dig %v: %q, %v", args, out, err)
			}
		}
	})
}

// A DNS answer of more than 4 kB over UDP comes in fragments, behind the service's NAT IP and back.
func TestPrograms_LargeDNSAnswerOverUDP_ArrivesWhole(t *testing.T) {
	eachMode(t, func(t *testing.T, o rigOptions) {
		const texts, size = 24, 200
		r := newRig(t, o)
		ctx := r.context(time.Minute)
		record, want := "--txt-record=large.example", ""
		for i := range texts {
			text := strings.Repeat(string(rune('a'+i)), size)
			record += "," + text
			want += `"` + text + `" `
		}
		r.backend.Dnsmasq(ctx, backendIP+":53", nil, "--edns-packet-max=8192", record)
		capture := r.consumers[0].Capture("eth0")
		out, err := r.consumers[0].Run(ctx, "dig", "+bufsize=8192", "+notcp", "+ignore", "+short", "+time=5", "+tries=1", "@"+endpointIP, "large.example", "TXT")
		if err != nil || strings.TrimSpace(out) != strings.TrimSpace(want) {
			t.Errorf("dig: %d bytes, %v; want %d: %q", len(out), err, len(want), out)
		}
		fragments := 0
		for _, p := range capture.Stop() {
			if !p.Outgoing && len(p.Data) > 34 && p.Data[13] == 0 && binary.BigEndian.Uint16(p.Data[20:])&0x3fff != 0 {
				fragments++
			}
		}
		if fragments < 4 {
			t.Errorf("the answer came in %d fragments, want 4", fragments)
		}
	})
}

func TestPrograms_Iperf3_FinishesBothWays(t *testing.T) {
	eachMode(t, func(t *testing.T, o rigOptions) {
		r := newRig(t, o)
		ctx := r.context(time.Minute)
		r.backend.Iperf3(ctx, backendIP+":5201")
		for _, args := range [][]string{{}, {"--reverse"}, {"--udp", "--bitrate", "50M"}, {"--udp", "--bitrate", "50M", "--reverse"}} {
			args = append([]string{"--client", endpointIP, "--time", "1", "--connect-timeout", "2000"}, args...)
			// The server takes one test at a time, and ends the last one after its client went.
			r.Wait("iperf3 "+strings.Join(args, " "), 20*time.Second, func() error {
				out, err := r.consumers[0].Run(ctx, "iperf3", args...)
				if err != nil && !strings.Contains(err.Error(), "server is busy") {
					t.Errorf("iperf3 %v: %v\n%s", args, err, out)
					return nil
				}
				return err
			})
		}
	})
}
