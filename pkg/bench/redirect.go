package bench

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Hook is where a BPF forwarder sees its packets.
type Hook string

// Hooks.
const (
	XDP Hook = "xdp"
	TC  Hook = "tc"
)

// attach puts a program on both of a gateway's devices.
func attach(t *Topology, hook Hook, prog *ebpf.Program) ([]link.Link, error) {
	var links []link.Link
	for _, port := range []Port{t.GatewayClient, t.GatewayServer} {
		err := port.NS.Do(func() error {
			var l link.Link
			var err error
			if hook == XDP {
				l, err = link.AttachXDP(link.XDPOptions{
					Program: prog, Interface: port.Index, Flags: link.XDPDriverMode,
				})
			} else {
				l, err = link.AttachTCX(link.TCXOptions{
					Program: prog, Interface: port.Index, Attach: ebpf.AttachTCXIngress,
				})
			}
			if err == nil {
				links = append(links, l)
			}
			return err
		})
		if err != nil {
			detach(links)
			return nil, fmt.Errorf("attach %s to %s: %w", hook, port, err)
		}
	}
	return links, nil
}

func detach(links []link.Link) {
	for _, l := range links {
		_ = l.Close()
	}
}

// Redirect is forwarding alone: bpf_redirect to the other device, nothing read, nothing written.
type Redirect struct {
	hook  Hook
	objs  redirectObjects
	links []link.Link
}

// NewRedirect makes a bare redirect in XDP or TC.
func NewRedirect(hook Hook) *Redirect { return &Redirect{hook: hook} }

// Name implements Forwarder.
func (r *Redirect) Name() string { return string(r.hook) + " redirect" }

// Up implements Forwarder.
func (r *Redirect) Up(t *Topology) error {
	spec, err := loadRedirect()
	if err != nil {
		return err
	}
	if err := setConstants(spec, map[string]any{
		redirectVarClientIfindex: uint32(t.GatewayClient.Index),
		redirectVarServerIfindex: uint32(t.GatewayServer.Index),
	}); err != nil {
		return err
	}
	if err := spec.LoadAndAssign(&r.objs, nil); err != nil {
		return fmt.Errorf("load redirect: %w", err)
	}
	prog := r.objs.RedirectTc
	if r.hook == XDP {
		prog = r.objs.RedirectXdp
	}
	r.links, err = attach(t, r.hook, prog)
	return err
}

// Translation implements Forwarder.
func (*Redirect) Translation() *Translation { return nil }

// TTL implements Forwarder.
func (*Redirect) TTL() uint8 { return 0 }

// Forget implements Forwarder.
func (*Redirect) Forget() error { return nil }

// Drops implements Forwarder.
func (*Redirect) Drops() (uint64, error) { return 0, nil }

// Close implements Forwarder.
func (r *Redirect) Close() error {
	detach(r.links)
	return r.objs.Close()
}

func setConstants(spec *ebpf.CollectionSpec, values map[string]any) error {
	for name, value := range values {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}
