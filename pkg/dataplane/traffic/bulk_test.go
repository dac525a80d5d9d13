package traffic

import (
	"fmt"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
)

var modes = []dataplane.Mode{dataplane.ModeTC, dataplane.ModeXDP}

// offloads of a VM's own interface: with them its packets arrive large and with partial checksums,
// without them as they would from a wire.
var offloads = []string{"tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-generic-segmentation"}

func TestBulk_EveryMixtureOfModesAndOffloads_ArrivesWhole(t *testing.T) {
	size := bulkSize(t)
	seed := uint64(0)
	for _, consumer := range modes {
		for _, provider := range modes {
			for _, on := range []bool{true, false} {
				for _, gro := range []bool{true, false} {
					t.Run(fmt.Sprintf("consumer %s provider %s offloads %v gro %v", consumer, provider, on, gro), func(t *testing.T) {
						var wire lab.VethOptions
						if !on {
							wire.B.Off = append(wire.B.Off, offloads...)
						}
						if gro {
							wire.B.On = append(wire.B.On, "rx-gro")
						} else {
							wire.B.Off = append(wire.B.Off, "rx-gro")
						}
						r := newRig(t, rigOptions{consumer: consumer, provider: provider, wire: wire})
						server := r.backend.BulkServer(backendIP + ":9000")
						seed++
						_, err := r.consumers[0].Transfer(r.context(time.Minute), "", endpointIP+":9000", lab.Bulk{Put: size, Get: size, Seed: seed})
						if err != nil {
							t.Fatal(err)
						}
						for _, err := range server.Errors() {
							t.Error(err)
						}
					})
				}
			}
		}
	}
}

func TestBulk_OneGiBEachWay_ArrivesWhole(t *testing.T) {
	r := newRig(t, rigOptions{consumer: dataplane.ModeXDP, provider: dataplane.ModeXDP})
	server := r.backend.BulkServer(backendIP + ":9000")
	if _, err := r.consumers[0].Transfer(r.context(3*time.Minute), "", endpointIP+":9000", lab.Bulk{Put: 1 << 30, Get: 1 << 30, Seed: 1 << 32}); err != nil {
		t.Fatal(err)
	}
	for _, err := range server.Errors() {
		t.Error(err)
	}
}
