package inner

import (
	"errors"
	"net/netip"
	"testing"
)

func TestPorts_Take_NoPairTwice(t *testing.T) {
	ports := NewPorts(3)
	seen := make(map[[2]netip.AddrPort]bool)
	for range 3 * portCount {
		source, to, err := ports.Take(443)
		if err != nil {
			t.Fatal(err)
		}
		if source.Addr() != DialSource(3) || source.Port() < firstPort || to.Port() != 443 || !Prefix().Contains(to.Addr()) || Locals().Contains(to.Addr()) {
			t.Fatalf("took %v -> %v", source, to)
		}
		if seen[[2]netip.AddrPort{source, to}] {
			t.Fatalf("%v -> %v came twice", source, to)
		}
		seen[[2]netip.AddrPort{source, to}] = true
		ports.Give(source)
	}
}

func TestPorts_TakenPort_NotGivenAgain(t *testing.T) {
	ports := NewPorts(0)
	taken := make(map[uint16]bool)
	for range portCount {
		source, _, err := ports.Take(443)
		if err != nil {
			t.Fatal(err)
		}
		if taken[source.Port()] {
			t.Fatalf("port %d is taken already", source.Port())
		}
		taken[source.Port()] = true
	}
	if _, _, err := ports.Take(443); !errors.Is(err, ErrPorts) {
		t.Fatalf("with every port taken: %v, want ErrPorts", err)
	}
	ports.Give(netip.AddrPortFrom(DialSource(0), 4711))
	if source, _, err := ports.Take(443); err != nil || source.Port() != 4711 {
		t.Fatalf("after port 4711 was given back: %v, %v", source, err)
	}
}

func TestAddresses_Roles_DoNotMeet(t *testing.T) {
	seen := map[netip.Addr]bool{Listen().Addr(): true}
	list := Sources()
	for n := range MaxDialers {
		list = append(list, DialSource(n))
		if !Locals().Contains(DialSource(n)) {
			t.Errorf("dialer %d has %v, which is not local", n, DialSource(n))
		}
	}
	for _, address := range list {
		if seen[address] || !Prefix().Contains(address) {
			t.Errorf("%v is used twice or outside of %v", address, Prefix())
		}
		seen[address] = true
	}
	for _, source := range Sources() {
		if Locals().Contains(source) {
			t.Errorf("consumers' source %v is local to the splice", source)
		}
	}
}
