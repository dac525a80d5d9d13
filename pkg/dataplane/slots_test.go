package dataplane

import "testing"

func TestSlots_GivenBack_RestsForTwoSweeps(t *testing.T) {
	s := newSlots("things", 3, nil, nil)
	a, fresh, err := s.get(10, 0)
	if err != nil || !fresh || a == 0 {
		t.Fatalf("first slot: %d %v %v", a, fresh, err)
	}
	b, _, err := s.get(11, 0)
	if err != nil || b == a || b == 0 {
		t.Fatalf("second slot: %d %v", b, err)
	}
	if again, fresh, _ := s.get(10, 0); again != a || fresh {
		t.Fatalf("the name lost its slot: %d, fresh %v", again, fresh)
	}
	s.give(10, 5)
	for sweeps := uint64(5); sweeps < 7; sweeps++ {
		if slot, _, err := s.get(12, sweeps); err == nil {
			t.Fatalf("slot %d given again after %d sweeps", slot, sweeps-5)
		}
	}
	if slot, fresh, err := s.get(12, 7); err != nil || slot != a || !fresh {
		t.Fatalf("after two sweeps: %d %v %v", slot, fresh, err)
	}
}

func TestSlots_Busy_IsNotGiven(t *testing.T) {
	busy := true
	s := newSlots("things", 2, nil, func(uint32) bool { return busy })
	slot, _, _ := s.get(10, 0)
	s.give(10, 0)
	if _, _, err := s.get(11, 100); err == nil {
		t.Fatal("a slot that flows refer to was given")
	}
	busy = false
	if again, _, err := s.get(11, 100); err != nil || again != slot {
		t.Fatalf("got %d %v", again, err)
	}
}

func TestSlots_Adopted_NamesKeepTheirSlots(t *testing.T) {
	kernel := map[uint32]uint64{3: 33, 7: 77}
	s := newSlots("things", 10, func(slot uint32) uint64 { return kernel[slot] }, nil)
	s.rest(func(slot uint32) bool { return slot == 8 }, 0)
	if s.find(33) != 3 || s.find(77) != 7 {
		t.Fatalf("found %d and %d", s.find(33), s.find(77))
	}
	if slot, _, err := s.get(88, 0); err != nil || slot == 3 || slot == 7 || slot == 8 {
		t.Fatalf("new name got %d %v", slot, err)
	}
	var left []uint32
	s.others(map[uint64]bool{33: true, 88: true}, func(_ uint64, slot uint32) { left = append(left, slot) })
	if len(left) != 1 || left[0] != 7 {
		t.Fatalf("not kept: %v", left)
	}
}

func TestIdent_Parts_AreNotConcatenated(t *testing.T) {
	if ident("ab", "c") == ident("a", "bc") || ident("a") == ident("a", "") {
		t.Fatal("different names have one ident")
	}
}
