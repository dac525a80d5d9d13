package flowtable

import (
	"testing"

	"github.com/cilium/ebpf"
)

// newTable makes a table of four slots, and the map behind it.
func newTable(t *testing.T) (*Table[tableFlow], *ebpf.Map) {
	t.Helper()
	spec, err := loadTable()
	if err != nil {
		t.Fatal(err)
	}
	flows := spec.Maps["flows_v1"]
	flows.MaxEntries = 4
	m, err := ebpf.NewMap(flows)
	if err != nil {
		t.Fatalf("create flow table: %v", err)
	}
	t.Cleanup(func() { m.Close() })
	table, err := Open[tableFlow](m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
	return table, m
}

// put writes an entry the way a program would have left it.
func put(t *testing.T, m *ebpf.Map, slot uint32, state State, stamp uint32) {
	t.Helper()
	if err := m.Put(slot, tableFlow{State: uint32(state), Stamp: stamp}); err != nil {
		t.Fatalf("write slot %d: %v", slot, err)
	}
}

func TestTable_Live_YieldsOnlyLiveEntries(t *testing.T) {
	table, m := newTable(t)
	put(t, m, 0, 7<<7, 10)
	put(t, m, 1, 7<<7|Busy, 11)
	put(t, m, 2, 7<<7|2<<2|Live, 12)
	put(t, m, 3, 7<<7|Dead, 13)

	seen := map[uint32]uint32{}
	for slot, e := range table.Live() {
		seen[slot] = e.Stamp
	}
	if len(seen) != 1 || seen[2] != 12 {
		t.Errorf("live slots and stamps %v, want slot 2 with stamp 12", seen)
	}
}

func TestTable_Live_StopsWhenAsked(t *testing.T) {
	table, m := newTable(t)
	for slot := range uint32(4) {
		put(t, m, slot, Live, slot)
	}
	count := 0
	for range table.Live() {
		count++
		break
	}
	if count != 1 {
		t.Errorf("%d entries after the first break", count)
	}
}

func TestTable_ReadBeyondTheEnd_NotOK(t *testing.T) {
	table, _ := newTable(t)
	if _, _, ok := table.Read(table.Slots()); ok {
		t.Error("read a slot that is not there")
	}
}

func TestTable_OpenWithWrongEntry_Refused(t *testing.T) {
	_, m := newTable(t)
	if _, err := Open[tableFlowKey](m); err == nil {
		t.Error("opened with an entry of 16 bytes")
	}
}

func TestState_Parts_AsInC(t *testing.T) {
	spec, err := loadTable()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint32{"stress_window": window, "stress_home_bits": homeBits} {
		var got uint32
		if err := spec.Variables[name].Get(&got); err != nil {
			t.Fatalf("read %s: %v", name, err)
		}
		if got != want {
			t.Errorf("%s is %d in C, %d here", name, got, want)
		}
	}
	states := map[State]tableSlotState{
		Free: tableSlotStateSLOT_FREE,
		Busy: tableSlotStateSLOT_BUSY,
		Live: tableSlotStateSLOT_LIVE,
		Dead: tableSlotStateSLOT_DEAD,
	}
	for here, c := range states {
		if uint32(here) != uint32(c) {
			t.Errorf("state %d is %d in C", here, c)
		}
	}
	s := State(5<<7 | 29<<2 | 2)
	if s.Slot() != Live || s.Distance() != 29 || s.Sequence() != 5 {
		t.Errorf("parts of %#x: %d, %d, %d", s, s.Slot(), s.Distance(), s.Sequence())
	}
}
