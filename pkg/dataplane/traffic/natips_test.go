package traffic

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

// A service with one to eight NAT IPs carries by each of them: those before it drain, so that new flows take the next,
// and what they carry stays.
func TestNATIPs_OneToEight_EachCarriesAndTheBackendSeesIt(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			r := newRig(t, rigOptions{consumer: mode, provider: mode, wire: wire()})
			ctx := r.context(time.Minute)
			web := r.backend.Nginx(ctx, lab.NginxOptions{Listen: []string{backendIP + ":80"}, Files: map[string]string{"index.html": "behind the link\n"}})
			logged := 0
			for count := 1; count <= 8; count++ {
				var open []accepted
				for n := range count {
					r.state.RuleSets[0].Sources = sources(count)
					for i := range n {
						r.state.RuleSets[0].Sources[i].Draining = true
					}
					r.apply()
					want := r.state.RuleSets[0].Sources[n].Addr
					if out, err := r.consumers[0].Run(ctx, "curl", "-sS", "--max-time", "5", "http://"+endpointIP+"/"); err != nil || out != "behind the link\n" {
						t.Fatalf("%d of %d NAT IPs: curl: %q, %v", n+1, count, out, err)
					}
					logged++
					r.Wait(fmt.Sprintf("the web server to log %s", want), 5*time.Second, func() error {
						if log := web.AccessLog(); len(log) != logged || !strings.HasPrefix(log[logged-1], want.String()+" ") {
							return fmt.Errorf("its log has %d lines, want %d, and ends with %q", len(log), logged, log[max(0, len(log)-1):])
						}
						return nil
					})
					open = append(open, connect(r, 0, "9001"))
				}
				seen := map[netip.Addr]bool{}
				for n, c := range open {
					if err := say(c, "still there"); err != nil {
						t.Errorf("connection by the %dth of %d NAT IPs, when all but the last drain: %v", n+1, count, err)
					}
					from := netip.MustParseAddrPort(c.server.RemoteAddr().String()).Addr()
					if from != r.state.RuleSets[0].Sources[n].Addr {
						t.Errorf("connection %d came from %s, want %s", n+1, from, r.state.RuleSets[0].Sources[n].Addr)
					}
					seen[from] = true
					c.client.Close()
					c.server.Close()
				}
				if len(seen) != count {
					t.Errorf("%d NAT IPs in use of %d", len(seen), count)
				}
			}
			// with none but draining ones nobody is let in
			for i := range r.state.RuleSets[0].Sources {
				r.state.RuleSets[0].Sources[i].Draining = true
			}
			r.apply()
			if c, err := r.consumers[0].Dial(r.context(5*time.Second), "tcp4", "", endpointIP+":80"); err == nil {
				c.Close()
				t.Error("a new connection by a NAT IP that drains")
			}
		})
	}
}
