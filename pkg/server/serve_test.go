package server

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/auth"
)

// entered is an Identifier that takes everybody for root, and tells of each request.
type entered chan struct{}

func (e entered) Identify(context.Context, Peer) (auth.Actor, error) {
	e <- struct{}{}
	return auth.Root(), nil
}

// Who waits for news of the journal does not hold up the end of the server: that there is none is an answer.
func TestServe_Ends_WhoWaitsForNewsIsAnswered(t *testing.T) {
	w := newWorld(t)
	listener, err := ListenTCP(TCPOptions{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(entered)
	w.options.Identifier = waiting
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- New(w.options).Serve(ctx, listener) }()
	answered := make(chan int, 1)
	go func() {
		r, err := http.Get("http://" + listener.Addr().String() + "/privlink/journal?wait=true&after=1000000")
		if err != nil {
			t.Error(err)
			answered <- 0
			return
		}
		r.Body.Close()
		answered <- r.StatusCode
	}()
	<-waiting
	begin := time.Now()
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took >= closeTimeout {
		t.Errorf("it ended after %v, when it had lost patience", took)
	}
	if status := <-answered; status != http.StatusOK {
		t.Errorf("the answer: %d", status)
	}
}
