package main

import (
	"context"
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

// flowsOf counts the live flows of links, those included whose ends have not heard yet that they ended.
func (d *daemon) flowsOf(links map[string]bool) (n int, err error) {
	err = d.plane.Flows(context.Background(), func(f dataplane.Flow) bool {
		if links[f.Link] && !f.Inner {
			n++
		}
		return true
	})
	return n, err
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
