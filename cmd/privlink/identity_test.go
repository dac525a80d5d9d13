package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/lab"
)

// Processes of other users at the Unix socket: the kernel says who they are, by uid, group and supplementary groups, and whom
// nobody made a principal gets nothing, whatever it claims.
func TestRun_UnixPeer_IsWhoTheKernelSays(t *testing.T) {
	ctx, l := t.Context(), lab.New(t)
	gw := l.Namespace("gateway")
	config := l.WriteFile("config.yaml", []byte("socketMode: '0666'\n"))
	d := gw.Daemon(ctx, lab.DaemonOptions{Binary: l.Build(ctx, "./cmd/privlink"), Args: []string{"--config", config}})
	if err := os.Chmod(filepath.Dir(d.Socket), 0o755); err != nil { // the lab's folder, not the daemon's
		t.Fatal(err)
	}
	const uid, group, extra, nobody = 4711, 4712, 4713, 4714
	for _, line := range []string{
		"principal create by-uid --tenant t --uid 4711", "principal create by-gid --tenant t --gid 4712", "principal create by-extra --tenant t --gid 4713",
		"role create --principal by-uid --role Contributor --scope /subscriptions/u",
		"role create --principal by-gid --role Contributor --scope /subscriptions/g",
		"role create --principal by-extra --role Contributor --scope /subscriptions/x",
	} {
		if _, err := d.CLI(ctx, split(line)...); err != nil {
			t.Fatal(err)
		}
	}
	var token api.Token
	if out, err := d.CLI(ctx, "token", "create", "--principal", "by-uid", "-o", "json"); err != nil {
		t.Fatal(err)
	} else if err := json.Unmarshal([]byte(out), &token); err != nil {
		t.Fatal(err)
	}
	secret := l.WriteFile("token", []byte(token.Secret))
	foreign := l.WriteFile("foreign", []byte("plk_of_nobody"))
	for _, file := range []string{secret, foreign} {
		if err := os.Chmod(file, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name     string
		uid, gid int
		groups   []int
		token    string
		as       string // who wrote, in the journal; empty: refused everything
		may      string // subscriptions
	}{
		{"unknown", nobody, nobody, nil, "", "", ""},
		{"unknown, with root's groups", nobody, 0, []int{0}, "", "", ""},
		{"uid", uid, nobody, nil, "", "by-uid", "u"},
		{"group", nobody, group, nil, "", "by-gid", "g"},
		{"supplementary group", nobody, nobody, []int{9, extra}, "", "by-extra", "x"},
		{"uid and both groups", uid, group, []int{extra}, "", "by-uid", "ugx"},
		{"unknown, with a token", nobody, nobody, nil, secret, "by-uid", "u"},
		{"uid, with a token of nobody's", uid, group, nil, foreign, "", ""},
	} {
		groups := "--clear-groups"
		if len(c.groups) > 0 {
			var list []string
			for _, g := range c.groups {
				list = append(list, strconv.Itoa(g))
			}
			groups = "--groups=" + strings.Join(list, ",")
		}
		for _, subscription := range []string{"u", "g", "x"} {
			cmd := exec.Command("setpriv", "--reuid", strconv.Itoa(c.uid), "--regid", strconv.Itoa(c.gid), groups,
				d.Binary, "vnet", "create", "net", "--prefix", "10.0.0.0/16", "--subscription", subscription)
			cmd.Env = append(os.Environ(), "PRIVLINK_SOCKET="+d.Socket, "PRIVLINK_TOKEN_FILE="+c.token)
			out, err := gw.RunCommand(ctx, cmd)
			var exit *exec.ExitError
			switch allowed := strings.Contains(c.may, subscription); {
			case allowed && err != nil:
				t.Errorf("%s in %s: %v", c.name, subscription, err)
			case !allowed && err == nil:
				t.Errorf("%s in %s: allowed\n%s", c.name, subscription, out)
			case !allowed && (!errors.As(err, &exit) || exit.ExitCode() != exitRefusing(c.as)):
				t.Errorf("%s in %s: %v, want exit code %d", c.name, subscription, err, exitRefusing(c.as))
			case !allowed && c.as == "" && !strings.Contains(err.Error(), "who asks is not known here"):
				t.Errorf("%s in %s: %v", c.name, subscription, err)
			}
		}
		if c.as == "" {
			continue
		}
		var journal []api.JournalEntry
		if out, err := d.CLI(ctx, "event", "list", "-o", "json"); err != nil {
			t.Fatal(err)
		} else if err := json.Unmarshal([]byte(out), &journal); err != nil {
			t.Fatal(err)
		}
		last := journal[len(journal)-1]
		if want := " uid " + strconv.Itoa(c.uid); last.Principal != c.as || !strings.HasSuffix(last.From, want) {
			t.Errorf("%s: the journal has %s from %q, want %s from ...%s", c.name, last.Principal, last.From, c.as, want)
		}
		for _, subscription := range strings.Split(c.may, "") {
			if _, err := d.CLI(ctx, "vnet", "delete", "net", "--subscription", subscription); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// exitRefusing is what a command ends with that its caller may not run: a known one may not know of the subscription's resources.
func exitRefusing(as string) int {
	if as == "" {
		return exitRefused
	}
	return exitNotFound
}
