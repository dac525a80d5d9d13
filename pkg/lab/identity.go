package lab

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// prefix of every name a lab makes. No dots: bpffs refuses them.
const prefix = "plab-"

// owner names a process for as long as the machine is up: a process id is given again, the pair of
// id and start time is not.
type owner struct {
	pid   int
	start uint64 // clock ticks since boot, field 22 of /proc/PID/stat
}

func (o owner) String() string {
	return strconv.Itoa(o.pid) + "-" + strconv.FormatUint(o.start, 36)
}

// alive says whether that very process still exists.
func (o owner) alive() bool {
	start, err := startTime(o.pid)
	return err == nil && start == o.start
}

func self() owner {
	start, err := startTime(os.Getpid())
	if err != nil {
		start = 0 // no /proc: ids are still unique by their random part
	}
	return owner{pid: os.Getpid(), start: start}
}

func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the command in parentheses and may contain anything, also ") ".
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return 0, errors.New("short stat line")
	}
	if fields[0] == "Z" { // waiting for its parent only: as good as gone
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// newID makes the id of a lab: owner and four random hexadecimal digits.
func newID() string {
	var random [2]byte
	rand.Read(random[:]) // never fails
	return self().String() + "-" + hex.EncodeToString(random[:])
}

var idPattern = regexp.MustCompile(`^` + prefix + `((\d+)-([0-9a-z]+)-[0-9a-f]{4})(-.*)?$`)

// parseName takes the lab's id and owner out of a name made by a lab.
func parseName(name string) (id string, o owner, ok bool) {
	m := idPattern.FindStringSubmatch(name)
	if m == nil {
		return "", owner{}, false
	}
	pid, errPID := strconv.Atoi(m[2])
	start, errStart := strconv.ParseUint(m[3], 36, 64)
	return m[1], owner{pid: pid, start: start}, errPID == nil && errStart == nil
}
