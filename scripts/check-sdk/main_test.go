package main

import (
	"bytes"
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
	if count.Failed > 0 || count.Passed < 40 {
		t.Errorf("%d passed, %d failed:\n%s", count.Passed, count.Failed, out.String())
	}
}
