package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// oldest is the first kernel that has all that the dataplane needs.
const oldestMajor, oldestMinor = 6, 1

func kernel(s *Subject) ([]Finding, error) {
	var found []Finding
	var major, minor int
	if n, _ := fmt.Sscanf(s.Release, "%d.%d", &major, &minor); n != 2 {
		return nil, fmt.Errorf("read the kernel's release %q: no version", s.Release)
	}
	if major < oldestMajor || major == oldestMajor && minor < oldestMinor {
		found = append(found, Finding{
			Check: "kernel-too-old", Severity: Error,
			What: fmt.Sprintf("kernel %s lacks what the packet programs need", s.Release),
			Do:   fmt.Sprintf("boot a kernel of %d.%d or newer", oldestMajor, oldestMinor),
		})
	}
	name := filepath.Join(s.Proc, "sys/net/core/bpf_jit_enable")
	value, err := os.ReadFile(name)
	switch {
	case errors.Is(err, os.ErrNotExist): // a kernel that always compiles
	case err != nil:
		return nil, fmt.Errorf("read whether BPF is compiled: %w", err)
	case strings.TrimSpace(string(value)) == "0":
		found = append(found, Finding{
			Check: "jit-off", Severity: Warning,
			What:   "the kernel interprets BPF instead of compiling it: packets cost many times more",
			Do:     "sysctl net.core.bpf_jit_enable=1, and the same in /etc/sysctl.d; then restart the daemon",
			repair: func() error { return os.WriteFile(name, []byte("1\n"), 0o644) },
		})
	}
	return found, nil
}

// daemon is what the Status says that has no check of its own.
func daemon(s *Subject) ([]Finding, error) {
	if s.Status == nil {
		return []Finding{{
			Check: "daemon-down", Severity: Error, Object: s.Socket,
			What: fmt.Sprintf("the daemon does not answer (%v); what is in the kernel forwards as it is, and follows no change", s.StatusError),
			Do:   "systemctl start privlink, or privlink run; its log says why it ended",
		}}, nil
	}
	var found []Finding
	if s.Status.AppliedRevision < s.Status.WantedRevision && len(s.Status.Problems) == 0 {
		found = append(found, Finding{
			Check: "being-applied", Severity: Info,
			What: fmt.Sprintf("the kernel has revision %d of the resources, and %d is on its way", s.Status.AppliedRevision, s.Status.WantedRevision),
			Do:   "ask again in a moment",
		})
	} else if s.Status.AppliedRevision < s.Status.WantedRevision {
		found = append(found, Finding{
			Check: "not-applied", Severity: Error,
			What: fmt.Sprintf("the kernel has revision %d of the resources, not %d: %s",
				s.Status.AppliedRevision, s.Status.WantedRevision, strings.Join(s.Status.Problems, "; ")),
			Do: "mend the reason; the daemon tries again by itself",
		})
	}
	for _, problem := range s.Status.Problems {
		if strings.Contains(problem, " is in use by ") {
			found = append(found, Finding{
				Check: "address-conflict", Severity: Error, What: problem,
				Do: "take the address from the other machine, or give the endpoint or NAT IP another one; privlink asks again every 5 s",
			})
		}
	}
	for _, warning := range s.Status.Warnings {
		if strings.HasPrefix(warning, "nobody answers for ") {
			found = append(found, Finding{
				Check: "neighbour-unresolved", Severity: Warning, What: warning,
				Do: "start the machine, or attach the interface it is behind, or name a router with --next-hop",
			})
		}
	}
	if s.Status.SweepAgeSeconds > sweepLate {
		found = append(found, Finding{
			Check: "sweep-late", Severity: Error,
			What: fmt.Sprintf("the flow table was last swept %.0f s ago: ports and quotas of ended flows stay taken", s.Status.SweepAgeSeconds),
			Do:   "see the daemon's log; give it processor time, or restart it (traffic does not notice)",
		})
	}
	return found, nil
}

// sweepLate is in seconds; a sweep is due every second.
const sweepLate = 15

// files are those of the daemon that are nobody else's business.
func files(s *Subject) ([]Finding, error) {
	var found []Finding
	found = append(found, mode("bpffs-open", s.BPFFS, "read and change maps", 0o700)...)
	found = append(found, mode("state-open", s.StateDir, "look for resources and secrets", 0o700)...)
	found = append(found, mode("store-open", filepath.Join(s.StateDir, "state.db"), "read all tenants' resources", 0o600)...)
	found = append(found, mode("socket-open", s.Socket, "ask the daemon", 0o770)...)
	return found, nil
}
