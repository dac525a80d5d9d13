package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/lab"
)

// TestRun_ProxyService_LinkIDIsOneNumber follows the LinkID from the API through the flow list and the kernel's maps, as
// bpftool prints them, to what a Go server decodes, over rejection, approval and restart.
func TestRun_ProxyService_LinkIDIsOneNumber(t *testing.T) {
	l, d := gateway(t)
	provider := l.VM(d.Namespace, "web", "10.0.0.5/16", lab.VethOptions{})
	consumer := l.VM(d.Namespace, "home", "10.0.1.4/16", lab.VethOptions{})
	provider.Start(t.Context(), l.Build(t.Context(), "./testdata/peers/goserver"), "10.0.0.5:7009")
	provider.WaitListening("tcp", 7009)

	must := func(command string) string {
		t.Helper()
		out, err := d.CLI(t.Context(), strings.Fields(command)...)
		if err != nil {
			t.Fatalf("privlink %s: %v", command, err)
		}
		return out
	}
	must("vnet create datacenter --prefix 10.0.0.0/16 --interface web")
	must("lb create web --vnet datacenter --rule tcp:443:7009 --backend 10.0.0.5 --probe tcp:7009")
	must("service create shop --lb web --proxy-protocol --nat-ip-count 1 --visibility *")
	var service api.PrivateLinkService
	read(t, must("service show shop -o json"), &service)
	must("vnet create home --prefix 10.0.0.0/16 --interface home --subscription consumer")
	must("endpoint create to-shop --vnet home --ip 10.0.1.10 --service " + service.Properties.Alias + " --subscription consumer")
	must("connection approve --service shop --name to-shop")

	linkID := func() uint64 {
		t.Helper()
		read(t, must("service show shop -o json"), &service)
		connections := service.Properties.PrivateEndpointConnections
		if len(connections) != 1 {
			t.Fatalf("the service has %d connections, want 1", len(connections))
		}
		var id uint64
		if _, err := fmt.Sscan(connections[0].Properties.LinkIdentifier, &id); err != nil {
			t.Fatalf("linkIdentifier %q: %v", connections[0].Properties.LinkIdentifier, err)
		}
		return id
	}
	want := linkID()
	called := func(when string) {
		t.Helper()
		var answer string
		l.Wait("an answer of the backend "+when, 20*time.Second, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			c, err := consumer.Dial(ctx, "tcp4", "", "10.0.1.10:443")
			if err != nil {
				return err
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
				return err
			}
			bytes, err := io.ReadAll(c)
			answer = string(bytes)
			if err == nil && !strings.HasPrefix(answer, fmt.Sprintf("client %v endpoint 10.0.1.10:443 link ", c.LocalAddr())) {
				err = fmt.Errorf("answer %q", answer)
			}
			return err
		})
		if suffix := fmt.Sprintf(" link %d\n", want); !strings.HasSuffix(answer, suffix) || linkID() != want {
			t.Errorf("%s: the backend says %q, the API %d, want %d", when, answer, linkID(), want)
		}
		var flows []api.Flow
		read(t, must("flow list -o json --client 10.0.1.4"), &flows)
		if len(flows) == 0 {
			t.Fatalf("%s: the flow list has no flow of the client", when)
		}
		for _, f := range flows {
			if tool := toolLink(t, d.BPFFS, f.Slot); uint64(f.LinkID) != want || uint64(tool) != want {
				t.Errorf("%s: the flow list says %d, bpftool %d, want %d", when, f.LinkID, tool, want)
			}
		}
	}
	called("after approval")
	must("connection reject --service shop --name to-shop")
	must("connection approve --service shop --name to-shop")
	called("after rejection and approval")
	if audit := must("flow audit"); audit != "every port and every quota has its flows\n" {
		t.Errorf("audit: %s", audit)
	}
	d.Stop()
	d.Start(t.Context())
	called("after a restart")
}

// toolLink is the LinkID of a flow's link: bpftool prints the flow's entry, which has the link's index, and that.
func toolLink(t *testing.T, bpffs string, slot uint32) uint32 {
	t.Helper()
	var flow struct {
		Rw struct {
			Tag struct {
				Of struct {
					Link uint32 `json:"link"`
				} `json:"of"`
			} `json:"tag"`
		} `json:"rw"`
	}
	element(t, bpffs, "flows_v*", slot, &flow)
	var link struct {
		LinkID uint32 `json:"link_id"`
	}
	element(t, bpffs, "links_v*", flow.Rw.Tag.Of.Link, &link)
	return link.LinkID
}

// element is one of a pinned array, as bpftool formats it.
func element(t *testing.T, bpffs, name string, index uint32, value any) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(bpffs, "maps", name))
	if err != nil || len(found) != 1 {
		t.Fatalf("pinned maps %s: %v, %v", name, found, err)
	}
	args := []string{"-j", "map", "lookup", "pinned", found[0], "key"}
	for _, b := range binary.LittleEndian.AppendUint32(nil, index) {
		args = append(args, strconv.Itoa(int(b)))
	}
	out, err := exec.CommandContext(t.Context(), "bpftool", args...).Output()
	if err != nil {
		t.Fatalf("bpftool %s: %v", strings.Join(args, " "), err)
	}
	printed := struct {
		Formatted struct {
			Value any `json:"value"`
		} `json:"formatted"`
	}{}
	printed.Formatted.Value = value
	read(t, string(out), &printed)
}

// TestRun_Probe_BackendStopsAndReturns follows a probe through the dataplane into lb show and the metrics.
func TestRun_Probe_BackendStopsAndReturns(t *testing.T) {
	l, d := gateway(t)
	provider := l.VM(d.Namespace, "web", "10.0.0.5/16", lab.VethOptions{})
	must := func(command string) string {
		t.Helper()
		out, err := d.CLI(t.Context(), strings.Fields(command)...)
		if err != nil {
			t.Fatalf("privlink %s: %v", command, err)
		}
		return out
	}
	web := provider.Nginx(t.Context(), lab.NginxOptions{Listen: []string{"10.0.0.5:80"}, Files: map[string]string{"health": "well"}})
	must("vnet create datacenter --prefix 10.0.0.0/16 --interface web")
	must("lb create web --vnet datacenter --rule tcp:80 --backend 10.0.0.5 --probe http:80/health")

	shows := func(parts ...string) {
		t.Helper()
		l.Wait("lb show to say "+strings.Join(parts, ", "), 40*time.Second, func() error {
			out, err := d.CLI(t.Context(), "lb", "show", "web")
			if err != nil {
				return err
			}
			for _, part := range parts {
				if !strings.Contains(out, part) {
					return fmt.Errorf("it says\n%s", out)
				}
			}
			return nil
		})
	}
	shows("10.0.0.5", "Up", "status 200")
	web.Stop()
	shows("10.0.0.5", "Down", "connection refused")
	provider.Nginx(t.Context(), lab.NginxOptions{Listen: []string{"10.0.0.5:80"}, Files: map[string]string{"health": "well"}})
	shows("10.0.0.5", "Up", "status 200")
}

func read(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("read %q: %v", text, err)
	}
}
