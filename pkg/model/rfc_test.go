package model

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// requirements are the numbers that RFC.md must have a line for.
var requirements = map[string]string{
	"4787": "REQ-1 REQ-2 REQ-3 REQ-3a REQ-4 REQ-5 REQ-5a REQ-5b REQ-5c REQ-6 REQ-6a REQ-7 REQ-8 REQ-8a REQ-9 REQ-9a REQ-10 REQ-10a REQ-11 " +
		"REQ-12 REQ-12a REQ-12b REQ-13 REQ-13a REQ-14 REQ-14a",
	"5382": "REQ-1 REQ-2 REQ-2a REQ-3 REQ-3a REQ-3b REQ-4 REQ-4a REQ-5 REQ-5a REQ-6 REQ-7 REQ-8 REQ-8a REQ-9 REQ-10",
	"5508": "REQ-1 REQ-1a REQ-2 REQ-2a REQ-3 REQ-3a REQ-3b REQ-3c REQ-3d REQ-4 REQ-4a REQ-4b REQ-4c REQ-5 REQ-5a REQ-5b REQ-5c REQ-6 REQ-7 " +
		"REQ-7a REQ-8 REQ-9 REQ-10 REQ-11",
	"7857": "2.1 2.2 3 4 5 6 7 7.1 8 9 10 11 12",
	"6056": "3.1 3.2 3.3 3.4 3.5 4",
}

// packetTables is the test that P stands for.
const packetTables = "TestPackets_EveryRow_ProgramsAndModelDoWhatItSays"

func TestRFC_EveryRequirement_HasAnAnswerAndTestsThatExist(t *testing.T) {
	text, err := os.ReadFile("RFC.md")
	if err != nil {
		t.Fatal(err)
	}
	tests, rows := testsOfRepository(t)
	answered := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 5 || requirements[strings.TrimSpace(cells[0])] == "" {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		name := "RFC " + cells[0] + " " + cells[1]
		if answered[name] {
			t.Errorf("%s has two lines", name)
		}
		answered[name] = true
		checkAnswer(t, name, cells[2], cells[3], cells[4])
		for _, test := range named(cells[4]) {
			if row, ok := strings.CutPrefix(test, "P/"); ok {
				if !rows[row] || !tests[packetTables] {
					t.Errorf("%s names the row %q, which the packet tables do not have", name, row)
				}
			} else if !tests[test] {
				t.Errorf("%s names %s, which does not exist", name, test)
			}
		}
	}
	for rfc, numbers := range requirements {
		for _, number := range strings.Fields(numbers) {
			if !answered["RFC "+rfc+" "+number] {
				t.Errorf("RFC %s %s has no line", rfc, number)
			}
		}
	}
}

func checkAnswer(t *testing.T, name, answer, why, tests string) {
	t.Helper()
	switch answer {
	case "yes":
		if tests == "" {
			t.Errorf("%s: yes, without a test", name)
		}
	case "no", "n/a":
		if why == "" {
			t.Errorf("%s: %s, without saying what a user sees", name, answer)
		}
	default:
		t.Errorf("%s: answer %q", name, answer)
	}
}

// named are the tests of a cell. Names of rows have commas of their own: a test begins with Test or P/.
func named(cell string) []string {
	list := regexp.MustCompile(`, (?:P/|Test)`).Split(", "+cell, -1)[1:]
	marks := regexp.MustCompile(`, (P/|Test)`).FindAllStringSubmatch(", "+cell, -1)
	for i := range list {
		list[i] = marks[i][1] + list[i]
	}
	return list
}

// testsOfRepository are the names of all Go tests, and of the rows of the packet tables.
func testsOfRepository(t *testing.T) (tests, rows map[string]bool) {
	t.Helper()
	tests, rows = make(map[string]bool), make(map[string]bool)
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	row := regexp.MustCompile(`(?m)^\t\t\{"([^"]+)", "[a-z_ ]+", `)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range function.FindAllSubmatch(text, -1) {
			tests[string(m[1])] = true
		}
		if strings.Contains(filepath.ToSlash(path), "pkg/model/tables/") {
			for _, m := range row.FindAllSubmatch(text, -1) {
				rows[string(m[1])] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tests, rows
}
