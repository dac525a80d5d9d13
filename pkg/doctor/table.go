package doctor

import "fmt"

// pressure is from how many percent on a table or the ports of a NAT IP count as nearly full.
const pressure = 80

func tables(s *Subject) ([]Finding, error) {
	var found []Finding
	if s.Status != nil {
		for _, m := range s.Status.Maps {
			if m.Size == 0 || m.Used*100 < m.Size*pressure {
				continue
			}
			f := Finding{
				Check: "table-pressure", Severity: Warning, Object: m.Name,
				What: fmt.Sprintf("map %s holds %d of %d", m.Name, m.Used, m.Size),
				Do:   "remove resources that nobody needs, or spread them over several nodes",
			}
			if m.Name == "flows_v1" {
				f.Do = "lower maxFlowsPerEndpoint or idle timeouts; a larger `flows` in the configuration makes room at the next start, which carries the flows over"
			}
			found = append(found, f)
		}
	}
	for _, p := range s.Ports {
		if p.Size > 0 && uint64(p.Used)*100 >= uint64(p.Size)*pressure {
			found = append(found, Finding{
				Check: "port-pressure", Severity: Warning, Object: p.Address,
				What: fmt.Sprintf("%d of %d %s ports of NAT IP %s to %s are used or rest", p.Used, p.Size, p.Protocol, p.Address, p.Backend),
				Do:   "add a NAT IP to the service (up to 8), or a backend to its pool",
			})
		}
	}
	return found, nil
}
