package doctor

import (
	"fmt"
	"strings"
)

// pressure is from how many percent on a table or a service's ports count as nearly full.
const pressure = 80

// reliefs are what to do about tables, by the beginnings of their names.
var reliefs = []struct{ table, do string }{
	{"flows", "make the table larger: `flows: N` in the file of privlink run --config, and restart the daemon (flows are carried over; connections of PROXY services are reset); " +
		"or let endpoints have fewer: privlink service update NAME --max-flows-per-endpoint N, or a shorter --idle-timeout"},
	{"domains", "there is one for each NAT IP, backend, port and protocol in use: take NAT IPs or backends out that nobody needs, or spread services over several nodes"},
	{"dials", "these are connections of PROXY services and probes on their way to backends: spread such services over several nodes"},
	{"", "remove resources that nobody needs, or spread them over several nodes"},
}

func tables(s *Subject) ([]Finding, error) {
	var found []Finding
	if s.Status != nil {
		for _, m := range s.Status.Maps {
			if m.Size == 0 || m.Used*100 < m.Size*pressure {
				continue
			}
			f := Finding{
				Check: "table-pressure", Severity: Warning, Object: m.Name,
				What: fmt.Sprintf("%d of at most %d %s: when it is full, new ones are refused", m.Used, m.Size, m.Noun),
			}
			for _, r := range reliefs {
				if strings.HasPrefix(m.Name, r.table) {
					f.Do = r.do
					break
				}
			}
			found = append(found, f)
		}
	}
	if s.Status != nil {
		if p := s.Status.Proxied; p.Limit > 0 && p.Connections*100 >= uint64(p.Limit)*pressure {
			found = append(found, Finding{
				Check: "proxy-pressure", Severity: Warning,
				What: fmt.Sprintf("%d of at most %d connections of PROXY services: when there are as many, new ones are reset", p.Connections, p.Limit),
				Do: "let there be more: `proxyConnections: N` in the file of privlink run --config, where the limit of descriptors allows it (LimitNOFILE= in the systemd unit), " +
					"and restart the daemon (which resets them); or let one consumer have fewer: `proxyConnectionsPerLink: N` there",
			})
		}
	}
	for _, p := range s.Kernel.Ports {
		if p.Size == 0 || p.Used*100 < p.Size*pressure {
			continue
		}
		f := Finding{
			Check: "port-pressure", Severity: Warning, Object: p.ID,
			What: fmt.Sprintf("%d of the %d %s ports that the NAT IPs of service %s have towards %s are used or rest: when all are, new flows to it are refused",
				p.Used, p.Size, p.Protocol, last(p.ID), p.Backend),
			Do: fmt.Sprintf("give the service a NAT IP more, up to 8 (privlink service update %s --nat-ip-count N; where their addresses were chosen, --nat-ip for each of them and the new one), or its pool a backend more", s.named(p.ID)),
		}
		if strings.Contains(p.ID, "/frontendipconfigurations/") {
			f.What = fmt.Sprintf("%d of the %d %s ports that frontend %s has towards %s are used or rest: when all are, new flows of its own network to it are refused",
				p.Used, p.Size, p.Protocol, last(p.ID), p.Backend)
			f.Do = "give its pool a backend more, or its load balancer another frontend"
		}
		found = append(found, f)
	}
	return found, nil
}
