package dataplane

import (
	"regexp"
	"strings"
	"testing"
	"unsafe"
)

// wordOf is the 8-byte word in which a field of an element begins.
func wordOf(offset uintptr) int { return int(offset / 8) }

func TestLayout_DecidingFields_ShareTheirWord(t *testing.T) {
	for name, c := range map[string]struct {
		word   int
		fields []uintptr
	}{
		"iface":   {wordIface, []uintptr{unsafe.Offsetof(bpfIface{}.Ifindex), unsafe.Offsetof(bpfIface{}.Vlan), unsafe.Offsetof(bpfIface{}.Vnet)}},
		"out":     {wordOut, []uintptr{unsafe.Offsetof(bpfOut{}.Ifindex), unsafe.Offsetof(bpfOut{}.Mtu), unsafe.Offsetof(bpfOut{}.Vlan)}},
		"link":    {wordLink, []uintptr{unsafe.Offsetof(bpfLink{}.LinkId), unsafe.Offsetof(bpfLink{}.Gen), unsafe.Offsetof(bpfLink{}.State)}},
		"rule":    {wordRule, []uintptr{unsafe.Offsetof(bpfRule{}.Ident)}},
		"natset":  {wordNatset, []uintptr{unsafe.Offsetof(bpfNatset{}.Vnet), unsafe.Offsetof(bpfNatset{}.Count)}},
		"backend": {wordBackend, []uintptr{unsafe.Offsetof(bpfBackend{}.Gen), unsafe.Offsetof(bpfBackend{}.State), unsafe.Offsetof(bpfBackend{}.Flags)}},
	} {
		for _, offset := range c.fields {
			if wordOf(offset) != c.word {
				t.Errorf("%s: the field at byte %d is not in word %d", name, offset, c.word)
			}
		}
	}
	// flows: state and home in the first word, the key in whole words (findFlow compares it so).
	if unsafe.Offsetof(bpfFlow{}.State) != 0 || unsafe.Offsetof(bpfFlow{}.Home) != 4 || unsafe.Offsetof(bpfFlow{}.Key) != 16 {
		t.Error("struct flow has another layout than findFlow reads")
	}
}

func TestLayout_Sizes_AreThoseOfTheMaps(t *testing.T) {
	specs, err := LoadSpecs()
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[string]struct{ key, value uintptr }{
		mapFlows:     {4, unsafe.Sizeof(bpfFlow{})},
		mapTable:     {4, unsafe.Sizeof(bpfTable{})},
		mapConfig:    {4, unsafe.Sizeof(bpfConfig{})},
		mapVNets:     {4, unsafe.Sizeof(bpfName{})},
		mapServices:  {4, unsafe.Sizeof(bpfName{})},
		mapPools:     {4, unsafe.Sizeof(bpfName{})},
		mapIfaces:    {4, unsafe.Sizeof(bpfIface{})},
		mapOuts:      {4, unsafe.Sizeof(bpfOut{})},
		mapLinks:     {4, unsafe.Sizeof(bpfLink{})},
		mapUsage:     {4, unsafe.Sizeof(bpfUsage{})},
		mapRules:     {4, unsafe.Sizeof(bpfRule{})},
		mapNatsets:   {4, unsafe.Sizeof(bpfNatset{})},
		mapBackends:  {4, unsafe.Sizeof(bpfBackend{})},
		"buckets_v1": {4, unsafe.Sizeof(bpfBucket{})},
		"refills_v1": {4, 8}, // for the programs alone
		mapLinkStats: {4, unsafe.Sizeof(bpfLinkStats{})},
		mapReasons:   {4, unsafe.Sizeof(bpfReasonStats{})},
		mapAddresses: {unsafe.Sizeof(bpfAddressKey{}), unsafe.Sizeof(bpfAddress{})},
		mapRuleIndex: {unsafe.Sizeof(bpfRuleKey{}), unsafe.Sizeof(bpfRuleRef{})},
		mapDials:     {unsafe.Sizeof(bpfDialKey{}), unsafe.Sizeof(bpfDial{})},
		mapDomains:   {unsafe.Sizeof(bpfDomainKey{}), unsafe.Sizeof(bpfDomain{})},
		mapMaglev:    {4, 4},
		mapXDPOuts:   {4, 4},
		mapEvents:    {0, 0},
	}
	version := regexp.MustCompile(`_v[1-9]$`)
	for object, spec := range specs.all() {
		for name, m := range own(spec) {
			want, ok := sizes[name]
			if !ok {
				t.Errorf("%s of the %s object is not in this table", name, object)
				continue
			}
			if uintptr(m.KeySize) != want.key || uintptr(m.ValueSize) != want.value {
				t.Errorf("%s of the %s object: key %d value %d, in Go %d and %d", name, object, m.KeySize, m.ValueSize, want.key, want.value)
			}
			if len(name) > 15 || !version.MatchString(name) {
				t.Errorf("%s: no layout version, or longer than the 15 characters the kernel shows", name)
			}
		}
	}
	if unsafe.Sizeof(bpfFlow{}) != 64 {
		t.Error("an entry of the flow table is no cache line")
	}
}

func TestReasons_Texts_AreComplete(t *testing.T) {
	reasons, err := Reasons()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for i, r := range reasons {
		if r.Label == "" || r.Text == "" || seen[r.Label] || strings.ToLower(r.Label) != r.Label {
			t.Errorf("reason %d: %+v", i, r)
		}
		seen[r.Label] = true
	}
	if reasons[bpfReasonREASON_QUOTA].Label != "quota" {
		t.Errorf("quota is %+v", reasons[bpfReasonREASON_QUOTA])
	}
}

func TestPortStep_AnyRandom_VisitsEveryPort(t *testing.T) {
	for random := uint32(0); random < 64512; random += 37 {
		step, inverse := portStep(random)
		if step%2 == 0 || step%3 == 0 || step%7 == 0 || uint64(step)*uint64(inverse)%uint64(PortsPerDomain) != 1 {
			t.Fatalf("random %d: step %d, inverse %d", random, step, inverse)
		}
	}
}

// Whatever number of pairs is asked for, the table made for it has it, and not a slot more than that takes.
func TestHomes_AnyNumberOfPairs_FitsExactly(t *testing.T) {
	for pairs := uint32(minPairs); pairs <= maxPairs; pairs += 1 + pairs/1000 {
		homes := homesFor(pairs)
		if pairsFor(homes) != pairs || pairsFor(homes-1) == pairs {
			t.Fatalf("%d pairs have %d homes, which are for %d; one less for %d", pairs, homes, pairsFor(homes), pairsFor(homes-1))
		}
	}
	if homes := homesFor(maxPairs); pairsFor(homes) != maxPairs {
		t.Errorf("the largest table has %d homes, for %d pairs of %d", homes, pairsFor(homes), maxPairs)
	}
}
