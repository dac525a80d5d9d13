package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// guardEnv carries the owner's name to the copy of the executable that watches over it.
const guardEnv = "PRIVLINK_LAB_GUARDIAN"

// A guardian is the executable itself, so the decision to be one comes before main and before
// any test: it is the only thing this package does unasked.
func init() {
	if name := os.Getenv(guardEnv); name != "" {
		watch(name, os.Stdin)
		os.Exit(0)
	}
}

// guardian is the parent's end of the process that removes our labs when we cannot.
type guardian struct {
	pipe io.Writer // the write end of its stdin; the kernel closes it when we die, however we die
}

// processGuardian starts the guardian at its first call. There is one per process because a process
// is what it watches.
var processGuardian = sync.OnceValues(func() (*guardian, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer read.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"plab-guardian"}
	cmd.Env = []string{guardEnv + "=" + self().String(), "TMPDIR=" + os.TempDir()}
	cmd.Dir = "/"
	cmd.Stdin = read
	// Stdout and stderr go to /dev/null: `go test` waits until nobody holds the test's own.
	// A session of its own: a signal to our process group or terminal is not for the guardian.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &guardian{pipe: write}, nil
})

// spare tells the guardian to leave a lab alone.
func (g *guardian) spare(id string) {
	fmt.Fprintln(g.pipe, id)
}

// watch is the guardian's life: it reads the ids of labs to spare until its parent is gone, then
// removes all others of that parent.
func watch(name string, parent io.Reader) {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	spared := map[string]bool{}
	lines := bufio.NewScanner(parent)
	for lines.Scan() {
		spared[strings.TrimSpace(lines.Text())] = true
	}
	_, parentProcess, _ := parseName(prefix + name + "-0000")
	// The pipe closes while the kernel is still ending the parent's threads, one of which may be
	// just making a namespace: wait until the process is gone.
	for deadline := time.Now().Add(10 * time.Second); parentProcess.alive() && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	left := func(id string, o owner) bool { return o == parentProcess && !spared[id] }
	// Devices and processes may need a moment to let go: try once more before giving up.
	for range 2 {
		ids, err := find(left)
		if errors.Join(err, removeAll(ids)) == nil {
			return
		}
		time.Sleep(time.Second)
	}
}
