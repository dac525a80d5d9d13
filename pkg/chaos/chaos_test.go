package chaos

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/lab/load"
)

func TestMain(m *testing.M) { lab.Main(m) }

func TestRun_HalfAMinute_NothingLost(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "privlink")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/privlink").CombinedOutput(); err != nil {
		t.Fatalf("build privlink: %v\n%s", err, out)
	}
	var out bytes.Buffer
	result, err := Run(context.Background(), Options{Binary: binary, Duration: 30 * time.Second, Seed: 7, Out: &out, Verbose: true})
	t.Log(out.String())
	t.Log(result)
	if err != nil {
		t.Error(err)
	}
	if result.Faults <= 5 || result.Lost != 0 || result.Broken != 0 {
		t.Errorf("result: %v", result)
	}
	line := regexp.MustCompile(`^\d+ faults, \d+ packets and \d+ connections checked, \d+ packets lost outside fault windows, \d+ connections broken that should not be$`)
	if !line.MatchString(result.String()) {
		t.Errorf("the last line is %q", result)
	}
	for _, k := range Kinds() {
		if !strings.Contains(out.String(), k.What) {
			t.Errorf("the table lacks %q", k.Name)
		}
	}
}

// What existed is excused by the end of its daemon alone, what was new by any window.
func TestUnexcused_ExistingAndNew_OnlyWhatConcernsThem(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	windows := []load.Window{{From: at(10), To: at(12)}, {From: at(20), To: at(22)}}
	endings := windows[1:]
	for _, c := range []struct {
		kind     string
		from, to int
		excused  bool
	}{
		{"short connection", 10, 11, true}, {"new connection", 21, 30, true}, {"short connection", 13, 14, false},
		{"busy connection", 11, 12, false}, {"busy connection", 21, 21, true}, {"silent connection", 1, 19, false}, {"silent connection", 1, 21, true},
	} {
		bad := unexcused([]load.Broken{{From: at(c.from), To: at(c.to), Kind: c.kind}}, windows, endings)
		if excused := len(bad) == 0; excused != c.excused {
			t.Errorf("%+v: excused %v", c, excused)
		}
	}
}
