package dataplane

import (
	"testing"

	"github.com/privlink/privlink/pkg/lab"
)

func TestXDPFeatures_SeveralDevices_EachHasItsOwn(t *testing.T) {
	l := lab.New(t)
	ns := l.Namespace("gw")
	l.Veth(ns, "a", ns, "b", lab.VethOptions{})
	lo, a, b := ns.Link("lo").Attrs().Index, ns.Link("a").Attrs().Index, ns.Link("b").Attrs().Index
	var features map[int]uint64
	err := ns.Do(func() (err error) {
		features, _, err = xdpFeatures()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// A veth says at least that XDP programs run on it; the loopback device says nothing.
	if len(features) != 3 || features[lo] != 0 || features[a] == 0 || features[b] == 0 {
		t.Errorf("features of lo %d, a %d, b %d: got %v", lo, a, b, features)
	}
}
