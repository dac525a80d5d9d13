package faults

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/privlink/privlink/pkg/lab/load"
	"golang.org/x/sys/unix"
)

// pins are all files below the rig's folder of pins, relative to it.
func (r *rig) pins() []string {
	var found []string
	err := filepath.WalkDir(r.bpffs, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			found = append(found, strings.TrimPrefix(path, r.bpffs+"/"))
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.t.Fatal(err)
	}
	return found
}

func (r *rig) waitPins(want []string) {
	r.t.Helper()
	r.Wait("all pins to be back", 10*time.Second, func() error {
		if have := r.pins(); !slices.Equal(have, want) {
			return fmt.Errorf("%d of %d: %v", len(have), len(want), have)
		}
		return nil
	})
}

func (r *rig) unpin(pins []string) {
	r.t.Helper()
	for _, pin := range pins {
		if err := os.Remove(filepath.Join(r.bpffs, pin)); err != nil {
			r.t.Fatal(err)
		}
	}
}

func TestPins_RemovedWhileRunning_ComeBackAndNothingLost(t *testing.T) {
	for name, o := range hooks {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o)
			d := r.newDaemon()
			d.start()
			r.load(load.Options{})
			all, programs := r.pins(), r.programs()
			for range 2 {
				r.unpin(all)
				r.waitPins(all)
			}
			if err := os.RemoveAll(r.bpffs); err != nil {
				t.Fatal(err)
			}
			r.waitPins(all)
			if now := r.programs(); !maps.Equal(now, programs) {
				t.Errorf("programs were %v, are %v", programs, now)
			}
			d.process.Kill() // what is pinned now is all that keeps it going
			r.more(2)
			d.start()
			r.more(2)
			r.wantNothingLost()
		})
	}
}

func TestPins_FilesystemUnmounted_IsMountedAgainAndNothingLost(t *testing.T) {
	for name, o := range hooks {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o)
			// A mount of its own, as /sys/fs/bpf is everybody's.
			r.bpffs = r.Path("bpf")
			unmount := func() error { return unix.Unmount(r.bpffs, unix.MNT_DETACH) }
			t.Cleanup(func() { _ = unmount() }) // or Down did
			d := r.newDaemon()
			d.start()
			r.load(load.Options{})
			all := r.pins()
			for range 2 {
				if err := unmount(); err != nil {
					t.Fatal(err)
				}
				r.waitPins(all)
			}
			d.process.Kill()
			r.more(2)
			d.start()
			r.more(2)
			r.wantNothingLost()
		})
	}
}

// Whatever pins of maps and programs disappear while no daemon runs, the attached programs know the maps.
func TestPins_RemovedWhileStopped_NextStartFindsTheMaps(t *testing.T) {
	for name, o := range hooks {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o)
			d := r.newDaemon()
			d.start()
			r.load(load.Options{})
			all := r.pins()
			for _, kind := range []string{"maps/config_v1", "maps/vnets_v1", "maps/", "programs/"} {
				d.process.Kill()
				for _, pin := range all {
					if strings.HasPrefix(pin, kind) {
						r.unpin([]string{pin})
					}
				}
				d.start()
				r.waitPins(all)
				r.more(1)
			}
			r.wantNothingLost()
		})
	}
}

// A new daemon that cannot take over one attachment gives all of them their old programs back.
func TestUpgrade_OneAttachmentRefuses_OldProgramsStay(t *testing.T) {
	r := newRig(t, rigOptions{consumers: 2})
	d := r.newDaemon()
	d.start()
	r.load(load.Options{})
	d.process.Stop()
	before := r.programs()
	// A TCX link under the name of an XDP link: the kernel refuses to give it an XDP program.
	trap := filepath.Join(r.bpffs, "links", "xdp-c1")
	pinAgain(t, filepath.Join(r.bpffs, "links", "tcx-c1"), trap)
	for range 5 { // in any order of attachments
		p := d.launch()
		r.Wait("the daemon to fail", 20*time.Second, func() error {
			select {
			case <-p.Exited():
				return nil
			default:
				return errors.New(p.Output())
			}
		})
		if out := p.Output(); !strings.Contains(out, "give xdp on c1 the new program") {
			t.Fatalf("the daemon said %s", out)
		}
		if now := r.programs(); !maps.Equal(now, before) {
			t.Fatalf("programs were %v, are %v", before, now)
		}
		r.more(1)
	}
	if err := os.Remove(trap); err != nil {
		t.Fatal(err)
	}
	d.start()
	if now := r.programs(); len(now) != len(before) || maps.Equal(now, before) {
		t.Errorf("programs were %v, are %v", before, now)
	}
	r.more(2)
	r.wantNothingLost()
}

// pinAgain pins what is pinned at one path at another one as well.
func pinAgain(t *testing.T, from, to string) {
	t.Helper()
	pinned, err := link.LoadPinnedLink(from, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer pinned.Close()
	info, err := pinned.Info()
	if err != nil {
		t.Fatal(err)
	}
	second, err := link.NewFromID(info.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := second.Pin(to); err != nil {
		t.Fatal(err)
	}
}
