package control

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/api"
)

// pool is a load balancer with a draining pool of these members ("NAME=ADDRESS[!]", ! for adminState Down).
func poolDoc(period int, more string, members ...string) string {
	var list []string
	for _, m := range members {
		name, address, _ := strings.Cut(m, "=")
		state := "None"
		if strings.HasSuffix(address, "!") {
			address, state = strings.TrimSuffix(address, "!"), "Down"
		}
		list = append(list, fmt.Sprintf(`{'name':'%s','properties':{'ipAddress':'%s','adminState':'%s'}}`, name, address, state))
	}
	return fmt.Sprintf(`{'properties':{'frontendIPConfigurations':[{'name':'fe','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'}}}],
		'backendAddressPools':[{'name':'pool','properties':{'drainPeriodInSeconds':%d,'loadBalancerBackendAddresses':[%s]}}],
		'loadBalancingRules':[%s]%s}}`, period, strings.Join(list, ","), ruleDoc("r", `'protocol':'Tcp','frontendPort':80`), more)
}

// targets are the members of the service's load-balancing rule in the kernel, "!" for those that take no new flows.
func (w *world) targets() string {
	w.Helper()
	var list []string
	rules := w.rulesOf(theService)
	for _, x := range rules[len(rules)-1].Targets {
		s := x.Addr.String()
		if x.NoNew {
			s += "!"
		}
		list = append(list, s)
	}
	return strings.Join(list, " ")
}

func TestPool_MembersTakenOutOrDown_DrainThenEnd(t *testing.T) {
	w := newWorld(t)
	w.provide(open)
	expect := func(what, want string) {
		t.Helper()
		if got := w.targets(); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	w.put(theLB, "%s", poolDoc(60, "", "a=10.0.1.21", "b=10.0.1.22"))
	expect("all", "10.0.1.9 10.0.1.21 10.0.1.22")
	w.put(theLB, "%s", poolDoc(60, "", "a=10.0.1.21!"))
	expect("one down, one out", "10.0.1.9 10.0.1.21! 10.0.1.22!")
	must(t, w.delete("p:networkInterfaces/vm1", false))
	expect("a NIC out", "10.0.1.9! 10.0.1.21! 10.0.1.22!")
	w.clock.advance(30 * time.Second)
	w.put(theLB, "%s", poolDoc(60, "", "a=10.0.1.21!", "b=10.0.1.22"))
	expect("one back", "10.0.1.9! 10.0.1.21! 10.0.1.22")
	w.restart()
	w.clock.advance(30 * time.Second)
	w.sync()
	expect("time over", "10.0.1.22")
	w.put(theLB, "%s", poolDoc(60, "", "a=10.0.1.21!", "b=10.0.1.22", "c=10.0.1.23"))
	expect("still down", "10.0.1.22 10.0.1.23")
	w.put(theLB, "%s", poolDoc(60, "", "a=10.0.1.21", "b=10.0.1.22", "c=10.0.1.23"))
	expect("up again", "10.0.1.21 10.0.1.22 10.0.1.23")
	w.put(theLB, "%s", poolDoc(0, "", "a=10.0.1.21!", "b=10.0.1.22"))
	expect("without a period", "10.0.1.21! 10.0.1.22")
	if next, err := w.tidy(t.Context()); err != nil || !next.IsZero() {
		t.Errorf("something is still awaited: %v %v", next, err)
	}
}

func TestPool_InboundNATRule_KeepsPortsAndNeedsARuleThatJoins(t *testing.T) {
	w := newWorld(t)
	w.provide(open)
	nat := `,'inboundNatRules':[{'name':'ssh','properties':{'protocol':'Tcp','frontendPortRangeStart':2200,'frontendPortRangeEnd':2202,'backendPort':22,
		'frontendIPConfiguration':{'id':'loadBalancers/lb/frontendIPConfigurations/fe'},'backendAddressPool':{'id':'loadBalancers/lb/backendAddressPools/%s'}}}]`
	ports := func(name string) string {
		var list []string
		for _, r := range w.rulesOf(name) {
			if r.BackendPort == 22 {
				list = append(list, fmt.Sprint(r.Targets[0].Addr, "=", r.Port))
			}
		}
		return strings.Join(list, " ")
	}
	frontend := "p:loadBalancers/lb/frontendIPConfigurations/fe"
	w.put(theLB, "%s", poolDoc(0, fmt.Sprintf(nat, "pool"), "b=10.0.1.22"))
	for _, name := range []string{theService, frontend} {
		if got := ports(name); got != "10.0.1.22=2201 10.0.1.9=2200" {
			t.Errorf("%s: %s", name, got)
		}
	}
	w.put(theLB, "%s", poolDoc(0, fmt.Sprintf(nat, "pool"), "b=10.0.1.22", "a=10.0.1.3"))
	must(t, w.delete("p:networkInterfaces/vm1", false))
	w.put(theLB, "%s", poolDoc(0, fmt.Sprintf(nat, "pool"), "b=10.0.1.22", "a=10.0.1.3", "d=10.0.1.30", "e=10.0.1.31"))
	if got := ports(frontend); got != "10.0.1.22=2201 10.0.1.3=2202 10.0.1.30=2200" {
		t.Errorf("members keep theirs: %s", got)
	}
	if got := w.get(theLB).(*api.LoadBalancer).Properties.Warnings; len(got) != 1 || got[0] != "inbound NAT rule ssh has 3 ports for 4 members of pool pool: 10.0.1.31 has none" {
		t.Errorf("fewer ports than members: %q", got)
	}
	m := w.get(theLB).(*api.LoadBalancer).Properties.BackendAddressPools[0].Properties.LoadBalancerBackendAddresses[0].Properties.InboundNATRulesPortMapping
	if len(m) != 1 || m[0].FrontendPort != 2201 {
		t.Errorf("shown: %+v", m)
	}
	w.put(theLB, "%s", strings.Replace(poolDoc(0, fmt.Sprintf(nat, "other"), "b=10.0.1.22"), "{'name':'pool'",
		"{'name':'other','properties':{'loadBalancerBackendAddresses':[{'name':'x','properties':{'ipAddress':'10.0.1.40'}}]}},{'name':'pool'", 1))
	if got := ports(theService) + "/" + ports(frontend); got != "/10.0.1.40=2200" {
		t.Errorf("no rule joins: %s", got)
	}
	const want = "inbound NAT rule ssh is inactive through private links: no load-balancing rule joins its frontend and pool other"
	if got := w.get(theLB).(*api.LoadBalancer).Properties.Warnings; len(got) != 1 || got[0] != want {
		t.Errorf("lb: %q", got)
	}
	if got := w.service(theService).Properties.Warnings; len(got) == 0 || got[0] != want {
		t.Errorf("service: %q", got)
	}
}

// What a read shows of members by NIC comes back with the next write, and says nothing by itself.
func TestPool_MembersByNIC_AreShownWithTheirPortsAndNotKept(t *testing.T) {
	w := newWorld(t)
	w.provide(open)
	const nat = `,'inboundNatRules':[{'name':'ssh','properties':{'protocol':'Tcp','frontendPortRangeStart':2200,'frontendPortRangeEnd':2202,'backendPort':22,
		'frontendIPConfiguration':{'id':'loadBalancers/lb/frontendIPConfigurations/fe'},'backendAddressPool':{'id':'loadBalancers/lb/backendAddressPools/pool'}}}]`
	shown := func() string {
		t.Helper()
		var list []string
		for _, m := range w.get(theLB).(*api.LoadBalancer).Properties.BackendAddressPools[0].Properties.LoadBalancerBackendAddresses {
			text := m.Name + "=" + m.Properties.IPAddress
			if ip := m.Properties.NetworkInterfaceIPConfiguration; ip != nil {
				text += ip.ID[strings.LastIndex(ip.ID, "/networkInterfaces/"):]
			}
			for _, x := range m.Properties.InboundNATRulesPortMapping {
				text += fmt.Sprintf(" %s %d to %d", x.InboundNATRuleName, x.FrontendPort, x.BackendPort)
			}
			list = append(list, text)
		}
		return strings.Join(list, ", ")
	}
	expect := func(want string) {
		t.Helper()
		if got := shown(); got != want {
			t.Errorf("shown\n%s, want\n%s", got, want)
		}
		lb := w.get(theLB)
		if _, err := w.Put(t.Context(), root("p"), id(theLB), lb, Conditions{}); err != nil {
			t.Fatal(err)
		}
		if got := shown(); got != want {
			t.Errorf("after it was written back\n%s, want\n%s", got, want)
		}
	}
	w.put(theLB, "%s", poolDoc(0, nat, "vm1=10.0.1.22"))
	expect("vm1=10.0.1.22 ssh 2201 to 22, vm1-2=/networkInterfaces/vm1/ipConfigurations/ip ssh 2200 to 22")
	w.put(theLB, "%s", poolDoc(0, nat, "b=10.0.1.9"))
	expect("b=10.0.1.9/networkInterfaces/vm1/ipConfigurations/ip ssh 2200 to 22")
	w.put(theLB, "%s", poolDoc(0, nat))
	expect("vm1=/networkInterfaces/vm1/ipConfigurations/ip ssh 2200 to 22")
	w.put(theLB, "%s", strings.Replace(poolDoc(0, nat, "vm1=!"), `'ipAddress':'',`, "", 1))
	expect("vm1=/networkInterfaces/vm1/ipConfigurations/ip ssh 2200 to 22")
	if got := w.targets(); got != "10.0.1.9!" {
		t.Errorf("a NIC with adminState Down: %s", got)
	}
	w.put(theLB, "%s", poolDoc(0, nat))
	must(t, w.delete("p:networkInterfaces/vm1", false))
	expect("")
}

// A service is warned of its own frontends' rules only.
func TestService_Warnings_OfItsOwnFrontendsRules(t *testing.T) {
	w := newWorld(t)
	w.provide(open)
	w.put(theLB, `{'properties':{
		'frontendIPConfigurations':[{'name':'fe','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'}}},{'name':'fe2','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'}}}],
		'backendAddressPools':[{'name':'pool'}],'loadBalancingRules':[%s],'inboundNatRules':[{'name':'ssh','properties':{'protocol':'Tcp','frontendPortRangeStart':2200,'frontendPortRangeEnd':2202,'backendPort':22,
		'frontendIPConfiguration':{'id':'loadBalancers/lb/frontendIPConfigurations/fe2'},'backendAddressPool':{'id':'loadBalancers/lb/backendAddressPools/pool'}}}]}}`, ruleDoc("a", `'protocol':'Tcp','frontendPort':80`))
	if got := w.get(theLB).(*api.LoadBalancer).Properties.Warnings; len(got) != 1 {
		t.Errorf("the load balancer's: %q", got)
	}
	for _, warning := range w.service(theService).Properties.Warnings {
		if strings.Contains(warning, "inbound NAT") {
			t.Errorf("the service's: %q", warning)
		}
	}
}

func TestInboundNATRule_ToOneNIC(t *testing.T) {
	w := newWorld(t)
	w.provide(open)
	w.put(theLB, "%s", poolDoc(0, `,'inboundNatRules':[{'name':'ssh','properties':{'protocol':'Tcp','frontendPort':2200,'backendPort':22,
		'frontendIPConfiguration':{'id':'loadBalancers/lb/frontendIPConfigurations/fe'}}}]`))
	nic := `{'properties':{'ipConfigurations':[{'name':'ip','properties':{'privateIPAddress':'%s','subnet':{'id':'virtualNetworks/dc/subnets/vms'},
		'loadBalancerInboundNatRules':[{'id':'loadBalancers/lb/inboundNatRules/ssh'}]}}]}}`
	w.put("p:networkInterfaces/vm2", nic, "10.0.1.30")
	r := w.rulesOf(theService)[0]
	if r.Port != 2200 || r.BackendPort != 22 || len(r.Targets) != 1 || r.Targets[0].Addr != addr("10.0.1.30") {
		t.Errorf("%+v", r)
	}
	_, err := w.try("p:networkInterfaces/vm3", nic, "10.0.1.31")
	const want = "properties.ipConfigurations[0].properties.loadBalancerInboundNatRules[0].id: loadBalancers/lb/inboundNatRules/ssh steers to networkInterfaces/vm2 already"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	_, err = w.try("p:networkInterfaces/vm2", `{'properties':{'ipConfigurations':[
		{'name':'ip','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'},'loadBalancerInboundNatRules':[{'id':'loadBalancers/lb/inboundNatRules/ssh'}]}},
		{'name':'ip2','properties':{'subnet':{'id':'virtualNetworks/dc/subnets/vms'},'loadBalancerInboundNatRules':[{'id':'loadBalancers/lb/inboundNatRules/ssh'}]}}]}}`)
	const twice = "properties.ipConfigurations[1].properties.loadBalancerInboundNatRules[0].id: loadBalancers/lb/inboundNatRules/ssh steers to IP configuration ip already"
	if err == nil || err.Error() != twice {
		t.Errorf("got  %v\nwant %s", err, twice)
	}
	_, err = w.try(theLB, "%s", poolDoc(0, `,'inboundNatRules':[{'name':'ssh','properties':{'protocol':'Tcp','frontendPortRangeStart':2200,'frontendPortRangeEnd':2210,'backendPort':22,
		'frontendIPConfiguration':{'id':'loadBalancers/lb/frontendIPConfigurations/fe'},'backendAddressPool':{'id':'loadBalancers/lb/backendAddressPools/pool'}}}]`))
	const pooled = "properties.inboundNatRules: rule ssh cannot be for a pool while networkInterfaces/vm2 names it (take the rule out of the network interface first)"
	if err == nil || err.Error() != pooled {
		t.Errorf("got  %v\nwant %s", err, pooled)
	}
	if b := w.get(theLB).(*api.LoadBalancer).Properties.InboundNATRules[0].Properties.BackendIPConfiguration; b == nil || !strings.HasSuffix(b.ID, "/networkInterfaces/vm2/ipConfigurations/ip") {
		t.Errorf("shown: %+v", b)
	}
}
