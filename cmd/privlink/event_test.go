package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"regexp"
	"strings"
	"testing"
)

// What is watched comes as it happens, only requests and decisions unless asked for all, until interrupted.
func TestEventWatch_RequestsAndDecisions_AsTheyCome(t *testing.T) {
	r := newRig(t)
	r.must("vnet create datacenter --prefix 10.0.0.0/16")
	r.must("lb create web --vnet datacenter --rule tcp:80 --backend 10.0.0.9")
	alias := regexp.MustCompile(`\S+\.privatelinkservice`).FindString(r.must("service create shop --lb web --nat-ip-count 1 --visibility *"))
	r.must("vnet create home --prefix 10.0.0.0/16")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	read, write := io.Pipe()
	env := testEnvironment(&bytes.Buffer{}, &bytes.Buffer{})
	env.stdout = write
	env.getenv = func(name string) string { return map[string]string{"PRIVLINK_SOCKET": r.socket}[name] }
	ended := make(chan int, 1)
	go func() {
		// From the beginning, so that nothing depends on when this begins; what came before are no requests.
		ended <- run(ctx, env, []string{"privlink", "event", "watch", "--after", "0"})
		write.Close()
	}()
	lines := bufio.NewScanner(read)
	for _, step := range []struct{ command, want string }{
		{"endpoint create to-shop --vnet home --service " + alias, "ConnectionRequested"},
		{"connection approve --service shop --name to-shop", "ConnectionApproved"},
		{"connection reject --service shop --name to-shop", "ConnectionRejected"},
		{"connection remove --service shop --name to-shop", "ConnectionDisconnected"},
	} {
		r.must(step.command)
		if !lines.Scan() || !strings.Contains(lines.Text(), " "+step.want+" ") || !strings.HasSuffix(lines.Text(), `by "root"`) {
			t.Errorf("after %s: %q, want %s", step.command, lines.Text(), step.want)
		}
	}
	cancel()
	if code := <-ended; code != exitOK {
		t.Errorf("interrupted: exit code %d", code)
	}
}

// Who reads the store, or a backup, cannot use anybody's token.
func TestToken_Secret_IsNotStored(t *testing.T) {
	r := newRig(t)
	r.must("principal create alice --tenant red")
	made := r.must("token create --principal alice")
	secret := regexp.MustCompile(`plk_([0-9a-f]+)_(\S+)`).FindStringSubmatch(made)
	if secret == nil {
		t.Fatalf("no token:\n%s", made)
	}
	if all := r.contents(); strings.Contains(all, secret[2]) || !strings.Contains(all, secret[1]) {
		t.Error("the store has the secret, or does not know the token")
	}
}
