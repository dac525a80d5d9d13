package doctor

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/privlink/privlink/pkg/dataplane"
)

// atOnce is what to do about what the daemon mends by itself or when it is asked to.
const atOnce = "privlink doctor --fix lets the daemon put it back"

// pins looks at what is pinned: the daemon says how it differs from what it made; without a daemon, whether the programs are still
// on their interfaces.
func pins(s *Subject) ([]Finding, error) {
	found, err := bpffs(s)
	if err != nil || len(found) > 0 {
		return found, err // everything that was pinned is missing: said once
	}
	if s.Status == nil {
		return detached(s)
	}
	if s.Kernel.PrivateBPFFS {
		found = append(found, Finding{
			Check: "bpffs-private", Severity: Warning, Object: s.BPFFS,
			What: "the bpffs is among mounts of the daemon's own: with the daemon ends what is in the kernel, and all traffic",
			Do: "start the daemon among the machine's mounts; in a namespace of `ip netns` with nsenter --net=/run/netns/NAME privlink run, " +
				"as ip netns exec mounts a /sys of its own",
		})
	}
	var lost []string
	for _, p := range s.Kernel.Pins {
		switch dataplane.PinWhy(p.Why) {
		case dataplane.PinLeft:
			found = append(found, Finding{
				Check: "pin-left", Severity: Warning, Object: p.Path,
				What:   "a program is pinned for an interface that no network has",
				Do:     "rm " + p.Path,
				repair: func() error { return os.Remove(p.Path) },
			})
		case dataplane.PinOther:
			lost = append(lost, p.Path+" leads to something else")
		default:
			lost = append(lost, p.Path+" is gone")
		}
	}
	if len(lost) > 0 {
		found = append(found, Finding{
			Check: "pin-missing", Severity: Error, Object: s.BPFFS,
			What:   "somebody removed or replaced files that keep the dataplane alive while no daemon runs: " + some(lost),
			Do:     atOnce + "; if that fails, see what the daemon logs, and who else writes to " + s.BPFFS,
			repair: s.Mend,
		})
	}
	for _, name := range s.Kernel.Detached {
		found = append(found, Finding{
			Check: "program-gone", Severity: Error, Object: name,
			What:   "somebody took privlink's program off " + name + ": its packets pass privlink by",
			Do:     atOnce + "; if it happens again, find out who does it: another agent that manages BPF programs or tc filters",
			repair: s.Mend,
		})
	}
	return found, nil
}

// bpffs is a finding where nothing can be pinned.
func bpffs(s *Subject) ([]Finding, error) {
	on, err := dataplane.OnBPFFS(s.BPFFS)
	if on || err != nil {
		return nil, err
	}
	at := s.BPFFS
	if strings.HasPrefix(at, "/sys/fs/bpf/") {
		at = "/sys/fs/bpf"
	}
	f := Finding{
		Check: "bpffs-missing", Severity: Error, Object: at,
		What:   "no bpffs is mounted at " + at + ": programs and maps cannot be kept while no daemon runs",
		Do:     fmt.Sprintf("mount -t bpf bpf %s; privlink run does it too, where it may mount", at),
		repair: func() error { return dataplane.MountBPFFS(s.BPFFS) },
	}
	if s.Mend != nil {
		f.repair = func() error {
			if err := s.Mend(); err != nil { // which pins again what was there
				return err
			}
			if on, err := dataplane.OnBPFFS(s.BPFFS); on || err != nil {
				return err
			}
			return errors.New("the daemon has it, among mounts of its own: look from there (nsenter -t PID -m -n privlink doctor)")
		}
	}
	return []Finding{f}, nil
}

// detached are pins of programs that are on no interface any more.
func detached(s *Subject) ([]Finding, error) {
	links, err := dataplane.PinnedLinks(s.BPFFS)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, l := range links {
		if l.Ifindex != 0 {
			continue
		}
		found = append(found, Finding{
			Check: "program-gone", Severity: Error, Object: l.Interface,
			What: fmt.Sprintf("privlink's program is no longer on %s: somebody took it away, or deleted the interface", l.Interface),
			Do:   "start the daemon, which attaches it again where there is such an interface",
		})
	}
	return found, nil
}

// entries are what the maps hold otherwise than the resources say.
func entries(s *Subject) ([]Finding, error) {
	var found []Finding
	for i, d := range s.Kernel.Differences {
		have, want := "the kernel has: "+d.Have, "the resources say: "+d.Want
		if d.Have == "" {
			have = "the kernel does not have it"
		}
		if d.Want == "" {
			want = "the resources have no such thing"
		}
		f := Finding{
			Check: "kernel-differs", Severity: Error, Object: d.Object,
			What:   beginnings.ReplaceAllString(have+"; "+want, "") + " (somebody changed a map by hand)",
			Do:     atOnce,
			repair: s.Mend,
		}
		if i == mostEntries {
			f.Object, f.What = "", fmt.Sprintf("%d entries more differ from what the resources say", len(s.Kernel.Differences)-i)
			return append(found, f), nil
		}
		found = append(found, f)
	}
	return found, nil
}

// beginnings are those of ids, of which a sentence is easier to read without.
var beginnings = regexp.MustCompile(`/subscriptions/[^/]+/resourcegroups/[^/]+/providers/microsoft\.network/`)

// mostEntries are shown one by one: who empties a map changes thousands.
const mostEntries = 20

// some are the first few of a list.
func some(list []string) string {
	const few = 3
	if len(list) <= few {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:few], ", "), len(list)-few)
}
