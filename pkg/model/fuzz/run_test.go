package fuzz

import (
	"os"
	"strings"
	"testing"
)

// The seeds that once failed, and a short run of new ones: what CI runs in full is `make fuzz`.
func TestRun_RandomPacketsAndEvents_ProgramAndModelAgree(t *testing.T) {
	var log strings.Builder
	result, err := Run(t.Context(), Options{Packets: 50_000, Seed: 1, Log: &log})
	if err != nil {
		t.Fatal(err)
	}
	if result.Differences != 0 {
		t.Errorf("%d differences:\n%s", result.Differences, log.String())
	}
	result.Coverage.Print(os.Stderr)
}
