package control

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/dataplane"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// operator may do everything, as root on the socket.
func (w *world) operate(name, format string, args ...any) {
	w.Helper()
	at := id(name)
	_, err := w.Put(w.Context(), operator(), at, doc(api.Kind(at.Type), format, args...), Conditions{})
	if err != nil {
		w.Fatal(err)
	}
	w.sync()
}

func TestCompile_WholeWorld(t *testing.T) {
	w := newWorld(t)
	service := w.provide(open + `,'idleTimeoutInSeconds':60,'maxFlowsPerEndpoint':7`)
	w.consume()
	w.put(theEndpoint, "%s", endpointDoc(service.Properties.Alias, ""))
	w.operate(theNetwork, `{'properties':{'addressSpace':{'addressPrefixes':['10.0.0.0/16']},'subnets':[
		{'name':'vms','properties':{'addressPrefix':'10.0.1.0/24'}},{'name':'nat','properties':{'addressPrefix':'10.0.2.0/24'}}],
		'attachments':[{'interface':'eth1','vlan':7,'mode':'xdp','passOther':true,'nextHop':'10.0.1.1','answerGateway':true}]}}`)
	dc, home := id(theNetwork).Key(), id(theConsumer).Key()
	frontend := id("p:loadBalancers/lb/frontendIPConfigurations/fe").Key()
	web := id(theService).Key()
	rule := id("p:loadBalancers/lb/loadBalancingRules/http").Key()
	targets := []dataplane.Target{{Pool: id("p:loadBalancers/lb/backendAddressPools/pool").Key(), Addr: addr("10.0.1.9"), Weight: 1, Healthy: true}}
	want := dataplane.State{
		Revision: w.Revision(),
		Networks: []dataplane.Network{
			{Key: home, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24")}},
			{Key: dc, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("10.0.2.0/24")},
				Attachments: []dataplane.Attachment{{Interface: "eth1", VLAN: 7, Mode: dataplane.ModeXDP, PassOther: true, NextHop: addr("10.0.1.1")}},
				Gateways:    []netip.Addr{addr("10.0.1.1"), addr("10.0.2.1")}, Reserved: []netip.Addr{addr("10.0.1.9")}},
		},
		RuleSets: []dataplane.RuleSet{
			{Key: frontend, Network: dc, Sources: []dataplane.Source{{Addr: addr("10.0.1.4"), Frontend: true}}, Rules: []dataplane.Rule{
				{Key: frontend + "|" + rule, Protocol: dataplane.ProtocolTCP, Port: 80, BackendPort: 8080, IdleTCP: 300, IdleUDP: 300, Targets: targets}}},
			{Key: web, Network: dc, Sources: []dataplane.Source{{Addr: addr("10.0.2.4")}}, Rules: []dataplane.Rule{
				{Key: web + "|" + rule, Protocol: dataplane.ProtocolTCP, Port: 80, BackendPort: 8080, IdleTCP: 60, IdleUDP: 60, Targets: targets, ProxyTLV: "azure"}}},
		},
		Links: []dataplane.Link{
			{Key: id(theEndpoint).Key(), ID: 0x20000001, Network: home, Addr: addr("10.0.1.4"), RuleSet: web, State: dataplane.LinkPending,
				Epoch: epoch(0x20000001, 0), MaxFlows: 7},
			{Key: frontend, Network: dc, Addr: addr("10.0.1.4"), Frontend: true, RuleSet: frontend, State: dataplane.LinkApproved},
		},
	}
	if got := w.kernel.state; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %s\nwant %s", strings.ReplaceAll(text(got), "},", "},\n"), strings.ReplaceAll(text(want), "},", "},\n"))
	}
}

func TestCompile_SameWhateverTheOrder(t *testing.T) {
	w := newWorld(t)
	service := w.provide(open)
	w.consume()
	for i := range 5 {
		w.put(fmt.Sprintf("c:privateEndpoints/pe%d", i), "%s", endpointDoc(service.Properties.Alias, ""))
	}
	first, _ := compile(w.view.snapshot(), nil)
	w.restart()
	if second, _ := compile(w.view.snapshot(), nil); !reflect.DeepEqual(first, second) {
		t.Errorf("%s\n%s", text(first), text(second))
	}
}

// rulesOf are the rules of the service in the kernel.
func (w *world) rulesOf(name string) []dataplane.Rule {
	for _, s := range w.kernel.state.RuleSets {
		if s.Key == id(name).Key() {
			return s.Rules
		}
	}
	return nil
}

// lbDoc is a load balancer with rules, pool members and a probe.
func lbDoc(rules, members, probe string) string {
	return `{'properties':{'frontendIPConfigurations':[{'name':'fe','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'}}}],
		'backendAddressPools':[{'name':'pool','properties':{'loadBalancerBackendAddresses':[` + members + `]}}],
		'probes':[{'name':'alive','properties':{'protocol':'Tcp','port':80` + probe + `}}],'loadBalancingRules':[` + rules + `]}}`
}

func ruleDoc(name, more string) string {
	return `{'name':'` + name + `','properties':{'frontendIPConfiguration':{'id':'loadBalancers/lb/frontendIPConfigurations/fe'},
		'backendAddressPool':{'id':'loadBalancers/lb/backendAddressPools/pool'},` + more + `}}`
}

func TestCompile_EffectiveTimeoutsResetAndProxy(t *testing.T) {
	w := newWorld(t)
	w.provide(open)
	for _, c := range []struct {
		rule, service string
		tcp, udp      uint32
		reset, proxy  bool
	}{
		{`'protocol':'Tcp','frontendPort':80`, ``, 300, 300, false, false},
		{`'protocol':'Tcp','frontendPort':80,'idleTimeoutInMinutes':4`, ``, 240, 300, false, false},
		{`'protocol':'Tcp','frontendPort':80,'idleTimeoutInMinutes':30,'enableTcpReset':true`, ``, 1800, 300, true, false},
		{`'protocol':'Tcp','frontendPort':80,'idleTimeoutInMinutes':30`, `,'idleTimeoutInSeconds':11`, 11, 11, false, false},
		{`'protocol':'Tcp','frontendPort':80`, `,'enableTcpReset':true,'enableProxyProtocol':true`, 300, 300, true, true},
		{`'protocol':'Udp','frontendPort':80`, `,'enableProxyProtocol':true`, 300, 300, false, false},
		{`'protocol':'All','frontendPort':0,'backendPort':0`, ``, 300, 300, false, false},
	} {
		w.put(theLB, "%s", lbDoc(ruleDoc("r", c.rule), "", ""))
		must(t, w.delete(theService, true))
		w.put(theService, "%s", serviceDoc(open+c.service))
		r := w.rulesOf(theService)[0]
		if r.IdleTCP != c.tcp || r.IdleUDP != c.udp || r.TCPReset != c.reset || r.Proxy != c.proxy {
			t.Errorf("%s %s: %+v", c.rule, c.service, r)
		}
	}
}

// verdicts is a Health by address.
type verdicts map[string]bool

func (v verdicts) Probe(key string) (healthy, known bool) {
	healthy, known = v[strings.Split(key, "|")[1]]
	return healthy, known
}

func TestCompile_HealthAndAdminState(t *testing.T) {
	member := func(name, ip, state string) string {
		return fmt.Sprintf(`{'name':'%s','properties':{'ipAddress':'%s','adminState':'%s'}}`, name, ip, state)
	}
	members := member("a", "10.0.1.21", "None") + "," + member("b", "10.0.1.22", "Up") + "," + member("c", "10.0.1.23", "Down")
	for _, c := range []struct {
		what     string
		behavior string
		health   verdicts
		want     string // per address: u = healthy, - = not, n = takes no new flows
	}{
		{"nothing known", "", verdicts{}, "vm1:u a:u b:u c:un"},
		{"all up", "", verdicts{"10.0.1.9": true, "10.0.1.21": true, "10.0.1.22": true, "10.0.1.23": true}, "vm1:u a:u b:u c:un"},
		{"one down", "", verdicts{"10.0.1.9": false, "10.0.1.21": true, "10.0.1.22": true}, "vm1:- a:u b:u c:-n"},
		{"a new one waits", "", verdicts{"10.0.1.9": true}, "vm1:u a:- b:u c:-n"},
		{"Up overrides the probe", "", verdicts{"10.0.1.9": false, "10.0.1.21": false, "10.0.1.22": false}, "vm1:- a:- b:u c:-n"},
	} {
		w := newWorld(t)
		w.provide(open)
		w.put(theLB, "%s", lbDoc(ruleDoc("r", `'protocol':'Tcp','frontendPort':80,'probe':{'id':'loadBalancers/lb/probes/alive'}`), members, c.behavior))
		s, _ := compile(w.view.snapshot(), c.health)
		var got []string
		names := map[string]string{"10.0.1.9": "vm1", "10.0.1.21": "a", "10.0.1.22": "b", "10.0.1.23": "c"}
		for _, x := range s.RuleSets[0].Rules[0].Targets {
			mark := "-"
			if x.Healthy {
				mark = "u"
			}
			if x.NoNew {
				mark += "n"
			}
			got = append(got, names[x.Addr.String()]+":"+mark)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.what, got, c.want)
		}
	}
}

func TestCompile_AllProbedDown(t *testing.T) {
	for behavior, want := range map[string]bool{"": false, `,'noHealthyBackendsBehavior':'AllProbedDown'`: false, `,'noHealthyBackendsBehavior':'AllProbedUp'`: true} {
		w := newWorld(t)
		w.provide(open)
		w.put(theLB, "%s", lbDoc(ruleDoc("r", `'protocol':'Tcp','frontendPort':80,'probe':{'id':'loadBalancers/lb/probes/alive'}`), "", behavior))
		s, _ := compile(w.view.snapshot(), verdicts{"10.0.1.9": false})
		if got := s.RuleSets[0].Rules[0].Targets[0].Healthy; got != want {
			t.Errorf("%q: healthy %v", behavior, got)
		}
	}
}

func TestCompile_Weights(t *testing.T) {
	w := newWorld(t)
	w.provide(open)
	w.put(theLB, "%s", lbDoc(ruleDoc("r", `'protocol':'Tcp','frontendPort':80`), `{'name':'vm1','properties':{'weight':3}},{'name':'x','properties':{'ipAddress':'10.0.1.50'}}`, ""))
	got := w.rulesOf(theService)[0].Targets
	if len(got) != 2 || got[0].Weight != 3 || got[1].Weight != 1 {
		t.Errorf("%+v", got)
	}
}

func TestPeering_BothWaysAndNoFurther(t *testing.T) {
	w := newWorld(t)
	network := func(name, space string, peers ...string) {
		var list []string
		for _, p := range peers {
			peer, more, _ := strings.Cut(p, " ")
			list = append(list, fmt.Sprintf(`{'name':'to-%s','properties':{'remoteVirtualNetwork':{'id':'virtualNetworks/%s'}%s}}`, peer, peer, more))
		}
		w.put("c:virtualNetworks/"+name, `{'properties':{'addressSpace':{'addressPrefixes':['%s']},
			'subnets':[{'name':'default','properties':{'addressPrefix':'%s'}}],'virtualNetworkPeerings':[%s]}}`, space, space, strings.Join(list, ","))
	}
	service := w.provide(open)
	network("home", "10.0.1.0/24")
	network("b", "10.2.0.0/16")
	network("c", "10.3.0.0/16")
	w.put(theEndpoint, "%s", endpointDoc(service.Properties.Alias, ""))
	expect := func(what string, state api.PeeringState, peers ...string) {
		t.Helper()
		var keys []string
		for _, p := range peers {
			keys = append(keys, id("c:virtualNetworks/"+p).Key())
		}
		if got := w.link(theEndpoint).Peers; !slices.Equal(got, keys) {
			t.Errorf("%s: peers %v, want %v", what, got, keys)
		}
		if state != "" {
			if got := w.get(theConsumer).(*api.VirtualNetwork).Properties.VirtualNetworkPeerings[0].Properties.PeeringState; got != state {
				t.Errorf("%s: %s, want %s", what, got, state)
			}
		}
	}
	network("home", "10.0.1.0/24", "b")
	expect("one way", api.PeeringInitiated)
	network("b", "10.2.0.0/16", "home", "c")
	network("c", "10.3.0.0/16", "b")
	expect("both ways, and no peer of the peer", api.PeeringConnected, "b")
	network("b", "10.2.0.0/16", "home ,'allowVirtualNetworkAccess':false", "c")
	expect("access not allowed", api.PeeringConnected)
	network("b", "10.2.0.0/16", "c")
	expect("taken back", api.PeeringInitiated)
	network("c", "10.3.0.0/16")
	network("b", "10.2.0.0/16")
	must(t, w.delete("c:virtualNetworks/b", false))
	expect("remote gone", api.PeeringDisconnected)
	network("overlap", "10.0.0.0/16")
	_, err := w.try("c:virtualNetworks/home", `{'properties':{'addressSpace':{'addressPrefixes':['10.0.1.0/24']},
		'subnets':[{'name':'default','properties':{'addressPrefix':'10.0.1.0/24'}}],
		'virtualNetworkPeerings':[{'name':'x','properties':{'remoteVirtualNetwork':{'id':'virtualNetworks/overlap'}}}]}}`)
	const want = "properties.virtualNetworkPeerings.x.properties.remoteVirtualNetwork.id: 10.0.1.0/24 overlaps 10.0.0.0/16 of virtualNetworks/overlap"
	if err == nil || err.Error() != want {
		t.Errorf("overlap: %v", err)
	}
}

// Behind an endpoint there is one address: rules of two frontends cannot share a port of it, whatever their form, and
// whether the service or the load balancer is written last.
func TestService_TwoFrontendsWithOnePort_AreRefused(t *testing.T) {
	nat := func(name, frontend, ports, pool string) string {
		if pool != "" {
			ports += `,'backendAddressPool':{'id':'loadBalancers/lb/backendAddressPools/` + pool + `'}`
		}
		return fmt.Sprintf(`{'name':'%s','properties':{'protocol':'Tcp','backendPort':22,%s,'frontendIPConfiguration':{'id':'loadBalancers/lb/frontendIPConfigurations/%s'}}}`, name, ports, frontend)
	}
	second := func(name, more string) string { return strings.Replace(ruleDoc(name, more), "/fe'", "/fe2'", 1) }
	const web = `'protocol':'Tcp','frontendPort':80`
	const wide = `'frontendPortRangeStart':2200,'frontendPortRangeEnd':2210`
	for name, c := range map[string]struct {
		rules, nats string
		want        string // "" = accepted
	}{
		"two rules":                   {ruleDoc("a", web) + "," + second("b", web), "", "rules a and b are both for port 80 Tcp"},
		"two protocols":               {ruleDoc("a", web) + "," + second("b", `'protocol':'Udp','frontendPort':80`), "", ""},
		"every port twice":            {ruleDoc("a", `'protocol':'All'`) + "," + second("b", `'protocol':'All'`), "", "rules a and b are both for every port"},
		"NAT rule and rule":           {ruleDoc("a", web), nat("ssh", "fe2", `'frontendPort':80`, ""), "rules a and ssh are both for port 80 Tcp"},
		"two NAT rules":               {ruleDoc("a", web), nat("ssh", "fe", `'frontendPort':2200`, "") + "," + nat("ssh2", "fe2", `'frontendPort':2200`, ""), "rules ssh and ssh2 are both for port 2200 Tcp"},
		"NAT rule in a range":         {second("a", web), nat("ssh", "fe", `'frontendPort':2205`, "") + "," + nat("all", "fe2", wide, "pool"), "rules ssh and all are both for port 2205 Tcp"},
		"two ranges":                  {ruleDoc("a", web) + "," + second("b", `'protocol':'Tcp','frontendPort':81`), nat("one", "fe", wide, "pool") + "," + nat("two", "fe2", `'frontendPortRangeStart':2208,'frontendPortRangeEnd':2300`, "pool"), "rules one and two are both for ports 2208 to 2210 Tcp"},
		"a range that is not offered": {ruleDoc("a", web), nat("ssh", "fe", `'frontendPort':2205`, "") + "," + nat("all", "fe2", wide, "pool"), ""},
		"neighbours":                  {second("a", web), nat("ssh", "fe", `'frontendPort':2211`, "") + "," + nat("all", "fe2", wide, "pool"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			const frontends = `'frontendIPConfigurations':[{'name':'fe','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'}}},{'name':'fe2','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'}}}],
				'backendAddressPools':[{'name':'pool'}]`
			lb := fmt.Sprintf(`{'properties':{%s,'loadBalancingRules':[%s],'inboundNatRules':[%s]}}`, frontends, c.rules, c.nats)
			both := strings.Replace(serviceDoc(open), "/fe'}", "/fe'},{'id':'loadBalancers/lb/frontendIPConfigurations/fe2'}", 1)
			check := func(target string, err error) {
				t.Helper()
				want := "properties." + target + ": " + c.want + ", and web has both of their frontends"
				if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != want) {
					t.Errorf("got  %v\nwant %s", err, want)
				}
			}
			w := newWorld(t)
			w.provide(open)
			w.put(theLB, "%s", lb)
			_, err := w.try(theService, "%s", both)
			check("loadBalancerFrontendIpConfigurations", err)
			w.put(theService, "%s", serviceDoc(open))
			w.put(theLB, `{'properties':{%s}}`, frontends)
			w.put(theService, "%s", both)
			_, err = w.try(theLB, "%s", lb)
			check("loadBalancingRules", err)
		})
	}
}

func TestCompile_Probes_OncePerBackendPortAndHeader(t *testing.T) {
	w := newWorld(t)
	w.provide(open)
	withProbe := `'protocol':'Tcp','frontendPort':%d,'probe':{'id':'loadBalancers/lb/probes/alive'}`
	w.put(theLB, "%s", lbDoc(ruleDoc("a", fmt.Sprintf(withProbe, 80))+","+ruleDoc("b", fmt.Sprintf(withProbe, 81)), `{'name':'x','properties':{'ipAddress':'10.0.1.50'}}`,
		`,'intervalInSeconds':7,'probeThreshold':3`))
	probes := func() []Probe {
		_, list := compile(w.view.snapshot(), nil)
		return list
	}
	base := id("p:loadBalancers/lb/probes/alive").Key()
	web, frontend := id(theService).Key(), id("p:loadBalancers/lb/frontendIPConfigurations/fe").Key()
	rule := "|" + id("p:loadBalancers/lb/loadBalancingRules/a").Key()
	want := []Probe{
		{Key: base + "|10.0.1.50", Group: base, LoadBalancer: id(theLB).Key(), RuleSet: web, Rule: web + rule, Protocol: api.ProbeTCP, Target: netip.MustParseAddrPort("10.0.1.50:80"), Interval: 7 * time.Second, Threshold: 3},
		{Key: base + "|10.0.1.9", Group: base, LoadBalancer: id(theLB).Key(), RuleSet: web, Rule: web + rule, Protocol: api.ProbeTCP, Target: netip.MustParseAddrPort("10.0.1.9:80"), Interval: 7 * time.Second, Threshold: 3},
	}
	if got := probes(); !reflect.DeepEqual(got, want) {
		t.Errorf("plain\ngot  %+v\nwant %+v", got, want)
	}
	// The frontend's own clients send no header: the question without one stays, with what is known of it.
	judges := func(set, address string) string {
		t.Helper()
		for _, x := range w.rulesOf(set)[0].Targets {
			if x.Addr == addr(address) {
				return x.Probe
			}
		}
		return ""
	}
	const fe = "p:loadBalancers/lb/frontendIPConfigurations/fe"
	// In this order: an own property stays as it is where a document leaves it out.
	for _, c := range [][2]string{{`,'enableProxyProtocol':true`, "|proxy"}, {`,'enableProxyProtocol':true,'proxyProbes':false`, "|expects"}} {
		kind := c[1]
		w.put(theService, "%s", serviceDoc(open+c[0]))
		both := slices.Clone(want)
		for i := range want {
			other := want[i]
			other.Key, other.Group, other.Header, other.Expects = other.Key+kind, base+kind, kind == "|proxy", true
			both = append(both, other)
		}
		slices.SortFunc(both, func(a, b Probe) int { return strings.Compare(a.Key, b.Key) })
		if got := probes(); !reflect.DeepEqual(got, both) {
			t.Errorf("PROXY\ngot  %+v\nwant %+v", got, both)
		}
		if own, service := judges(fe, "10.0.1.9"), judges(theService, "10.0.1.9"); own != base+"|10.0.1.9" || service != base+"|10.0.1.9"+kind {
			t.Errorf("%s judges the frontend, %s its service", own, service)
		}
	}
	must(t, w.delete(theService, true))
	for i := range want {
		want[i].RuleSet, want[i].Rule = frontend, frontend+rule
	}
	if got := probes(); !reflect.DeepEqual(got, want) {
		t.Errorf("no service\ngot  %+v\nwant %+v", got, want)
	}
}

// A service offers the rules of all frontends that it publishes, and each of these serves its own network.
func TestCompile_ServiceOfTwoFrontends_OffersTheRulesOfBoth(t *testing.T) {
	w := newWorld(t)
	w.provide(open)
	w.put(theLB, `{'properties':{
		'frontendIPConfigurations':[{'name':'fe','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'}}},{'name':'fe2','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'}}}],
		'backendAddressPools':[{'name':'pool'}],'loadBalancingRules':[%s,%s]}}`, ruleDoc("a", `'protocol':'Tcp','frontendPort':80`),
		strings.Replace(ruleDoc("b", `'protocol':'Udp','frontendPort':53,'loadDistribution':'SourceIP'`), "/fe'", "/fe2'", 1))
	w.put(theService, "%s", strings.Replace(serviceDoc(open), "/fe'}", "/fe'},{'id':'loadBalancers/lb/frontendIPConfigurations/fe2'}", 1))
	s, _ := compile(w.view.snapshot(), nil)
	offered := map[string][]uint16{}
	for _, set := range s.RuleSets {
		for _, r := range set.Rules {
			offered[set.Key] = append(offered[set.Key], r.Port)
		}
	}
	fe := id("p:loadBalancers/lb/frontendIPConfigurations/fe").Key()
	want := map[string][]uint16{id(theService).Key(): {80, 53}, fe: {80}, fe + "2": {53}}
	if !reflect.DeepEqual(offered, want) {
		t.Errorf("ports offered: %v, want %v", offered, want)
	}
}
