package main

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

func TestRun_CascadeDelete_BothEndsAreReset(t *testing.T) {
	r := newLinkRig(t, "tc")
	r.must("connection approve --service shop --name to-shop")
	client, served := r.establish()
	if code, message := refusal(t, r.Daemon, "service", "delete", "shop"); code != exitRefused || !strings.Contains(message, "or delete with --cascade") {
		t.Errorf("without --cascade: (%d) %s", code, message)
	}
	if _, err := r.CLI(t.Context(), "service", "delete", "shop", "--cascade"); err != nil {
		t.Fatal(err)
	}
	wantReset(t, "client", client)
	wantReset(t, "server", served)
	if code, _ := refusal(t, r.Daemon, "service", "show", "shop"); code != exitNotFound {
		t.Errorf("the service is still there: exit code %d", code)
	}
	if out, err := r.CLI(t.Context(), "endpoint", "show", "to-shop"); err != nil || !strings.Contains(out, "Disconnected") {
		t.Errorf("the endpoint: %v\n%s", err, out)
	}
}

// An end that cannot be asked keeps the service Deleting for a while, over a crash of the daemon too.
func TestRun_CascadeDelete_SilentEndAndCrash_EndsAnyway(t *testing.T) {
	r := newLinkRig(t, "tc")
	r.must("connection approve --service shop --name to-shop")
	client, served := r.establish()
	r.vm.Down("eth0")
	deleted := make(chan error, 1)
	go func() {
		_, err := r.CLI(t.Context(), "service", "delete", "shop", "--cascade")
		deleted <- err
	}()
	wantReset(t, "server", served)
	deleting := func() error {
		out, err := r.CLI(t.Context(), "service", "show", "shop", "-o", "json")
		if err == nil && !strings.Contains(out, `"provisioningState": "Deleting"`) {
			err = errors.New("the service is not Deleting:\n" + out)
		}
		return err
	}
	if err := deleting(); err != nil {
		t.Error(err)
	}
	r.Kill()
	if err := <-deleted; err == nil {
		t.Error("the command says that the service is gone")
	}
	r.Start(t.Context())
	if err := deleting(); err != nil {
		t.Errorf("after the crash: %v", err)
	}
	r.Namespace.Lab().Wait("the service to be gone", 30*time.Second, func() error {
		out, err := r.CLI(t.Context(), "service", "show", "shop")
		var exit *lab.ExitError
		if errors.As(err, &exit) && exit.Code == exitNotFound {
			return nil
		}
		return errors.Join(err, errors.New("it is there:\n"+out))
	})
	// The client hears of it when it speaks.
	r.vm.Up("eth0")
	if _, err := io.WriteString(client, "hello"); err != nil {
		t.Fatal(err)
	}
	wantReset(t, "client", client)
}
