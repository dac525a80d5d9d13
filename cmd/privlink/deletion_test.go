package main

import (
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

// deletionRig is a daemon with a service and an approved endpoint at 10.0.1.10, and an established connection through it.
type deletionRig struct {
	*lab.Daemon
	vm             *lab.Namespace
	client, served net.Conn
}

func newDeletionRig(t *testing.T) *deletionRig {
	t.Helper()
	ctx := t.Context()
	l := lab.New(t)
	gw, web, vm := l.Namespace("gateway"), l.Namespace("web"), l.Namespace("vm")
	l.Veth(gw, "eth1", web, "eth0", lab.VethOptions{B: lab.EndOptions{Addr: "10.0.0.4/16"}})
	l.Veth(gw, "eth2", vm, "eth0", lab.VethOptions{B: lab.EndOptions{Addr: "10.0.1.4/16"}})
	d := gw.Daemon(ctx, lab.DaemonOptions{Binary: l.Build(ctx, "./cmd/privlink")})
	r := &deletionRig{Daemon: d, vm: vm}
	alias := ""
	for _, line := range []string{
		"vnet create datacenter --prefix 10.0.0.0/16 --interface eth1",
		"lb create web --vnet datacenter --rule tcp:80 --backend 10.0.0.4",
		"service create shop --lb web --nat-ip-count 1 --visibility *",
		"vnet create home --prefix 10.0.0.0/16 --interface eth2",
		"endpoint create to-shop --vnet home --ip 10.0.1.10 --service ALIAS",
		"connection approve --service shop --name to-shop",
	} {
		out, err := d.CLI(ctx, strings.Fields(strings.ReplaceAll(line, "ALIAS", alias))...)
		if err != nil {
			t.Fatal(err)
		}
		if found := regexp.MustCompile(`\S+\.privatelinkservice`).FindString(out); found != "" {
			alias = found
		}
	}
	listener, err := web.Listen("tcp", "10.0.0.4:80")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	if r.client, err = r.vm.Dial(ctx, "tcp", "", "10.0.1.10:80"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.client.Close() })
	if r.served, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.served.Close() })
	return r
}

// wantReset wants a RST on a connection on which nobody says anything.
func wantReset(t *testing.T, who string, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the %s got %v, not a RST", who, err)
	}
}

func TestRun_CascadeDelete_BothEndsAreReset(t *testing.T) {
	r := newDeletionRig(t)
	if code, message := refusal(t, r.Daemon, "service", "delete", "shop"); code != exitRefused || !strings.Contains(message, "or delete with --cascade") {
		t.Errorf("without --cascade: (%d) %s", code, message)
	}
	if _, err := r.CLI(t.Context(), "service", "delete", "shop", "--cascade"); err != nil {
		t.Fatal(err)
	}
	wantReset(t, "client", r.client)
	wantReset(t, "server", r.served)
	if code, _ := refusal(t, r.Daemon, "service", "show", "shop"); code != exitNotFound {
		t.Errorf("the service is still there: exit code %d", code)
	}
	if out, err := r.CLI(t.Context(), "endpoint", "show", "to-shop"); err != nil || !strings.Contains(out, "Disconnected") {
		t.Errorf("the endpoint: %v\n%s", err, out)
	}
}

// An end that cannot be asked keeps the service Deleting for a while, over a crash of the daemon too.
func TestRun_CascadeDelete_SilentEndAndCrash_EndsAnyway(t *testing.T) {
	r := newDeletionRig(t)
	r.vm.Down("eth0")
	deleted := make(chan error, 1)
	go func() {
		_, err := r.CLI(t.Context(), "service", "delete", "shop", "--cascade")
		deleted <- err
	}()
	wantReset(t, "server", r.served)
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
	if _, err := io.WriteString(r.client, "hello"); err != nil {
		t.Fatal(err)
	}
	wantReset(t, "client", r.client)
}
