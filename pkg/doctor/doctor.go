package doctor

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/dataplane"
	"golang.org/x/sys/unix"
)

// Severity of a finding.
type Severity string

// Severities: an error keeps traffic from flowing or lets in whom it should not; a warning will, or could. An info may be
// meant so, and is nothing wrong.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Info    Severity = "info"
)

// Finding is one thing that is not as it should be.
type Finding struct {
	// Check is a stable name: kernel-too-old, interface-down, ...
	Check    string   `json:"check"`
	Severity Severity `json:"severity"`
	// Object is what it is about: an interface, a file, a map; empty for the machine.
	Object string `json:"object,omitempty"`
	What   string `json:"what"`
	Do     string `json:"do"`
	// Repairable says that Repair can do it.
	Repairable bool `json:"repairable"`
	// Repaired says that Repair did.
	Repaired bool `json:"repaired,omitempty"`
	// Trouble is why Repair could not.
	Trouble string `json:"trouble,omitempty"`

	repair func() error
}

// Subject is what is examined.
type Subject struct {
	// Status is the daemon's; nil if it does not answer, and StatusError says why.
	Status      *api.Status
	StatusError error
	// Kernel is what the daemon finds changed in the kernel, and Mend makes it put that back. With a Status.
	Kernel api.Examination
	Mend   func() error

	BPFFS    string
	StateDir string
	Socket   string
	// Scope begins the ids, in lower case, of what the operator's commands find by its name alone; empty = everything.
	Scope string

	// Release is the kernel's, Features what it has of what is needed, and Proc where its settings are; empty = this machine's.
	Release  string
	Features []dataplane.Feature
	Proc     string
	// Offloads reads and sets the flags of a device's offloads; nil = the device's own.
	Offloads Offloads
}

// Offloads are a device's offloads that matter here.
type Offloads interface {
	// Flags are the ETH_FLAG_ bits of linux/ethtool.h.
	Flags(device string) (uint32, error)
	SetFlags(device string, flags uint32) error
}

// Examine finds what is wrong, the kernel's side first.
func Examine(s Subject) ([]Finding, error) {
	if s.Proc == "" {
		s.Proc = "/proc"
	}
	if s.Offloads == nil {
		s.Offloads = ethtool{}
	}
	if s.Release == "" {
		var name unix.Utsname
		if err := unix.Uname(&name); err != nil {
			return nil, fmt.Errorf("ask for the kernel's release: %w", err)
		}
		s.Release = unix.ByteSliceToString(name.Release[:])
	}
	if s.Features == nil {
		var err error
		if s.Features, err = dataplane.Features(); err != nil {
			return nil, err
		}
	}
	if s.Mend != nil {
		s.Mend = sync.OnceValue(s.Mend) // one for all findings
	}
	var all []Finding
	for _, check := range []func(*Subject) ([]Finding, error){kernel, daemon, files, pins, entries, interfaces, tables} {
		found, err := check(&s)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	for i := range all {
		all[i].Repairable = all[i].repair != nil
	}
	return all, nil
}

// Repair does what can be done safely, and marks the findings.
func Repair(found []Finding) {
	for i := range found {
		f := &found[i]
		if f.repair == nil {
			continue
		}
		if err := f.repair(); err != nil {
			f.Trouble = err.Error()
			continue
		}
		f.Repaired = true
	}
}

// named is a resource as a command takes it.
func (s *Subject) named(id string) string {
	if strings.HasPrefix(strings.ToLower(id), s.Scope) {
		return last(id)
	}
	return id
}

// mode is a finding for a file or folder that others may use, if they may.
func mode(check, path, what string, allowed os.FileMode) []Finding {
	info, err := os.Stat(path)
	if err != nil {
		return nil // not there: others say so where it matters
	}
	have := info.Mode().Perm()
	if have&^allowed == 0 {
		return nil
	}
	return []Finding{{
		Check: check, Severity: Error, Object: path,
		What:   fmt.Sprintf("it has mode %#o: %s", have, what),
		Do:     fmt.Sprintf("chmod %#o %s", have&allowed, path),
		repair: func() error { return os.Chmod(path, have&allowed) },
	}}
}
