package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/privlink/privlink/pkg/dataplane"
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
	for _, f := range s.Features {
		switch {
		case f.Missing && f.Instead == "":
			found = append(found, Finding{
				Check: "feature-missing", Severity: Error, Object: f.Name,
				What: fmt.Sprintf("the kernel, %s, does not have it, and privlink cannot be loaded without", s.Release),
				Do:   fmt.Sprintf("boot a kernel of %d.%d or newer, built with CONFIG_BPF_SYSCALL, CONFIG_DEBUG_INFO_BTF and CONFIG_NET_CLS_BPF", oldestMajor, oldestMinor),
			})
		case f.Missing:
			found = append(found, Finding{
				Check: "feature-missing", Severity: Info, Object: f.Name,
				What: fmt.Sprintf("the kernel, %s, does not have it: %s", s.Release, f.Instead),
				Do:   "nothing; a newer kernel does it better",
			})
		}
	}
	name := filepath.Join(s.Proc, "sys/net/core/bpf_jit_enable")
	off, err := dataplane.JITOff(s.Proc)
	if err != nil {
		return nil, err
	}
	if off {
		found = append(found, Finding{
			Check: "jit-off", Severity: Error,
			What:   "the kernel does not compile BPF (net.core.bpf_jit_enable is 0), and privlink cannot be loaded without: what is loaded goes on, the next start fails",
			Do:     "sysctl net.core.bpf_jit_enable=1, and the same in /etc/sysctl.d; then start the daemon, if it does not run",
			repair: func() error { return os.WriteFile(name, []byte("1\n"), 0o644) },
		})
	}
	return found, nil
}

// daemon is what the Status says that has no check of its own.
func daemon(s *Subject) ([]Finding, error) {
	if s.Status == nil {
		meanwhile := "what is in the kernel forwards as it is, and follows no change"
		if links, err := dataplane.PinnedLinks(s.BPFFS); err == nil && len(links) == 0 {
			meanwhile = "no program of it is at " + s.BPFFS + ": nothing is forwarded, unless --bpffs is another"
		}
		return []Finding{{
			Check: "daemon-down", Severity: Error, Object: s.Socket,
			What: fmt.Sprintf("the daemon does not answer (%v); %s", s.StatusError, meanwhile),
			Do:   "systemctl restart privlink, or privlink run; its log says why it ended, or what it waits for",
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
	for _, x := range s.Status.LeftOut {
		found = append(found, Finding{
			Check: "left-out", Severity: Error, Object: x.ID,
			What: "the kernel does not have it as it should be: " + x.Reason,
			Do:   "change what the reason names; the daemon takes it in with the next change",
		})
	}
	for _, c := range s.Status.Conflicts {
		found = append(found, Finding{
			Check: "address-conflict", Severity: Error, Object: c.Address,
			What: fmt.Sprintf("%s of network %s is in use by the machine with MAC %s behind %s: privlink does not answer for it", c.Address, last(c.Network), c.MAC, c.Interface),
			Do:   "take the address from that machine, or give the endpoint, frontend or NAT IP another one; privlink asks again every few seconds",
		})
	}
	for _, u := range s.Status.Unresolved {
		if u.Asking {
			found = append(found, Finding{
				Check: "neighbour-asked", Severity: Info, Object: u.Address,
				What: fmt.Sprintf("backend %s of network %s is being asked for its MAC", u.Address, last(u.Network)),
				Do:   "ask again in a moment",
			})
			continue
		}
		found = append(found, Finding{
			Check: "neighbour-unresolved", Severity: Warning, Object: u.Address,
			What: fmt.Sprintf("backend %s of network %s gets no new flows: %s", u.Address, last(u.Network), u.Why),
			Do:   relief(s.named(u.Network), dataplane.Missing(u.Missing)),
		})
	}
	if s.Status.SweepAgeSeconds > sweepLate {
		found = append(found, Finding{
			Check: "sweep-late", Severity: Error,
			What: fmt.Sprintf("the flow table was last swept %.0f s ago: ports and quotas of ended flows stay taken", s.Status.SweepAgeSeconds),
			Do:   "see the daemon's log; give it processor time, or restart it (connections of PROXY services are reset, others do not notice)",
		})
	}
	return found, nil
}

// relief is what to do about a backend of a network that is not found.
func relief(network string, missing dataplane.Missing) string {
	attach := "privlink vnet attach " + network + " --interface NAME"
	switch missing {
	case dataplane.MissingAnswer:
		return "start the machine, and look at its address and its cable; or attach the interface that it is behind (" + attach + "); or take it out of its pool"
	case dataplane.MissingHopAnswer:
		return "start that router, or name the right one: " + attach + " --next-hop IP"
	case dataplane.MissingNextHop:
		return "name the router that it is behind: " + attach + " --next-hop IP"
	case dataplane.MissingInterface:
		return "attach the interface that it is behind: " + attach
	}
	return "see to what is missing; the daemon looks again by itself"
}

// last is a resource's name in its id.
func last(id string) string { return id[strings.LastIndexByte(id, '/')+1:] }

// sweepLate is in seconds; a sweep is due every second.
const sweepLate = 15

// files are those of the daemon that are nobody else's business.
func files(s *Subject) ([]Finding, error) {
	var found []Finding
	for _, folder := range []string{"", "maps", "programs", "links"} {
		found = append(found, mode("bpffs-open", filepath.Join(s.BPFFS, folder), "others may read and change maps", 0o700)...)
	}
	found = append(found, mode("state-open", s.StateDir, "others may look for resources and secrets", 0o700)...)
	found = append(found, mode("store-open", filepath.Join(s.StateDir, "state.db"), "others may read all tenants' resources", 0o600)...)
	if s.Kernel.Store != "" {
		found = append(found, Finding{
			Check: "store-gone", Severity: Error, Object: filepath.Join(s.StateDir, "state.db"),
			What: "the daemon's file with all resources is not where the next start looks for it, and nothing is written: " + s.Kernel.Store,
			Do: "privlink backup " + filepath.Join(s.StateDir, "state.db") + ", and systemctl restart privlink; " +
				"a start without it is refused",
		})
	}
	if s.Status != nil { // else nobody listens, and the next start makes it anew
		found = append(found, mode("socket-open", s.Socket, "more may connect to the daemon than the socketMode of its configuration lets", os.FileMode(s.Kernel.SocketMode))...)
	}
	return found, nil
}
