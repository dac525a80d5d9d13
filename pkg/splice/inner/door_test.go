package inner

import (
	"errors"
	"net/netip"
	"testing"
)

// TestPorts_Ways_NoPairTwice takes ports three times around, and every tenth way again until its end, as sockets do that
// are used again, some of them only when others have the port's next way.
func TestPorts_Ways_NoPairTwice(t *testing.T) {
	ports := NewPorts(3)
	seen := make(map[[2]netip.AddrPort]bool)
	look := func(w Way) {
		to := w.Far(443)
		if w.Source.Addr() != DialSource(3) || w.Source.Port() < firstPort || to.Port() != 443 || !Prefix().Contains(to.Addr()) || Locals().Contains(to.Addr()) {
			t.Fatalf("took %v -> %v", w.Source, to)
		}
		if seen[[2]netip.AddrPort{w.Source, to}] {
			t.Fatalf("%v -> %v came twice", w.Source, to)
		}
		seen[[2]netip.AddrPort{w.Source, to}] = true
		ports.Give(w.Source)
	}
	var kept []Way
	for n := range 3 * portCount {
		w, err := ports.Take()
		if err != nil {
			t.Fatal(err)
		}
		look(w)
		for n%10 == 0 && ports.TakeAgain(&w) {
			look(w)
			if n%20 == 0 {
				kept = append(kept, w)
				break
			}
		}
	}
	for _, w := range kept {
		uses := 2
		for ; ports.TakeAgain(&w); uses++ {
			look(w)
		}
		if uses != wayLength {
			t.Fatalf("a way was taken %d times, want %d", uses, wayLength)
		}
	}
}

func TestPorts_TakenPort_NotGivenAgain(t *testing.T) {
	ports := NewPorts(0)
	ways := make(map[uint16]Way)
	for range portCount {
		w, err := ports.Take()
		if err != nil {
			t.Fatal(err)
		}
		if _, taken := ways[w.Source.Port()]; taken {
			t.Fatalf("port %d is taken already", w.Source.Port())
		}
		ways[w.Source.Port()] = w
	}
	if _, err := ports.Take(); !errors.Is(err, ErrPorts) {
		t.Fatalf("with every port taken: %v, want ErrPorts", err)
	}
	old := ways[4711]
	if ports.TakeAgain(&old) {
		t.Fatal("a way was taken again whose port is taken")
	}
	ports.Give(netip.AddrPortFrom(DialSource(0), 4711))
	if w, err := ports.Take(); err != nil || w.Source.Port() != 4711 {
		t.Fatalf("after port 4711 was given back: %v, %v", w.Source, err)
	}
	if ports.TakeAgain(&old) {
		t.Fatal("a way was taken again whose port another connection has")
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
