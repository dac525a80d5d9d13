package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/lab/load"
)

// A backend that probes found down gets no new flows from a daemon that has just started, either, which has asked nobody yet.
func TestRestart_BackendDown_GetsNoFlowsBeforeItIsAsked(t *testing.T) {
	l, d, c := loadedGateway(t, lab.DaemonOptions{})
	l.VM(d.Namespace, "silent", "10.0.0.9/16", lab.VethOptions{}) // refuses everything
	vm := l.VM(d.Namespace, "other", "10.0.1.4/16", lab.VethOptions{})
	for _, line := range []string{
		"vnet attach provider --interface silent",
		fmt.Sprintf("lb create two --vnet provider --rule all:0 --backend 10.0.0.4 --backend %s --probe tcp:%d", "10.0.0.9", load.PortEcho),
		"service create two --lb two --nat-ip-count 1 --visibility * --auto-approval *",
		"vnet create other --prefix 10.0.0.0/16 --interface other",
		"endpoint create to-two --vnet other --ip 10.0.1.12 --service " + defaultService("two"),
	} {
		mustRun(t, d, line)
	}
	l.Wait("one backend to be up and one down", 30*time.Second, func() error {
		out, err := d.CLI(t.Context(), "lb", "show", "two")
		if err == nil && !(strings.Contains(out, "10.0.0.4 Up: connected") && strings.Contains(out, "10.0.0.9 Down: connect")) {
			err = errors.New(out)
		}
		return err
	})
	two, err := load.Start(t.Context(), vm, "10.0.1.12", load.Options{Bulk: -1})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		d.Kill()
		moreLoad(l, two, 3)
		d.Start(t.Context())
		moreLoad(l, two, 50) // at 20 ms each: what is sent before the first probe, and after
	}
	wantNothingLost(t, two)
	wantNothingLost(t, c)
}
