package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
	"github.com/privlink/privlink/pkg/control"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
	"github.com/privlink/privlink/pkg/store"
)

const (
	manyWriters = 8
	hookAddress = "127.0.0.1:8099"
	// settleWithin is how long the kernel may take to be what the store says: less than the daemon's resync,
	// which must not be what repairs it.
	settleWithin = 15 * time.Second
	// innerNetwork is the splice's, which the store does not know.
	innerNetwork = "inner"
)

// world is a daemon, those who write to it, and what they may expect.
type world struct {
	lab     *lab.Lab
	gw      *lab.Namespace
	daemon  *lab.Daemon
	api     *client.Client
	writers []*writer
	random  *rand.Rand
	hook    *hook
	tally   tally
	news    []string // lines to print
}

func newWorld(ctx context.Context, l *lab.Lab, seed uint64) (*world, error) {
	w := &world{lab: l, gw: l.Namespace("gw"), random: rand.New(rand.NewPCG(seed, 0)), tally: tally{fell: map[moment]int{}}}
	web := l.VM(w.gw, "web", "10.0.0.4/8", lab.VethOptions{})
	// The provider's machine answers for every backend.
	if _, err := web.Run(ctx, "ip", "route", "add", "local", "10.9.0.0/16", "dev", "lo"); err != nil {
		return nil, err
	}
	var err error
	if w.hook, err = newHook(w.gw); err != nil {
		return nil, err
	}
	secret := l.WriteFile("secret", []byte("of a test"))
	config := l.WriteFile("config.yaml", fmt.Appendf(nil, "flows: 4096\nlogLevel: warn\nwebhooks: [{url: 'http://%s/', secretFile: %s}]\n", hookAddress, secret))
	w.daemon = w.gw.Daemon(ctx, lab.DaemonOptions{Binary: l.Build(ctx, "./cmd/privlink"), Args: []string{"--config", config}})
	if w.api, err = client.New(client.Options{Socket: w.daemon.Socket}); err != nil {
		return nil, err
	}
	documents := provider
	for i := range manyWriters {
		w.writers = append(w.writers, newWriter(w.api, i, seed))
		documents += strings.ReplaceAll(consumer, "NAME", w.writers[i].home)
	}
	if _, err := w.daemon.CLIInput(ctx, documents, "apply", "-f", "-"); err != nil {
		return nil, err
	}
	for _, wr := range w.writers {
		if err := wr.begin(ctx); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *world) close() {
	w.api.Close()
	w.hook.close()
	w.daemon.Stop()
}

const provider = `
type: Microsoft.Network/virtualNetworks
name: dc
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/8]}
  subnets: [{name: fronts, properties: {addressPrefix: 10.8.0.0/16}}, {name: backs, properties: {addressPrefix: 10.9.0.0/16}}]
  attachments: [{interface: web, mode: tc}]
`

const consumer = `
---
type: Microsoft.Network/virtualNetworks
name: NAME
location: local
properties:
  addressSpace: {addressPrefixes: [10.0.0.0/16]}
  subnets: [{name: default, properties: {addressPrefix: 10.0.1.0/24}}]
`

// round lets writers write, kills the daemon, starts it again and looks at what is there.
func (w *world) round(ctx context.Context) error {
	aim := aims()[w.tally.kills%len(aims())]
	hit := inStart
	var err error
	if aim == inStart {
		err = w.killStarting(ctx)
	} else {
		hit, err = w.killWriting(ctx, aim)
	}
	if err != nil {
		return err
	}
	if exit := w.daemon.Process(); strings.Contains(exit.Output(), "panic:") {
		return fmt.Errorf("the daemon panicked: %s", exit.Output())
	}
	state, err := w.left(ctx)
	if err != nil {
		return fmt.Errorf("the store does not open: %w", err)
	}
	if hit == inOther {
		// A daemon that had nothing to apply leaves maps like the store.
		behind, err := dataplane.Differences(w.daemon.BPFFS, state, innerNetwork)
		if err != nil {
			return err
		}
		if len(behind) > 0 {
			hit = inApply
		}
	}
	w.tally.kills++
	w.tally.fell[hit]++
	began := time.Now()
	w.daemon.Start(ctx)
	w.tally.restarts = append(w.tally.restarts, time.Since(began))
	return w.verify(ctx, state)
}

// killWriting kills the daemon while everybody writes.
func (w *world) killWriting(ctx context.Context, aim moment) (hit moment, err error) {
	began, done := time.Now(), make(chan struct{})
	var all sync.WaitGroup
	failed := make([]error, len(w.writers))
	for i, wr := range w.writers {
		all.Go(func() { failed[i] = wr.write(ctx, done) })
	}
	time.Sleep(time.Duration(w.random.Int64N(int64(longestUp))))
	sync, err := w.await(ctx, aim)
	w.daemon.Kill()
	w.tally.up += time.Since(began)
	close(done)
	all.Wait()
	switch {
	case sync:
		hit = inSync
	case w.renaming(began):
		hit = inRename
	default:
		hit = inOther
	}
	for _, wr := range w.writers {
		w.tally.writes += wr.acknowledged
		wr.acknowledged = 0
	}
	return hit, errors.Join(append(failed, err)...)
}

// killStarting stops the daemon in order, and kills the next one before it answers.
func (w *world) killStarting(ctx context.Context) error {
	w.daemon.Stop()
	for {
		p := w.daemon.Launch(ctx)
		time.Sleep(time.Duration(w.random.Int64N(int64(startsWithin))))
		conn, err := net.Dial("unix", w.daemon.Socket)
		p.Kill()
		if err != nil {
			return nil
		}
		conn.Close() // too late: it was up already
	}
}

// left is what the store that a dead daemon left wants of the kernel.
func (w *world) left(ctx context.Context) (state dataplane.State, err error) {
	return stateOf(ctx, filepath.Join(w.daemon.StateDir, stateFile))
}

func stateOf(ctx context.Context, name string) (state dataplane.State, err error) {
	kept, err := store.OpenBolt(name)
	if err != nil {
		return state, err
	}
	defer func() { err = errors.Join(err, kept.Close()) }()
	return control.StateOf(ctx, kept)
}

// verify compares what the restarted daemon and the kernel have with what was acknowledged and what the store says.
func (w *world) verify(ctx context.Context, state dataplane.State) error {
	if err := w.settled(ctx); err != nil {
		return err
	}
	have, err := w.read(ctx)
	if err != nil {
		return err
	}
	for _, wr := range w.writers {
		lost, kept := wr.check(have)
		if wr.doubt != nil {
			w.tally.doubtful++
			w.tally.kept += kept
		}
		w.tally.lost += len(lost)
		for _, line := range lost {
			w.news = append(w.news, fmt.Sprintf("FAIL  kill %d: %s", w.tally.kills, line))
		}
		wr.adopt(have)
	}
	return w.compare(ctx, state)
}

// settled waits until the kernel agrees with the store, as the daemon says, and deletions that a kill interrupted are at
// their end.
func (w *world) settled(ctx context.Context) error {
	return lab.Poll(settleWithin, func() error {
		s, err := w.status(ctx)
		if err == nil && s.AppliedRevision < s.WantedRevision {
			err = fmt.Errorf("revision %d is wanted, the kernel has %d", s.WantedRevision, s.AppliedRevision)
		}
		if err != nil {
			return err
		}
		services, err := client.List[api.PrivateLinkService](ctx, w.api, client.Collection(subscription, resourceGroup, api.PrivateLinkServices), nil)
		for i := range services {
			if services[i].Properties.ProvisioningState == api.Deleting {
				err = fmt.Errorf("service %s is still being deleted", services[i].Name)
			}
		}
		return err
	})
}

func (w *world) status(ctx context.Context) (s api.Status, err error) {
	_, err = w.api.Call(ctx, http.MethodGet, "/privlink/status", nil, nil, nil, &s)
	return s, err
}

// compare counts what the kernel has otherwise than the store says, when both had time to settle: addresses are
// probed, backends asked for.
func (w *world) compare(ctx context.Context, state dataplane.State) error {
	var found []dataplane.Difference
	err := lab.Poll(settleWithin, func() (err error) {
		s, err := w.status(ctx)
		if err != nil {
			return err
		}
		if s.WantedRevision != state.Revision {
			if state, err = w.backup(ctx); err != nil {
				return err
			}
		}
		if found, err = dataplane.Differences(w.daemon.BPFFS, state, innerNetwork); err != nil {
			return err
		}
		if len(found) > 0 {
			return fmt.Errorf("%d differences", len(found))
		}
		return nil
	})
	if err != nil && len(found) == 0 {
		return err
	}
	w.tally.differences += len(found)
	for _, d := range found {
		w.news = append(w.news, fmt.Sprintf("FAIL  kill %d: the kernel: %v", w.tally.kills, d))
	}
	return nil
}

// backup is what the running daemon's store wants of the kernel.
func (w *world) backup(ctx context.Context) (state dataplane.State, err error) {
	body, err := w.api.Stream(ctx, http.MethodGet, "/privlink/backup", nil)
	if err != nil {
		return state, err
	}
	defer body.Close()
	name := w.lab.Path("backup", stateFile)
	file, err := os.Create(name)
	if err != nil {
		return state, err
	}
	_, err = io.Copy(file, body)
	if err := errors.Join(err, file.Close()); err != nil {
		return state, err
	}
	return stateOf(ctx, name)
}

// renaming tells whether a file was left that waited for its rename, made since a time.
func (w *world) renaming(since time.Time) bool {
	left, err := filepath.Glob(filepath.Join(w.daemon.StateDir, "*"+fresh))
	return err == nil && slices.ContainsFunc(left, func(name string) bool {
		info, err := os.Stat(name)
		return err == nil && info.ModTime().After(since)
	})
}

// say prints what is new.
func (w *world) say(out io.Writer) {
	for _, line := range w.news {
		fmt.Fprintln(out, line)
	}
	w.news = nil
}

// summary says where the kills fell and what writing was like.
func (w *world) summary(out io.Writer) {
	t := &w.tally
	if t.kills == 0 {
		return
	}
	var fell []string
	for _, m := range append(moments(), inOther) {
		fell = append(fell, string(m)+" "+strconv.Itoa(t.fell[m]))
	}
	slices.Sort(t.restarts)
	fmt.Fprintf(out, "kills fell on: %s\n", strings.Join(fell, ", "))
	fmt.Fprintf(out, "%.0f acknowledged writes a second for %v; of %d that were not acknowledged when the daemon died the store has %d\n",
		t.rate(), t.up.Round(time.Second), t.doubtful, t.kept)
	fmt.Fprintf(out, "killed daemons answered again after %v in the median, %v at worst\n",
		t.restarts[len(t.restarts)/2].Round(time.Millisecond), t.restarts[len(t.restarts)-1].Round(time.Millisecond))
}
