package vm

import "strings"

// Counts is how many tests of a `go test -v` output passed, failed and were skipped. A test with
// subtests is counted by these, and by itself only if it failed though none of them did.
type Counts struct {
	Passed, Failed, Skipped int
	// Names of the failed and skipped ones.
	FailedTests, SkippedTests []string
}

// Count reads the output of a test binary run with -test.v.
func Count(output string) Counts {
	verdicts := map[string]string{}
	var order []string
	for line := range strings.Lines(output) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] != "---" {
			continue
		}
		verdict := strings.TrimSuffix(fields[1], ":")
		name := fields[2]
		if _, twice := verdicts[name]; !twice && (verdict == "PASS" || verdict == "FAIL" || verdict == "SKIP") {
			verdicts[name] = verdict
			order = append(order, name)
		}
	}
	// Which tests have subtests, and which have a failed one.
	parent, blamed := map[string]bool{}, map[string]bool{}
	for _, name := range order {
		for i, c := range name {
			if c != '/' {
				continue
			}
			parent[name[:i]] = true
			if verdicts[name] == "FAIL" {
				blamed[name[:i]] = true
			}
		}
	}
	var counts Counts
	for _, name := range order {
		failed := verdicts[name] == "FAIL"
		if parent[name] && (!failed || blamed[name]) {
			continue
		}
		switch {
		case failed:
			counts.Failed++
			counts.FailedTests = append(counts.FailedTests, name)
		case verdicts[name] == "SKIP":
			counts.Skipped++
			counts.SkippedTests = append(counts.SkippedTests, name)
		default:
			counts.Passed++
		}
	}
	return counts
}
