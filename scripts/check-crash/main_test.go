package main

import (
	"bytes"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// A few kills of each aim; `make check-crash` makes 200.
func TestCrash_TenKills_NothingLostAndKernelAgrees(t *testing.T) {
	var out bytes.Buffer
	got, err := crash(t.Context(), lab.New(t), options{kills: 10, seed: uint64(time.Now().UnixNano())}, &out)
	if err != nil || got.kills != 10 || got.lost > 0 || got.differences > 0 || got.writes == 0 {
		t.Errorf("%v %v", got, err)
	}
	t.Log("\n" + out.String())
}

func TestCheck_AcknowledgedAndDoubtful(t *testing.T) {
	const one, two, other = "privateEndpoints/home1-1", "privateEndpoints/home1-2", "privateEndpoints/home2-1"
	for name, c := range map[string]struct {
		expect, doubt, have map[string]string
		lost, kept          int
	}{
		"as acknowledged":                   {map[string]string{one: "a"}, nil, map[string]string{one: "a"}, 0, 0},
		"somebody else's":                   {nil, nil, map[string]string{other: "a"}, 0, 0},
		"lost":                              {map[string]string{one: "a"}, nil, nil, 1, 0},
		"older than acknowledged":           {map[string]string{one: "b"}, nil, map[string]string{one: "a"}, 1, 0},
		"deleted and back":                  {nil, nil, map[string]string{one: "a"}, 1, 0},
		"doubtful and there":                {map[string]string{one: "a"}, map[string]string{one: "b"}, map[string]string{one: "b"}, 0, 1},
		"doubtful and not there":            {map[string]string{one: "a"}, map[string]string{one: "b"}, map[string]string{one: "a"}, 0, 0},
		"doubtful, and neither":             {map[string]string{one: "a"}, map[string]string{one: "b"}, map[string]string{one: "c"}, 1, 0},
		"doubtful end, and there":           {map[string]string{one: "a"}, map[string]string{one: ""}, nil, 0, 1},
		"doubtful, half":                    {nil, map[string]string{one: "a", two: "b"}, map[string]string{one: "a"}, 1, 0},
		"doubtful and there, another lost":  {map[string]string{two: "b"}, map[string]string{one: "a"}, map[string]string{one: "a"}, 2, 0},
		"doubtful and there, others intact": {map[string]string{two: "b"}, map[string]string{one: "a"}, map[string]string{one: "a", two: "b", other: "x"}, 0, 1},
	} {
		w := newWriter(nil, 1, 0)
		w.expect, w.doubt = c.expect, c.doubt
		lost, kept := w.check(reading{values: c.have})
		if len(lost) != c.lost || kept != c.kept {
			t.Errorf("%s: %d lost, %d kept: %q", name, len(lost), kept, lost)
		}
	}
}

func TestTally_Verdict(t *testing.T) {
	good := tally{kills: 200, writes: 1000, up: 5 * time.Second, fell: map[moment]int{inStart: 1, inSync: 1, inRename: 1, inApply: 1}}
	if err := good.verdict(); err != nil {
		t.Error(err)
	}
	if got := good.String(); got != "200 kills, 1000 acknowledged writes, 0 of them lost, 0 differences between kernel and store" {
		t.Error(got)
	}
	for want, change := range map[string]func(*tally){
		"1 acknowledged writes were lost":     func(t *tally) { t.lost = 1 },
		"differed from the store 2 times":     func(t *tally) { t.differences = 2 },
		"50 acknowledged writes a second":     func(t *tally) { t.up = 20 * time.Second },
		`no kill fell on the moment "rename"`: func(t *tally) { t.fell = map[moment]int{inStart: 1, inSync: 1, inApply: 1} },
	} {
		bad := good
		change(&bad)
		if err := bad.verdict(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestOptions_Wrong_Refused(t *testing.T) {
	for _, text := range []string{"0", "-1", "many", strconv.Itoa(1 << 16)} {
		if _, err := readOptions(func(name string) string { return map[string]string{"CRASH_KILLS": text}[name] }); err == nil {
			t.Errorf("CRASH_KILLS=%s was taken", text)
		}
	}
	o, err := readOptions(func(name string) string { return map[string]string{"CRASH_KILLS": "7", "CRASH_SEED": "9"}[name] })
	if err != nil || o != (options{kills: 7, seed: 9}) {
		t.Errorf("%+v %v", o, err)
	}
}
