package server

import (
	"context"
	"errors"
	stdlog "log"
	"net"
	"net/http"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
	"github.com/privlink/privlink/pkg/control"
)

// Identifier finds out who a peer is. A peer that is nobody is an *api.Error with status 401.
type Identifier interface {
	Identify(ctx context.Context, peer Peer) (auth.Actor, error)
}

// principals are those that the control plane knows.
type principals struct{ *control.Controller }

// Identify implements Identifier.
func (p principals) Identify(ctx context.Context, peer Peer) (auth.Actor, error) {
	credentials := auth.Credentials{Token: peer.Token, From: peer.Address}
	if peer.Unix != nil {
		uid := peer.Unix.UID
		credentials.UID, credentials.GIDs = &uid, append([]uint32{peer.Unix.GID}, peer.Unix.Groups...)
	}
	if peer.Certificate != nil {
		credentials.Certificate = peer.Certificate.Subject.CommonName
	}
	return p.Controller.Identify(ctx, credentials)
}

// Observer is what the API tells of the dataplane.
type Observer interface {
	// Status is how daemon and dataplane are.
	Status(ctx context.Context) (api.Status, error)
	// Flows calls yield for each live flow until it returns false.
	Flows(ctx context.Context, yield func(Flow) bool) error
	// Ports are the port domains in use, of every NAT IP of a network by its key (the id in lower case).
	Ports(ctx context.Context) ([]Ports, error)
	// Audit compares ports and quotas with the flows.
	Audit(ctx context.Context) (api.Audit, error)
	// Examine compares the kernel with what it should have; Repair makes it so.
	Examine(ctx context.Context) (api.Examination, error)
	Repair(ctx context.Context) error
	// Backends are the backends of the rules of a load balancer by its key (the id in lower case).
	Backends(ctx context.Context, loadBalancer string) ([]api.BackendHealth, error)
}

// Flow is a live flow with the keys of what it belongs to.
type Flow struct {
	api.Flow
	Network string // key of the consumer's network
	Link    string // key of the link: the endpoint's id in lower case, or a frontend's
	RuleSet string // key of the rule set: the service's id in lower case, or a frontend's
}

// Ports is a port domain with the network it is in.
type Ports struct {
	api.PortUse
	Network string // key
}

// Options are what a Server is made of.
type Options struct {
	Controller *control.Controller
	// Identifier is nil for the Controller's own principals.
	Identifier Identifier
	Observer   Observer
	// Metrics answers /metrics.
	Metrics http.Handler
	Log     *logrus.Entry
	Now     func() time.Time
	// Quick is how long a write waits for the kernel before it is answered as a long-running operation.
	Quick time.Duration
}

// DefaultQuick covers what the kernel agrees with in one Apply; address probing, and flows that drain, take longer.
const DefaultQuick = 2 * time.Second

// Server answers requests.
type Server struct {
	options Options
	routes  *routes
	// ending ends when Serve does: who waits for news gets an answer then.
	ending context.Context
	end    context.CancelFunc
}

// New makes a Server. It answers as soon as its Handler is used.
func New(options Options) *Server {
	if options.Quick == 0 {
		options.Quick = DefaultQuick
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Identifier == nil {
		options.Identifier = principals{options.Controller}
	}
	s := &Server{options: options}
	s.ending, s.end = context.WithCancel(context.Background())
	s.routes = newRoutes(s.operations())
	return s
}

// Limits on how long a peer may take, so that one who sends nothing holds nothing.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	closeTimeout  = 5 * time.Second // for requests under way when the server stops
	maxHeader     = 64 << 10        // bytes
)

// Serve answers on the listeners until ctx ends or one of them fails. It closes them. Requests under way
// then have closeTimeout left.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	// What goes wrong with a connection (a TLS handshake that fails) is its peer's affair.
	trouble := s.options.Log.WriterLevel(logrus.DebugLevel)
	defer trouble.Close()
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       withPeer,
		ErrorLog:          stdlog.New(trouble, "", 0),
	}
	server.RegisterOnShutdown(s.end)
	failed := make(chan error, len(listeners))
	for _, listener := range listeners {
		go func() { failed <- server.Serve(listener) }()
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if shutdown := server.Shutdown(closing); shutdown != nil {
		server.Close()
	}
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return err
}
