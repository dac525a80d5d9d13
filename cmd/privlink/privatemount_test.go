package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

// A daemon whose bpffs nobody else has mounted, as below `ip netns exec`, takes what it pinned with it: it says so when it starts
// and when it stops, and doctor finds it. One among the machine's mounts is not taken for it.
func TestRun_BPFFSOfItsOwn_SaysThatTrafficEndsWithIt(t *testing.T) {
	l := lab.New(t)
	gw, binary := l.Namespace("gateway"), l.Build(t.Context(), "./cmd/privlink")
	bpffs := l.Path(filepath.Base(l.BPFFS("private")))                                             // the inner namespace is named after it
	l.OnClose(func() { _ = os.Remove(filepath.Join("/run/netns", innerConfig(bpffs).Namespace)) }) // was mounted over for the daemon only
	process := gw.Start(t.Context(), "unshare", "--mount", binary, "run", "--state-dir", l.Path("state"), "--socket", l.Path("socket"), "--bpffs", bpffs)
	l.Wait("the daemon to serve", 20*time.Second, func() error {
		if !strings.Contains(process.Output(), "msg=serving") {
			return errors.New(process.Output())
		}
		return nil
	})
	const warns = "level=warning msg=\"the bpffs is among mounts of the daemon's own"
	if said := process.Output(); strings.Count(said, warns) != 1 {
		t.Errorf("it said\n%s", said)
	}
	out, err := gw.Run(t.Context(), "nsenter", "-t", fmt.Sprint(process.PID()), "-m", binary, "doctor", "--socket", l.Path("socket"))
	if err == nil || !strings.Contains(out, "bpffs-private") || !strings.Contains(out, "nsenter --net=/run/netns/NAME privlink run") {
		t.Errorf("doctor: %v\n%s", err, out)
	}
	process.Stop()
	if said := process.Output(); !strings.Contains(said, "level=warning msg=\"stopped; what was in the kernel ends") {
		t.Errorf("it said\n%s", said)
	}

	d := gw.Daemon(t.Context(), lab.DaemonOptions{Binary: binary})
	d.Stop()
	if said := d.Process().Output(); strings.Contains(said, warns) || !strings.Contains(said, "stopped; what is in the kernel goes on forwarding") {
		t.Errorf("among the machine's mounts it said\n%s", said)
	}
}
