package bench

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/privlink/privlink/pkg/lab"
)

func TestOptions_QuickOrOnly_ChooseParts(t *testing.T) {
	chosen := func(o Options) []string {
		var names []string
		for _, p := range parts {
			if o.wants(p) {
				names = append(names, p.name)
			}
		}
		return names
	}
	if got := chosen(Options{}); !slices.Equal(got, Parts()) {
		t.Errorf("all: got %v", got)
	}
	if got := chosen(Options{Quick: true}); !slices.Equal(got, []string{"packets", "opening", "load", "control"}) {
		t.Errorf("quick: got %v", got)
	}
	if got := chosen(Options{Quick: true, Only: []string{"tcp"}}); !slices.Equal(got, []string{"tcp"}) {
		t.Errorf("only tcp: got %v", got)
	}
	if _, err := Run(t.Context(), Options{Only: []string{"tpc"}}, nil); err == nil {
		t.Error("a part that does not exist was run")
	}
}

func TestRunPart_Fails_LeavesNoFigureAndIsSaid(t *testing.T) {
	s := &suite{report: &Report{}}
	s.report.Add("kept", 1, "ratio", 1, 1, 1)
	broken := errors.New("a packet was lost")
	err := s.runPart(t.Context(), part{name: "broken", run: func(_ context.Context, s *suite, _ *lab.Lab) error {
		s.report.Add("half", 1, "ratio", 1, 1, 1)
		s.report.addPoint("cost", "half", 1, 1)
		return broken
	}})
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want the part's error", err)
	}
	if len(s.report.Metrics) != 1 || len(s.report.curves) != 0 || len(s.report.Missing) != 1 {
		t.Errorf("after the failure: %+v", s.report)
	}
	if err := s.runPart(t.Context(), part{name: "absent", needs: []string{"no-such-program"}}); err != nil || len(s.report.Missing) != 2 {
		t.Errorf("a missing program: got %v and %v", err, s.report.Missing)
	}
}
