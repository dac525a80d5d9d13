package bench

import (
	"fmt"
	"os"
	"strings"

	"github.com/sirupsen/logrus"
)

const conntrackLimit = "/proc/sys/net/netfilter/nf_conntrack_max"
const conntrackBuckets = "/proc/sys/net/netfilter/nf_conntrack_buckets"

// AllowConntrack raises the host's conntrack limit and hash size, which no namespace has of its own,
// so that nftables may hold the benchmark's flows at its best: without it, it would drop them.
// The function returned puts both back.
func AllowConntrack(flows int) (restore func(), err error) {
	saved := make(map[string]string)
	restore = func() {
		for path, value := range saved {
			if err := os.WriteFile(path, []byte(value), 0); err != nil {
				logrus.WithError(err).WithField("sysctl", path).Warn("sysctl not put back")
			}
		}
	}
	for _, path := range []string{conntrackBuckets, conntrackLimit} {
		old, err := os.ReadFile(path)
		if err != nil {
			restore()
			return nil, fmt.Errorf("read conntrack limits: %w (needs nf_conntrack)", err)
		}
		var have int
		if _, err := fmt.Sscan(string(old), &have); err == nil && have >= flows {
			continue
		}
		if err := os.WriteFile(path, fmt.Appendf(nil, "%d", flows), 0); err != nil {
			restore()
			return nil, fmt.Errorf("raise conntrack limits: %w", err)
		}
		saved[path] = strings.TrimSpace(string(old))
	}
	return restore, nil
}
