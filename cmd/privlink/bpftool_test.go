package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
)

// bpftoolRig is a daemon with connections in every state, two load balancers whose backends are up, down and silent,
// and more flows, in every phase, than one page of the text file takes.
type bpftoolRig struct {
	*lab.Daemon
	lab          *lab.Lab
	t            *testing.T
	disconnected string // LinkID that the connection of endpoint "gone" had
}

// bpftoolFlows are opened at once: their lines fill more than one buffer of an iterator (32 KiB), and they stand
// in more than one of the pieces in which the program walks the table.
const bpftoolFlows = 300

// bpftoolDatabase has a backend whose probe is refused, and one that nothing probes and nobody answers for.
const bpftoolDatabase = `
type: Microsoft.Network/loadBalancers
name: db
location: local
sku: {name: Standard}
properties:
  frontendIPConfigurations: [{name: front, properties: {subnet: {id: virtualNetworks/datacenter/subnets/default}}}]
  backendAddressPools:
  - {name: rows, properties: {loadBalancerBackendAddresses: [{name: a, properties: {ipAddress: 10.0.0.5, virtualNetwork: {id: virtualNetworks/datacenter}}}]}}
  - {name: logs, properties: {loadBalancerBackendAddresses: [{name: b, properties: {ipAddress: 10.0.0.9, virtualNetwork: {id: virtualNetworks/datacenter}}}]}}
  probes: [{name: alive, properties: {protocol: Tcp, port: 5432, intervalInSeconds: 5, probeThreshold: 1}}]
  loadBalancingRules:
  - name: sql
    properties:
      protocol: Tcp
      frontendPort: 5432
      backendPort: 5432
      frontendIPConfiguration: {id: loadBalancers/db/frontendIPConfigurations/front}
      backendAddressPool: {id: loadBalancers/db/backendAddressPools/rows}
      probe: {id: loadBalancers/db/probes/alive}
  - name: log
    properties:
      protocol: Tcp
      frontendPort: 514
      backendPort: 514
      frontendIPConfiguration: {id: loadBalancers/db/frontendIPConfigurations/front}
      backendAddressPool: {id: loadBalancers/db/backendAddressPools/logs}
`

func newBpftoolRig(t *testing.T) *bpftoolRig {
	t.Helper()
	l := lab.New(t)
	gw := l.Namespace("gateway")
	web := l.VM(gw, "web", "10.0.0.4/16", lab.VethOptions{})
	web.Addr("eth0", "10.0.0.5/16")
	home := l.VM(gw, "home", "10.0.1.4/16", lab.VethOptions{})
	config := l.WriteFile("config.yaml", []byte("flows: 2048\n"))
	r := &bpftoolRig{lab: l, t: t, Daemon: gw.Daemon(t.Context(), lab.DaemonOptions{
		Binary: l.Build(t.Context(), "./cmd/privlink"), Args: []string{"--config", config},
	})}
	listen := func(address string) {
		t.Helper()
		listener, err := web.Listen("tcp4", address)
		if err != nil {
			t.Fatal(err)
		}
		l.OnClose(func() { listener.Close() })
	}
	listen(":80")
	web.Sysctl("net.core.somaxconn", "1")
	listen(":81") // takes two connections and is silent then
	web.EchoServer("0.0.0.0:5353")

	r.must("vnet create datacenter --prefix 10.0.0.0/16 --interface web")
	r.must("lb create web --vnet datacenter --rule tcp:80 --rule tcp:81 --rule tcp:82 --rule udp:53:5353 --backend 10.0.0.4 --backend 10.0.0.5")
	if out, err := r.CLIInput(t.Context(), bpftoolDatabase, "apply", "-f", "-"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r.must("service create shop --lb web --nat-ip-count 2 --visibility *")
	r.must("service create data --lb db --nat-ip-count 1 --visibility *")
	r.must("vnet create home --prefix 10.0.0.0/16 --interface home")
	for _, e := range []struct{ name, service, decision string }{
		{"waiting", "shop", ""}, {"first", "shop", "approve"}, {"second", "shop", "approve"}, {"unwanted", "shop", "reject"},
		{"gone", "shop", "approve"}, {"third", "data", "approve"},
	} {
		var service api.PrivateLinkService
		read(t, r.must("service show "+e.service+" -o json"), &service)
		r.must("endpoint create " + e.name + " --vnet home --service " + service.Properties.Alias)
		if e.decision != "" {
			r.must("connection " + e.decision + " --service " + e.service + " --name " + e.name)
		}
	}
	r.disconnected = r.endpoint("gone").LinkIdentifier
	r.must("connection remove --service shop --name gone")

	open := func(network, to string) net.Conn {
		t.Helper()
		c, err := home.Dial(t.Context(), network, "", to)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	first, second := r.endpoint("first").IPAddress, r.endpoint("second").IPAddress
	for i := range bpftoolFlows {
		switch i % 3 {
		case 0:
			open("tcp4", first+":80")
		case 1:
			open("tcp4", second+":80")
		default:
			if _, err := open("udp4", first+":53").Write([]byte("?")); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 3 { // refused: reset
		if c, err := home.Dial(t.Context(), "tcp4", "", first+":82"); err == nil {
			c.Close()
			t.Fatal("port 82 has a listener")
		}
	}
	for range 8 { // some of these are half-open, as nobody takes them
		go func() {
			if c, err := home.Dial(t.Context(), "tcp4", "", first+":81"); err == nil {
				<-t.Context().Done()
				c.Close()
			}
		}()
	}
	return r
}

func (r *bpftoolRig) must(line string) string {
	r.t.Helper()
	out, err := r.CLI(r.t.Context(), strings.Fields(line)...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *bpftoolRig) endpoint(name string) api.PrivateEndpointProperties {
	r.t.Helper()
	var e api.PrivateEndpoint
	read(r.t, r.must("endpoint show "+name+" -o json"), &e)
	return e.Properties
}

// mapElement is one of a map as bpftool prints it where the map has BTF.
type mapElement struct {
	Formatted struct {
		Key    json.RawMessage
		Value  json.RawMessage
		Values []struct{ Value json.RawMessage } // one per CPU
	}
}

// dump calls f for the elements of a pinned map until it says false.
func (r *bpftoolRig) dump(name string, f func(mapElement) bool) {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "bpftool", "-j", "map", "dump", "pinned", filepath.Join(r.BPFFS, "maps", name))
	out, err := cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }() // it may be in the middle
	elements := json.NewDecoder(out)
	if _, err := elements.Token(); err != nil {
		r.t.Fatalf("bpftool map dump of %s: %v", name, err)
	}
	for elements.More() {
		var e mapElement
		if err := elements.Decode(&e); err != nil {
			r.t.Fatalf("bpftool map dump of %s: %v", name, err)
		}
		if !f(e) {
			return
		}
	}
}

// ipOf is the address in a field that has it in network order.
func ipOf(field uint32) string {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], field)
	return netip.AddrFrom4(b).String()
}

func portOf(field uint16) uint16 { return bits.ReverseBytes16(field) }

// Numbers of bpf/types.h: what a reader of bpftool's output sees.
var (
	linkStates    = map[int]api.ConnectionStatus{1: api.Pending, 2: api.Approved, 3: api.Rejected, 4: api.Disconnected}
	backendStates = map[int]api.BackendState{1: api.BackendUp, 2: api.BackendDown, 3: api.BackendUnresolved}
	phaseNames    = map[string]string{"0": "syn", "1": "open", "2": "closing", "3": "reset", "4": "ended"}
	protocols     = map[string]string{"6": "tcp", "17": "udp"}
)

const (
	slotLive  = 2     // of state & 3
	flowInner = 0x200 // second legs and probes, which flow list does not show
)

// links are the connections in the kernel: state by LinkID. Those without one are frontends and the probes' link.
func (r *bpftoolRig) links() map[string]api.ConnectionStatus {
	all := map[string]api.ConnectionStatus{}
	r.dump("links_v1", func(e mapElement) bool {
		var l struct {
			LinkID uint32 `json:"link_id"`
			State  int
		}
		read(r.t, string(e.Formatted.Value), &l)
		if id := strconv.FormatUint(uint64(l.LinkID), 10); l.LinkID != 0 {
			if _, twice := all[id]; twice {
				r.t.Errorf("LinkID %s is there twice", id)
			}
			all[id] = linkStates[l.State]
		}
		return true
	})
	return all
}

func TestBpftool_Maps_AreWhatTheAPISays(t *testing.T) {
	r := newBpftoolRig(t)
	t.Run("links", func(t *testing.T) { r.t = t; r.wantLinks() })
	t.Run("backends", func(t *testing.T) { r.t = t; r.wantBackends() })
	t.Run("flows", func(t *testing.T) { r.t = t; r.wantFlows() })
	t.Run("names", func(t *testing.T) { r.t = t; r.wantNames() })
}

// wantLinks compares LinkIDs and states with connection list; nothing is there but what the API has, and the other way round.
func (r *bpftoolRig) wantLinks() {
	want := map[string]api.ConnectionStatus{r.disconnected: api.Disconnected}
	var connections []api.PrivateEndpointConnection
	read(r.t, r.must("connection list -o json"), &connections)
	states := map[api.ConnectionStatus]bool{api.Disconnected: true}
	for i := range connections {
		status := connectionState(&connections[i]).Status
		want[connections[i].Properties.LinkIdentifier] = status
		states[status] = true
	}
	if len(want) != 6 || len(states) != 4 {
		r.t.Fatalf("the API has %v", want)
	}
	if got := r.links(); !reflect.DeepEqual(got, want) {
		r.t.Errorf("bpftool shows %v\nthe API     %v", got, want)
	}
}

// wantBackends compares the pools: what lb show says of them, and the state of every backend.
func (r *bpftoolRig) wantBackends() {
	want := map[string]bool{} // pools, each as text
	for name, judged := range map[string]map[string]api.BackendState{
		"web": {"10.0.0.4": api.BackendUp, "10.0.0.5": api.BackendUp},
		"db":  {"10.0.0.5": api.BackendDown, "10.0.0.9": api.BackendUnresolved},
	} {
		var lb api.LoadBalancer
		read(r.t, r.must("lb show "+name+" -o json"), &lb)
		states := r.backendStates(api.IDOf(&lb), judged)
		for _, pool := range lb.Properties.BackendAddressPools {
			var members []string
			for _, rule := range lb.Properties.LoadBalancingRules {
				if lastName(rule.Pool()) != pool.Name {
					continue
				}
				for _, b := range pool.Properties.LoadBalancerBackendAddresses {
					members = append(members, fmt.Sprintf("%s:%d %s", b.Properties.IPAddress, rule.Properties.BackendPort, states[rule.Name+" "+b.Properties.IPAddress]))
				}
			}
			want[asSet(members)] = true
		}
	}
	if len(want) != 3 {
		r.t.Fatalf("the API has pools %v", want)
	}
	pools := map[uint32][]string{}
	r.dump("backends_v1", func(e mapElement) bool {
		var b struct {
			Addr  uint32
			Port  uint16
			State int
			Pool  uint32
		}
		if read(r.t, string(e.Formatted.Value), &b); b.State != 0 {
			pools[b.Pool] = append(pools[b.Pool], fmt.Sprintf("%s:%d %s", ipOf(b.Addr), portOf(b.Port), backendStates[b.State]))
		}
		return true
	})
	got := map[string]bool{}
	for _, members := range pools {
		got[asSet(members)] = true
	}
	if !reflect.DeepEqual(got, want) || len(pools) != len(want) {
		r.t.Errorf("bpftool shows %v\nthe API %v", pools, want)
	}
}

// backendStates are the API's, by rule and address, once they are those wanted: probes and ARP take a moment.
func (r *bpftoolRig) backendStates(lb api.ID, want map[string]api.BackendState) map[string]api.BackendState {
	c, err := client.New(client.Options{Socket: r.Socket})
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	states := map[string]api.BackendState{}
	r.lab.Wait("the backends of "+lb.Name+" to be judged", 20*time.Second, func() error {
		health, err := client.List[api.BackendHealth](r.t.Context(), c, client.Path(lb)+"/backendHealth", nil)
		for _, b := range health {
			if states[b.Rule+" "+b.Address] = b.State; b.State != want[b.Address] {
				return fmt.Errorf("%s is %s: %s", b.Address, b.State, b.Reason)
			}
		}
		return err
	})
	return states
}

// asSet is a list sorted and without what is there twice: a rule set of its own has the backends of the frontend, and
// one those of each service.
func asSet(list []string) string {
	slices.Sort(list)
	return strings.Join(slices.Compact(list), ", ")
}

// textFlow is a line of the text file in the words of flow list; its LinkID, phase and slots are in it.
func textFlow(line string) (text string, inner bool, err error) {
	f := map[string]string{}
	for field := range strings.FieldsSeq(line) {
		name, value, _ := strings.Cut(field, "=")
		f[name] = value
	}
	flags, err := strconv.ParseUint(f["flags"], 16, 16)
	return fmt.Sprintf("slot %s, twin %s, %s %s: %s asks %s, %s asks %s, LinkID %s", f["slot"], f["twin"], protocols[f["proto"]], phaseNames[f["phase"]],
		f["client"], f["endpoint"], f["nat"], f["backend"], f["linkid"]), flags&flowInner != 0, err
}

func apiFlow(f *api.Flow) string {
	return fmt.Sprintf("slot %d, twin %d, %s %s: %s asks %s, %s asks %s, LinkID %d", f.Slot, f.TwinSlot, f.Protocol, f.State,
		f.Client, f.Endpoint, f.NAT, f.Backend, f.LinkID)
}

// wantFlows compares the text file with flow list, and looks every slot up that is listed.
func (r *bpftoolRig) wantFlows() {
	var flows []api.Flow
	// Retransmissions and sweeps go on: compared is what did not change while both were read.
	r.lab.Wait("the text file and flow list to be equal", 10*time.Second, func() error {
		read(r.t, r.must("flow list -o json"), &flows)
		file, err := os.ReadFile(filepath.Join(r.BPFFS, "flows"))
		if err != nil {
			return err
		}
		var listed, lines []string
		for i := range flows {
			listed = append(listed, apiFlow(&flows[i]))
		}
		for line := range strings.Lines(string(file)) {
			text, inner, err := textFlow(line)
			if err != nil {
				return fmt.Errorf("line %q: %w", line, err)
			}
			if !inner {
				lines = append(lines, text)
			}
		}
		if !slices.Equal(lines, listed) { // both in the order of slots
			return fmt.Errorf("%d lines, %d flows listed:\n%s\n\n%s", len(lines), len(listed), strings.Join(lines, "\n"), strings.Join(listed, "\n"))
		}
		return nil
	})
	states := map[string]int{}
	for _, f := range flows {
		states[f.Protocol+" "+f.State]++
	}
	if len(flows) < bpftoolFlows || states["tcp open"] == 0 || states["udp open"] == 0 || states["tcp syn"] == 0 || states["tcp reset"] == 0 {
		r.t.Errorf("compared were only %v", states)
	}
	var batch strings.Builder
	for _, f := range flows {
		for _, slot := range []uint32{f.Slot, f.TwinSlot} {
			key := binary.NativeEndian.AppendUint32(nil, slot)
			fmt.Fprintf(&batch, "map lookup pinned %s key %d %d %d %d\n", filepath.Join(r.BPFFS, "maps", "flows_v1"), key[0], key[1], key[2], key[3])
		}
	}
	out, err := exec.CommandContext(r.t.Context(), "bpftool", "-j", "batch", "file", r.lab.WriteFile("lookups", []byte(batch.String()))).Output()
	if err != nil {
		r.t.Fatalf("bpftool batch: %v", err)
	}
	var found []struct{ Output mapElement }
	read(r.t, string(out), &found)
	if len(found) != 2*len(flows) {
		r.t.Fatalf("%d lookups, %d answers", 2*len(flows), len(found))
	}
	for i, f := range flows {
		forward, reverse := r.half(found[2*i].Output), r.half(found[2*i+1].Output)
		if want := fmt.Sprintf("%s>%s, twin %d", f.Client, f.Endpoint, f.TwinSlot); forward != want {
			r.t.Errorf("slot %d is %s, listed is %s", f.Slot, forward, want)
		}
		if want := fmt.Sprintf("%s>%s, twin %d", f.Backend, f.NAT, f.Slot); reverse != want {
			r.t.Errorf("slot %d is %s, listed is %s", f.TwinSlot, reverse, want)
		}
	}
}

// half is the key of a live entry of the flow table, and where its other half is.
func (r *bpftoolRig) half(e mapElement) string {
	var f struct {
		State, Twin uint32
		Key         struct {
			Saddr, Daddr uint32
			Sport, Dport uint16
		}
	}
	if read(r.t, string(e.Formatted.Value), &f); f.State&3 != slotLive {
		return "not live"
	}
	return fmt.Sprintf("%s:%d>%s:%d, twin %d", ipOf(f.Key.Saddr), portOf(f.Key.Sport), ipOf(f.Key.Daddr), portOf(f.Key.Dport), f.Twin)
}

// wantNames wants, of every map that the kernel takes BTF for, an element whose fields have the names that types.h gives them.
func (r *bpftoolRig) wantNames() {
	// A dial entry stands while a connection is being made only: here is one that leads nowhere.
	update := []string{"map", "update", "pinned", filepath.Join(r.BPFFS, "maps", "dials_v1"), "key"}
	update = append(append(append(update, zeros(8)...), "value"), zeros(32)...)
	if out, err := exec.CommandContext(r.t.Context(), "bpftool", update...).CombinedOutput(); err != nil {
		r.t.Fatalf("bpftool map update: %v: %s", err, out)
	}
	specs, err := dataplane.LoadSpecs()
	if err != nil {
		r.t.Fatal(err)
	}
	named := 0
	for name, spec := range specs.TC.Maps {
		if _, err := os.Stat(filepath.Join(r.BPFFS, "maps", name)); err != nil || spec.Value == nil || spec.Type == ebpf.ArrayOfMaps || spec.Type == ebpf.DevMap {
			continue // the object's own sections; and what the kernel takes no BTF for
		}
		named++
		seen := 0
		r.dump(name, func(e mapElement) bool {
			seen++
			value := e.Formatted.Value
			if len(e.Formatted.Values) > 0 {
				value = e.Formatted.Values[0].Value
			}
			for _, part := range []struct {
				what string
				typ  btf.Type
				text json.RawMessage
			}{{"key", spec.Key, e.Formatted.Key}, {"value", spec.Value, value}} {
				if unnamed := unnamedFields(part.typ, part.text, part.what); len(unnamed) > 0 {
					r.t.Errorf("%s: no %v in %s", name, unnamed, part.text)
				}
			}
			return false
		})
		if seen == 0 {
			r.t.Errorf("%s has no element", name)
		}
	}
	if named < 15 {
		r.t.Errorf("only %d maps were looked at", named)
	}
}

func zeros(n int) []string { return slices.Repeat([]string{"0"}, n) }

// unnamedFields are the fields of a type, by their paths, that a value as bpftool prints it has no name for.
func unnamedFields(typ btf.Type, text json.RawMessage, path string) (missing []string) {
	var members []btf.Member
	switch t := btf.UnderlyingType(typ).(type) {
	case *btf.Struct:
		members = t.Members
	case *btf.Union:
		members = t.Members
	default:
		return nil
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(text, &fields) != nil {
		return []string{path}
	}
	for _, m := range members {
		below := path + "." + m.Name
		if value, ok := fields[m.Name]; ok {
			missing = append(missing, unnamedFields(m.Type, value, below)...)
		} else {
			missing = append(missing, below)
		}
	}
	return missing
}
