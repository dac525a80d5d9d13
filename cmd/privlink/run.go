package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/control"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/metrics"
	"github.com/privlink/privlink/pkg/privilege"
	"github.com/privlink/privlink/pkg/server"
	"github.com/privlink/privlink/pkg/splice"
	"github.com/privlink/privlink/pkg/splice/inner"
	"github.com/privlink/privlink/pkg/store"
	"github.com/privlink/privlink/pkg/webhook"
)

func runCommand(env *environment) *cli.Command {
	return verb{
		name: "run", usage: "run the daemon",
		description: "Ends with SIGTERM or SIGINT. What is in the kernel goes on forwarding and is taken over by the\n" +
			"next run; `privlink down` removes it. Needs root, of whose capabilities it keeps\n" +
			privilege.Names(privilege.Needed) + ".",
		offline: true,
		flags: []cli.Flag{
			&cli.StringFlag{Name: "state-dir", Usage: "`DIR` with the resources [$PRIVLINK_STATE_DIR]", DefaultText: defaultStateDir},
			bpffsFlag(),
			&cli.StringFlag{Name: "config", Usage: "configuration `FILE`, YAML [$PRIVLINK_CONFIG]"},
		},
		run: runDaemon,
	}.command(env)
}

// lockState keeps a second daemon off a state folder. The lock ends with the process or the file.
func lockState(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state folder: %w", err)
	}
	name := filepath.Join(dir, "lock")
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state folder: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, refusedErrorf("another privlink daemon uses the state folder %s (stop it, or choose another --state-dir)", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return file, nil
}

// confine leaves the process the capabilities it needs, and says which of these it lacks.
func confine(env *environment, log logrus.FieldLogger) error {
	if env.confine == nil {
		return nil
	}
	if err := env.confine(); err != nil {
		return err
	}
	missing, err := privilege.Missing()
	if err != nil {
		return err
	}
	for _, m := range missing {
		entry := log.WithFields(logrus.Fields{"capability": m.Name, "for": m.Why})
		if m.Optional {
			entry.Info("goes without a capability")
		} else {
			entry.Warn("a capability is missing")
		}
	}
	return nil
}

// runDaemon is the daemon's whole life: every part is opened in the order in which the next needs it and closed
// in the reverse.
func runDaemon(ctx context.Context, c *call) (err error) {
	config, err := readConfig(c.own("config"))
	if err != nil {
		return &codedError{exitUsage, err}
	}
	log, err := config.logger(c.env)
	if err != nil {
		return &codedError{exitUsage, err}
	}
	mode, err := config.socketMode()
	if err != nil {
		return &codedError{exitUsage, err}
	}
	if err := confine(c.env, log); err != nil {
		return err
	}
	hooks, err := config.hooks()
	if err != nil {
		return &codedError{exitUsage, err}
	}
	if c.env.getenv("GOGC") == "" {
		debug.SetGCPercent(control.GCPercent) // the environment's goes before it
	}
	dir := c.own("state-dir")
	lock, err := lockState(dir)
	if err != nil {
		return privileges(err)
	}
	defer lock.Close()
	kept, err := store.OpenBolt(filepath.Join(dir, "state.db"))
	if err != nil {
		return fmt.Errorf("open state: %w", privileges(err))
	}
	defer func() { err = errors.Join(err, kept.Close()) }()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d := &daemon{log: log, started: c.env.now(), socketMode: mode, kept: kept}
	if d.bpffs, err = filepath.Abs(c.own("bpffs")); err != nil {
		return fmt.Errorf("find the bpffs folder: %w", err)
	}
	if d.stateDir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("find the state folder: %w", err)
	}
	inside, err := openInside(c.own("bpffs"), splice.Config{MaxConnections: config.ProxyConnections, MaxPerLink: config.ProxyConnectionsPerLink}, log)
	switch {
	case errors.Is(err, inner.ErrInUse):
		return refusedErrorf("%w (stop the other daemon, or choose another --bpffs)", err)
	case err != nil:
		return explainKernel(err, kernelRelease(), dataplane.MissingFeatures)
	}
	defer func() { err = errors.Join(err, inside.close(d.serves)) }()
	if err := wantResources(ctx, kept, dir, c.own("bpffs")); err != nil {
		return err
	}
	// Ports that somebody else has are found out before anything in the kernel changes. Who connects to ours waits.
	listeners, err := listenTCP(config.tcp())
	if err != nil {
		return privileges(err)
	}
	defer func() {
		if !d.serves { // else the server closes them
			closeAll(listeners)
		}
	}()
	// It ends with Close or Abandon: until then it serves, also while requests are brought to their end.
	plane, err := dataplane.Open(context.WithoutCancel(ctx), dataplane.Options{
		BPFFS: c.own("bpffs"), Pairs: config.Flows, Inner: inside.options(), Log: log.WithField("part", "dataplane"), Notify: d.report,
		State: func() (dataplane.State, error) { return control.StateOf(ctx, kept) },
	})
	switch {
	case errors.Is(err, dataplane.ErrLocked):
		return refusedErrorf("%w (stop the other daemon, or choose another --bpffs)", err)
	case err != nil:
		return explainKernel(privileges(err), kernelRelease(), dataplane.MissingFeatures)
	}
	defer func() {
		if d.serves {
			err = errors.Join(err, plane.Close())
		} else {
			err = errors.Join(err, plane.Abandon())
		}
	}()
	d.plane, d.inside = plane, inside
	if d.private, err = dataplane.PrivateBPFFS(d.bpffs); err != nil {
		return err
	}
	if d.private {
		log.WithField("bpffs", d.bpffs).Warn("the bpffs is among mounts of the daemon's own: what is in the kernel ends with it, and traffic too " +
			"(in a namespace of `ip netns`: nsenter --net=/run/netns/NAME privlink run)")
	}
	if err := inside.join(plane, d.healthChanged); err != nil {
		return err
	}
	// A backend that was down is so until it has been asked: a restart must not send it new flows.
	stored, err := control.StateOf(ctx, kept)
	if err != nil {
		return err
	}
	inside.before = plane.Verdicts(stored)
	controller, err := control.New(ctx, control.Options{
		Store: kept, Applier: applier{plane, inside}, Health: inside, Probes: inside.ask, Flows: d.liveFlows, AliasSuffix: config.AliasSuffix, Log: log.WithField("part", "control"),
	})
	if err != nil {
		return err
	}
	d.attach(controller)

	socket, err := listenUnix(c.setting("socket"), mode)
	if err != nil {
		return privileges(err)
	}
	listeners = append(listeners, socket)
	answering := server.New(server.Options{
		Controller: controller,
		Observer:   d,
		Metrics:    metrics.Handler(plane, c.env.now, inside.prober, inside.splice),
		Log:        log.WithField("part", "server"),
		Now:        c.env.now,
	})
	told := webhook.Options{Source: controller, Hooks: hooks, Dir: dir, Log: log.WithField("part", "webhook")}
	return d.serve(ctx, cancel, c, answering, listeners, told)
}

// wantResources refuses a store that was never written where the kernel carries networks: it is not the one they come from, and would take them
// all out.
func wantResources(ctx context.Context, kept *store.Bolt, dir, bpffs string) error {
	revision, err := kept.Revision(ctx)
	if err != nil || revision > 0 {
		return err
	}
	networks, err := dataplane.Networks(bpffs)
	if err != nil {
		return privileges(err)
	}
	if networks > 0 {
		return refusedErrorf("%s has no resources, and the kernel carries networks (%d), which a start would take out: put the file back (a backup is one), "+
			"choose the --state-dir that has it, or begin anew with `privlink down`", filepath.Join(dir, "state.db"), networks)
	}
	return nil
}

// serve runs control plane, server and what stands beside them until ctx ends or one of them fails, and waits for all. What
// carries traffic works until the last request has its answer: nobody who holds one open makes the time longer in which there
// are no proxied connections.
func (d *daemon) serve(ctx context.Context, cancel context.CancelFunc, c *call, answering *server.Server, listeners []net.Listener, told webhook.Options) error {
	var beside sync.WaitGroup
	defer beside.Wait()
	beside.Go(func() {
		// Nobody's traffic depends on webhooks: one that fails does not end the daemon.
		if err := webhook.Run(ctx, told); err != nil {
			d.log.WithError(err).Error("webhooks are not told any more")
		}
	})
	working, rest := context.WithCancel(context.WithoutCancel(ctx))
	defer rest()
	ended := make(chan error, 3)
	run := func(part func() error, then ...context.CancelFunc) {
		ended <- part()
		cancel() // one that ends ends all
		for _, end := range then {
			end()
		}
	}
	go run(func() error { return d.controller.Run(working) })
	go run(func() error { return d.inside.run(working, d.plane) })
	go run(func() error { return answering.Serve(ctx, listeners...) }, rest)
	go d.watchdog(working, c.env)
	d.serves = true
	d.plane.Keep()
	if err := notify(c.env, "READY=1"); err != nil {
		d.log.WithError(err).Warn("cannot tell the service manager")
	}
	d.log.WithFields(logrus.Fields{"socket": c.setting("socket"), "took": time.Since(d.started).Round(time.Millisecond)}).Info("serving")
	<-ctx.Done()
	if err := notify(c.env, "STOPPING=1"); err != nil {
		d.log.WithError(err).Warn("cannot tell the service manager")
	}
	err := errors.Join(real(<-ended), real(<-ended), real(<-ended))
	if d.private {
		d.log.Warn("stopped; what was in the kernel ends with the mounts of the daemon's own")
	} else {
		d.log.Info("stopped; what is in the kernel goes on forwarding")
	}
	return err
}

// real leaves out the end that was asked for.
func real(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// listenUnix makes the socket, which nobody else may answer.
func listenUnix(socket string, mode os.FileMode) (net.Listener, error) {
	listener, err := server.ListenUnix(socket, mode)
	if errors.Is(err, server.ErrAnswered) {
		return nil, refusedErrorf("%w (stop it, or choose another --socket)", err)
	}
	return listener, err
}

// listenTCP listens on all addresses or on none.
func listenTCP(all []server.TCPOptions) (listeners []net.Listener, err error) {
	for _, options := range all {
		listener, err := server.ListenTCP(options)
		if err != nil {
			closeAll(listeners)
			return nil, err
		}
		listeners = append(listeners, listener)
	}
	return listeners, nil
}

// closeAll closes listeners that nobody has served on.
func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// oldestKernel is the first that has all that the dataplane needs.
const oldestKernelMajor, oldestKernelMinor = 6, 1

// explainKernel adds to an error that the kernel of a release (such as 6.1.0-18-amd64) is too old, where it is, and what
// it lacks; missing is asked for that.
func explainKernel(err error, release string, missing func() ([]string, error)) error {
	if lacks, errAsk := missing(); errAsk == nil && len(lacks) > 0 {
		err = fmt.Errorf("the kernel lacks what privlink needs: %s: %w", strings.Join(lacks, ", "), err)
	}
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return err
	}
	if major < oldestKernelMajor || major == oldestKernelMajor && minor < oldestKernelMinor {
		return fmt.Errorf("kernel %s is too old, privlink needs %d.%d or newer: %w", release, oldestKernelMajor, oldestKernelMinor, err)
	}
	return err
}

// kernelRelease is what `uname -r` prints; empty if the kernel does not say.
func kernelRelease() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}
