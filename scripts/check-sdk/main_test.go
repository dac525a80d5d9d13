package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/scripts/check-sdk/check"
)

func TestMain(m *testing.M) { lab.Main(m) }

func TestStory_BothMajors_EveryOperation(t *testing.T) {
	var out bytes.Buffer
	count := &check.Count{Out: &out}
	if err := tell(t.Context(), lab.New(t), count); err != nil {
		t.Error(err)
	}
	// A caller of nothing misses everything, so that the check of every operation can fail.
	if err := everyOperation(t.Context(), &check.Called{}); err == nil || strings.Count(err.Error(), ",") < 60 {
		t.Errorf("nothing was called: %v", err)
	}
	if count.Failed > 0 || count.Passed < 200 {
		t.Errorf("%d passed, %d failed:\n%s", count.Passed, count.Failed, out.String())
	}
}
