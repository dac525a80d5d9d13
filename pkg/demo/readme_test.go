package demo

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/lab"
)

// commands returns the lines of the first sh block after the heading.
func commands(t *testing.T, readme, heading string) []string {
	_, after, found := strings.Cut(readme, "\n### "+heading+"\n")
	_, after, found2 := strings.Cut(after, "```sh\n")
	block, _, found3 := strings.Cut(after, "```")
	if !found || !found2 || !found3 {
		t.Fatalf("README has no commands under %q", heading)
	}
	return strings.Split(strings.TrimSpace(block), "\n")
}

func TestReadme_QuickStart_WorksAsItStands(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(text)
	provider := commands(t, readme, "The provider publishes")
	consumer := commands(t, readme, "The consumer asks")
	approve := commands(t, readme, "The provider approves")
	if len(provider) > 3 || len(consumer) > 3 || len(approve) != 1 {
		t.Errorf("%d, %d and %d commands, want at most 3, 3 and 1", len(provider), len(consumer), len(approve))
	}

	ctx := t.Context()
	l := lab.New(t)
	binary := l.Build(ctx, "./cmd/privlink")
	gateway, web, client := l.Namespace("gateway"), l.Namespace("web"), l.Namespace("client")
	l.Veth(gateway, "eth1", web, "eth0", lab.VethOptions{B: lab.EndOptions{Addr: "10.0.0.4/16"}})
	l.Veth(gateway, "eth2", client, "eth0", lab.VethOptions{B: lab.EndOptions{Addr: "10.0.1.4/16"}})
	web.Nginx(ctx, lab.NginxOptions{Listen: []string{"80"}, Files: map[string]string{"index.html": page}})
	daemon := gateway.Daemon(ctx, lab.DaemonOptions{Binary: binary})

	env := append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"), "PRIVLINK_SOCKET="+daemon.Socket)
	var printed string
	run := func(lines []string) {
		t.Helper()
		for _, line := range lines {
			cmd := exec.Command("bash", "-c", line)
			cmd.Env = env
			if printed, err = gateway.RunCommand(ctx, cmd); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
	}
	run(provider)
	alias := regexp.MustCompile(`(?m)^Alias:\s+(\S+)$`).FindStringSubmatch(printed)
	if alias == nil {
		t.Fatalf("%s printed no alias:\n%s", provider[len(provider)-1], printed)
	}
	env = append(env, "ALIAS="+alias[1])
	run(consumer)
	if out, err := client.Run(ctx, "curl", "-sS", "--connect-timeout", "1", "http://10.0.1.10/"); err == nil {
		t.Errorf("before the approval curl got %q", out)
	}
	run(approve)
	if out, err := client.Run(ctx, "curl", "-sS", "-m", "5", "http://10.0.1.10/"); err != nil || out != page {
		t.Errorf("curl got %q, %v", out, err)
	}
}
