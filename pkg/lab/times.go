package lab

import (
	"os"
	"strconv"
)

// Times is how often a test repeats what it does: as often as usual, unless an environment variable says otherwise.
func Times(tb TB, variable string, usual int) int {
	tb.Helper()
	s := os.Getenv(variable)
	if s == "" {
		return usual
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		tb.Fatalf("%s=%s: want a number of times", variable, s)
	}
	return n
}
