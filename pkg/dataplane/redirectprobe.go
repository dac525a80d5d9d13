package dataplane

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// redirectProbe finds out whether a device takes frames that XDP redirects to it, where the kernel
// (before 6.3) has no xdp-features: it sends one and looks. Owned by the Dataplane's mutex.
type redirectProbe struct {
	objects probeObjects
	seen    link.Link
}

func openRedirectProbe() (*redirectProbe, error) {
	p := &redirectProbe{}
	if err := loadProbeObjects(&p.objects, nil); err != nil {
		return nil, loadError("probe", err)
	}
	var err error
	if p.seen, err = link.AttachTracing(link.TracingOptions{Program: p.objects.RedirectSeen}); err != nil {
		return nil, errors.Join(fmt.Errorf("watch redirected frames: %w (needs CAP_PERFMON)", err), p.objects.Close())
	}
	return p, nil
}

// Flags of BPF_PROG_TEST_RUN and the EtherType for local experiments (IEEE 802).
const (
	testRunLiveFrames  = 1 << 1
	etherExperimental  = 0x88b5
	redirectProbeBytes = 60
)

// takes sends a frame out of dev that nobody takes for his: from and to dev's own MAC. It runs in dev's namespace.
func (p *redirectProbe) takes(dev device) (bool, error) {
	if len(dev.mac) != 6 || !dev.up {
		return false, nil
	}
	frame := make([]byte, 0, redirectProbeBytes)
	frame = append(append(frame, dev.mac...), dev.mac...)
	frame = append(frame, etherExperimental>>8, etherExperimental&0xff)
	frame = frame[:redirectProbeBytes]
	if err := errors.Join(p.objects.ProbeTarget.Set(uint32(dev.ifindex)), p.objects.ProbeSent.Set(uint32(0))); err != nil {
		return false, fmt.Errorf("probe %s for xdp frames: %w", dev.name, err)
	}
	if _, err := p.objects.RedirectProbe.Run(&ebpf.RunOptions{Data: frame, Flags: testRunLiveFrames, Repeat: 1}); err != nil {
		return false, fmt.Errorf("probe %s for xdp frames: %w", dev.name, err)
	}
	var sent uint32
	if err := p.objects.ProbeSent.Get(&sent); err != nil {
		return false, fmt.Errorf("probe %s for xdp frames: %w", dev.name, err)
	}
	return sent > 0, nil
}

func (p *redirectProbe) close() error {
	if p == nil {
		return nil
	}
	return errors.Join(p.seen.Close(), p.objects.Close())
}
