package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// innerPrefix begins the name of the splice path's own interface, which is in no network (see cmd/privlink).
const innerPrefix = "pli-"

// pins compares what is pinned with what the daemon says is attached.
func pins(s *Subject) ([]Finding, error) {
	folder := filepath.Join(s.BPFFS, "links")
	entries, err := os.ReadDir(folder)
	if errors.Is(err, os.ErrNotExist) {
		entries, err = nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pinned links: %w", err)
	}
	if s.Status == nil {
		return nil, nil // the next start of the daemon compares them with the store
	}
	unescape := strings.NewReplacer("~1", ".", "~0", "~")
	wanted := make(map[string]bool) // interfaces, whatever their hook
	for _, a := range s.Status.Interfaces {
		wanted[a.Interface] = true
	}
	var found []Finding
	there := make(map[string]bool)
	for _, e := range entries {
		hook, name, ok := strings.Cut(e.Name(), "-")
		name = unescape.Replace(name)
		path := filepath.Join(folder, e.Name())
		if ok && (wanted[name] || strings.HasPrefix(name, innerPrefix)) {
			there[hook+"-"+name] = true
			continue
		}
		found = append(found, Finding{
			Check: "pin-left", Severity: Warning, Object: path,
			What:   "a program is pinned for an interface that no network has",
			Do:     "rm " + path,
			repair: func() error { return os.Remove(path) },
		})
	}
	for _, a := range s.Status.Interfaces {
		if a.Hook == "tcx" && !there["tcx-"+a.Interface] {
			there["tcx-"+a.Interface] = true
			found = append(found, Finding{
				Check: "pin-missing", Severity: Error, Object: a.Interface,
				What: "the program of " + a.Interface + " is not pinned: the end of the daemon would end its traffic",
				Do:   "the daemon pins it again within a second; see its log if it does not",
			})
		}
	}
	if _, err := os.Stat(filepath.Join(s.BPFFS, "maps", "config_v1")); errors.Is(err, os.ErrNotExist) {
		found = append(found, Finding{
			Check: "pin-missing", Severity: Error, Object: filepath.Join(s.BPFFS, "maps"),
			What: "the maps are not pinned: the next start of the daemon has to look for them",
			Do:   "the daemon pins them again within a second; see its log if it does not, or name its folder with --bpffs",
		})
	}
	return found, nil
}
