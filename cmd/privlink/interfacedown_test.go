package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

// An interface that is set down or goes away degrades the status, by exit code too, and the log says when it stopped carrying traffic, why,
// and when it began again: each once.
func TestRun_InterfaceDownOrGone_StatusAndLogSayUntilItIsBack(t *testing.T) {
	l, d := gateway(t)
	mustRun(t, d, "vnet create datacenter --prefix 10.0.0.0/16 --interface eth1")
	wait := func(what, problem string) {
		t.Helper()
		l.Wait("the status when "+what, 20*time.Second, func() error {
			out, err := d.CLI(t.Context(), "status")
			if problem == "" {
				return err
			}
			var exit *lab.ExitError
			if !errors.As(err, &exit) || exit.Code != exitFailed || !strings.Contains(out, problem) {
				return fmt.Errorf("%w\n%s", err, out)
			}
			return nil
		})
	}
	wait("attached", "")
	for _, c := range []struct {
		what, problem, reason string
		away, back            func()
	}{
		{"down", "interface eth1 carries no traffic: it is down (ip link set dev eth1 up)", `reason="it is down"`,
			func() { d.Namespace.Down("eth1") }, func() { d.Namespace.Up("eth1") }},
		{"gone", "interface eth1 carries no traffic: attach eth1: no such interface", `reason="attach eth1: no such interface"`,
			func() { d.Namespace.Delete("eth1") },
			func() { l.Veth(d.Namespace, "eth1", l.Namespace("another"), "eth0", lab.VethOptions{}) }},
	} {
		before := len(d.Process().Output())
		c.away()
		wait(c.what, c.problem)
		c.back()
		wait("back", "")
		said := d.Process().Output()[before:]
		if n := strings.Count(said, c.reason); n != 1 || !strings.Contains(said, `level=warning msg="the interface carries no traffic" interface=eth1`) {
			t.Errorf("%s: the log says so %d times:\n%s", c.what, n, said)
		}
		if n := strings.Count(said, `level=info msg="the interface carries traffic again" interface=eth1`); n != 1 {
			t.Errorf("%s: the log says %d times that it is back:\n%s", c.what, n, said)
		}
	}
}
