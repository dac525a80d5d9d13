package main

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
	"github.com/privlink/privlink/pkg/control"
	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/server"
)

// daemon joins the parts of `privlink run`: it carries what the dataplane finds out to the control plane and
// answers the server's questions about both.
type daemon struct {
	log     *logrus.Logger
	started time.Time
	plane   *dataplane.Dataplane

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

// identifier knows root on the socket and nobody else.
type identifier struct{}

// Identify implements server.Identifier.
func (identifier) Identify(_ context.Context, peer server.Peer) (auth.Actor, error) {
	if peer.Unix != nil && peer.Unix.UID == 0 {
		actor := auth.Root()
		actor.From = peer.Address
		return actor, nil
	}
	return auth.Actor{}, api.NewError(http.StatusUnauthorized, api.CodeUnauthorized, "", "nobody here knows who you are")
}
