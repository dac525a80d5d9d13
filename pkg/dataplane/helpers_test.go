package dataplane

import (
	"fmt"
	"strings"
	"testing"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

// dumpConfig is everything Apply writes, as text.
func (k *kernel) dumpConfig(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	dump(&b, "vnet", k.vnets)
	dump(&b, "service", k.services)
	dump(&b, "pool", k.pools)
	dump(&b, "iface", k.ifaces)
	dump(&b, "out", k.outs)
	dump(&b, "link", k.links)
	dump(&b, "rule", k.rules)
	dump(&b, "natset", k.natsets)
	dump(&b, "backend", k.backends)
	for _, name := range []string{mapAddresses, mapRuleIndex} {
		var key, value []byte
		entries := make(map[string]bool)
		all := k.maps[name].Iterate()
		for all.Next(&key, &value) {
			entries[fmt.Sprintf("%s %x %x\n", name, key, value)] = true
		}
		if err := all.Err(); err != nil {
			t.Fatal(err)
		}
		b.WriteString(sorted(entries))
	}
	return b.String()
}

func dump[T comparable](b *strings.Builder, name string, a *array[T]) {
	var zero T
	for slot := range a.count {
		if v := a.load(slot); v != zero {
			fmt.Fprintf(b, "%s %d %+v\n", name, slot, v)
		}
	}
}

func sorted(set map[string]bool) string {
	keys := make([]string, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	for i := range keys {
		for j := i + 1; j < len(keys); j++ {
			if keys[j] < keys[i] {
				keys[i], keys[j] = keys[j], keys[i]
			}
		}
	}
	return strings.Join(keys, "")
}
