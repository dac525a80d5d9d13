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
