package capacity

import (
	"fmt"
	"testing"

	"github.com/privlink/privlink/pkg/model"
)

// A consumer scans every port of an endpoint whose rule is for all of them: that costs one bitmap for each
// NAT IP that its flows come from, not one for each port.
func TestPorts_HAPortsScanned_OneBitmapForEachNATIP(t *testing.T) {
	const ports = 65535
	for _, c := range []struct {
		natIPs, domains, opened int
	}{
		{natIPs: 1, domains: 1, opened: model.PortCount}, // the others find no port
		{natIPs: 2, domains: 2, opened: ports},
		{natIPs: 8, domains: 3, opened: ports}, // the first two are half full
	} {
		t.Run(fmt.Sprintf("%d NAT IPs", c.natIPs), func(t *testing.T) {
			onSite(t, 1<<20, c.natIPs, 1, func(s *site) error {
				all := config(s.indexes, s.homes, c.natIPs, 1)
				all.RuleIndex = map[model.RuleKey]uint32{{Service: 1}: 1}
				all.Backends[1].HA = true
				if err := s.Write(&all); err != nil {
					return err
				}
				lane := s.Lane()
				f := newFrame(model.TCP, macs[0], model.MAC{2, 9})
				f[47] = model.SYN
				src, sport := client(0)
				for port := 1; port <= ports; port++ {
					if _, _, err := lane.Send(s.indexes[0], f.address(src, endpoint, sport, uint16(port))); err != nil {
						return err
					}
				}
				stats, err := s.LinkStats(link)
				if err != nil {
					return err
				}
				if int(stats.Opened) != c.opened || int(stats.Opened+stats.Refused) != ports {
					t.Errorf("%d ports got a flow and %d did not, want %d of %d", stats.Opened, stats.Refused, c.opened, ports)
				}
				domains, err := s.Domains()
				if err != nil {
					return err
				}
				if len(domains) != c.domains {
					t.Errorf("%d port domains, want %d", len(domains), c.domains)
				}
				for k := range domains {
					if k.Port != 0 {
						t.Errorf("domain %+v is of one port", k)
					}
				}
				return nil
			})
		})
	}
}
