package main

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/control"
	"github.com/privlink/privlink/pkg/dataplane"
)

// daemon joins the parts of `privlink run`: it carries what the dataplane finds out to the control plane and
// answers the server's questions about both.
type daemon struct {
	log     *logrus.Logger
	started time.Time
	plane   *dataplane.Dataplane
	inside  *inside
	// kept is where the resources are.
	kept interface{ Check() error }
	// bpffs and stateDir are its folders, absolute.
	bpffs, stateDir string
	// private says that the bpffs is among mounts of the daemon's own.
	private bool
	// socketMode is what the Unix socket is made with.
	socketMode os.FileMode
	serves     bool // everything it needs is open: what an earlier daemon had is not needed any more

	// mu guards controller, which the dataplane's first reports precede.
	mu         sync.Mutex
	controller *control.Controller
}

// attach lets reports reach the controller from now on.
func (d *daemon) attach(controller *control.Controller) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.controller = controller
}

// report hands the dataplane's result on.
func (d *daemon) report() {
	d.mu.Lock()
	controller := d.controller
	d.mu.Unlock()
	if controller != nil {
		controller.Report(d.plane.Result())
	}
}

// liveFlows calls yield for the live flows, those included whose ends have not heard yet that they ended.
func (d *daemon) liveFlows(yield func(control.Flow) bool) error {
	return d.plane.Flows(context.Background(), func(f dataplane.Flow) bool {
		return yield(control.Flow{Link: f.Link, NAT: f.NAT.Addr(), Inner: f.Inner})
	})
}

// healthChanged lets the control plane look at the probes' verdicts again.
func (d *daemon) healthChanged() {
	d.mu.Lock()
	controller := d.controller
	d.mu.Unlock()
	if controller != nil {
		controller.HealthChanged()
	}
}
