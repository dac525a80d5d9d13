package privilege

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Capability is one of capabilities(7).
type Capability struct {
	Number uint
	Name   string
	// Why the daemon needs it.
	Why string
	// Optional says that without it something is slower or smaller, and the daemon works.
	Optional bool
}

// Needed are the daemon's capabilities. CAP_BPF and CAP_PERFMON are not among them: wherever the kernel asks for one of these it
// takes CAP_SYS_ADMIN as well, which nothing else replaces.
var Needed = []Capability{
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "attaches programs to interfaces, makes the splice path's veth, writes its sysctls", false},
	{unix.CAP_NET_RAW, "CAP_NET_RAW", "asks and announces addresses by ARP on packet sockets", false},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "makes maps, loads programs and opens them by their ids, mounts a bpffs, enters the splice path's namespace", false},
	{unix.CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE", "keeps pipes at full size after the first 1,024, raises its limit of descriptors", true},
	{unix.CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE", "listens for TLS on a port below 1,024, where configured", true},
}

// Held is the set of capabilities the calling thread may use, a bit for each.
func Held() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	return uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted), nil
}

// needed is Needed as a set.
func needed() (set uint64) {
	for _, c := range Needed {
		set |= 1 << c.Number
	}
	return set
}

// Missing are those of Needed that the process does not have.
func Missing() ([]Capability, error) {
	held, err := Held()
	if err != nil {
		return nil, err
	}
	var missing []Capability
	for _, c := range Needed {
		if held&(1<<c.Number) == 0 {
			missing = append(missing, c)
		}
	}
	return missing, nil
}

// Confine gives up every capability that is not Needed. A process of root's that has more executes itself
// again without them, and so does not return; with nothing to give up, or nothing that it could, Confine
// returns. Call it before anything else: descriptors that are closed on exec are lost, goroutines too.
func Confine() error {
	held, err := Held()
	if err != nil {
		return err
	}
	if held&^needed() == 0 || os.Geteuid() != 0 || held&(1<<unix.CAP_SETPCAP) == 0 {
		return nil
	}
	// Capabilities belong to threads: exec gives the process those of this one.
	runtime.LockOSThread()
	for number := uint(0); number < 64; number++ {
		if needed()&(1<<number) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(number), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // the kernel's last one was before
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", number, err)
		}
	}
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("execute again without other capabilities: %w", err)
	}
	if err := unix.Exec(executable, os.Args, os.Environ()); err != nil {
		return fmt.Errorf("execute again without other capabilities: %w", err)
	}
	return nil
}

// Hint says what a process may lack that was not permitted something.
func Hint() string { return "run it as root, or with " + Names(Needed) }

// Names joins the names of capabilities.
func Names(list []Capability) string {
	var names []string
	for _, c := range list {
		names = append(names, c.Name)
	}
	return strings.Join(names, " ")
}
