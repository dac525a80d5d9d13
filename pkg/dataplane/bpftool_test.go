package dataplane

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// bpftool runs it on a pinned map and decodes its JSON.
func bpftool(t *testing.T, to any, args ...string) {
	t.Helper()
	out, err := exec.Command("bpftool", append([]string{"-j"}, args...)...).Output()
	if err != nil {
		t.Fatalf("bpftool %s: %v", strings.Join(args, " "), err)
	}
	if err := json.Unmarshal(out, to); err != nil {
		t.Fatalf("bpftool %s: %v", strings.Join(args, " "), err)
	}
}

func TestBpftool_EveryMap_HasBTF(t *testing.T) {
	g := newGateway(t)
	g.open()
	pins, err := filepath.Glob(filepath.Join(g.bpffs, "maps", "*"))
	if err != nil || len(pins) < 20 {
		t.Fatalf("%d pinned maps, %v", len(pins), err)
	}
	// The kernel takes no BTF for these.
	without := map[string]bool{mapXDPOuts: true, mapMaglev: true, mapEvents: true}
	for _, pin := range pins {
		var info struct {
			BTF  int `json:"btf_id"`
			Name string
		}
		bpftool(t, &info, "map", "show", "pinned", pin)
		if name := filepath.Base(pin); info.Name != name || (info.BTF == 0) != without[name] {
			t.Errorf("%s: %+v", name, info)
		}
	}
}

func TestBpftool_LinksAndBackends_AreNamed(t *testing.T) {
	g, _, _, s := newPair(t)
	g.open()
	g.apply(s)
	var links []struct {
		Formatted struct {
			Value struct {
				LinkID uint32 `json:"link_id"`
				Gen    int
				State  int
			}
		}
	}
	bpftool(t, &links, "map", "dump", "pinned", filepath.Join(g.bpffs, "maps", mapLinks))
	found := 0
	for _, l := range links {
		if l.Formatted.Value.LinkID == 0x01020304 && l.Formatted.Value.State == int(LinkApproved) {
			found++
		}
	}
	if found != 1 {
		t.Errorf("the link is there %d times", found)
	}
	slot := g.d.backends.find(backendIdent(&s.RuleSets[0], &s.RuleSets[0].Rules[0], s.RuleSets[0].Rules[0].Targets[0]))
	var backend struct {
		Formatted struct {
			Value struct {
				Addr  uint32
				Port  uint16
				State int
				Pool  uint32
			}
		}
	}
	bpftool(t, &backend, "map", "lookup", "pinned", filepath.Join(g.bpffs, "maps", mapBackends), "key",
		strconv.Itoa(int(slot&0xff)), strconv.Itoa(int(slot>>8&0xff)), "0", "0")
	if v := backend.Formatted.Value; fromNetOrder(v.Addr).String() != "10.0.1.4" || portOrder(v.Port) != 8080 || v.State != int(bpfBackendStateBACKEND_UP) || v.Pool != g.d.plan.pools["pool"] {
		t.Errorf("backend: %+v", v)
	}
}

func TestIterator_Lines_AreTheFlows(t *testing.T) {
	g, consumer, _, _, _ := opened(t)
	for range 5 {
		c, err := dial(consumer, "10.0.1.10:80")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	want := make(map[string]bool)
	err := g.d.Flows(context.Background(), func(f Flow) bool {
		want[fmt.Sprintf("slot=%d twin=%d client=%s endpoint=%s nat=%s backend=%s linkid=%d", f.Slot, f.Twin, f.Client, f.Endpoint, f.NAT, f.Backend, f.LinkID)] = true
		return true
	})
	if err != nil || len(want) != 6 {
		t.Fatalf("flows: %v, %v", want, err)
	}
	file, err := os.Open(filepath.Join(g.bpffs, "flows"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	count := 0
	for lines.Scan() {
		count++
		f := make(map[string]string)
		for _, field := range strings.Fields(lines.Text()) {
			name, value, _ := strings.Cut(field, "=")
			f[name] = value
		}
		line := fmt.Sprintf("slot=%s twin=%s client=%s endpoint=%s nat=%s backend=%s linkid=%s", f["slot"], f["twin"], f["client"], f["endpoint"], f["nat"], f["backend"], f["linkid"])
		if !want[line] {
			t.Errorf("not in the list: %s", lines.Text())
		}
	}
	if err := lines.Err(); err != nil || count != len(want) {
		t.Errorf("%d lines for %d flows, %v", count, len(want), err)
	}
}
