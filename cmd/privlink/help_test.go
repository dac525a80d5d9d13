package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// Every command explains itself: what it is for, which flags it cannot do without, where the flags of all commands are; and
// a line that it does not understand ends with how to learn more.
func TestHelp_EveryCommand_ExplainsItself(t *testing.T) {
	execute := func(words ...string) ran {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), testEnvironment(&stdout, &stderr), append([]string{"privlink"}, words...))
		return ran{stdout.String(), stderr.String(), code}
	}
	verbs := 0
	var walk func(path []string, commands []*cli.Command)
	walk = func(path []string, commands []*cli.Command) {
		for _, command := range commands {
			if command.Hidden {
				continue
			}
			words := append(append([]string{}, path...), command.Name)
			name := "privlink " + strings.Join(words, " ")
			help := execute(append(words, "--help")...)
			if help.code != exitOK || help.stderr != "" || !strings.HasPrefix(help.stdout, "NAME:\n   "+name+" - "+command.Usage+"\n") {
				t.Errorf("%s --help: (%d) %s%s", name, help.code, help.stdout, help.stderr)
			}
			if strings.Contains(help.stdout, "default: false") {
				t.Errorf("%s --help says that what is not asked for is off:\n%s", name, help.stdout)
			}
			if again := execute(append([]string{"help"}, words...)...); again != help {
				t.Errorf("privlink help %s is not %s --help:\n%s%s", strings.Join(words, " "), name, again.stdout, again.stderr)
			}
			wrong := execute(append(words, "--colour", "red")...)
			if want := "unknown flag --colour (" + name + " --help)\n"; wrong.code != exitUsage || !strings.HasSuffix(wrong.stderr, want) || wrong.stdout != "" {
				t.Errorf("%s --colour red: (%d) %s%s", name, wrong.code, wrong.stdout, wrong.stderr)
			}
			if len(command.Subcommands) > 0 {
				for _, verb := range command.Subcommands {
					if !strings.Contains(help.stdout, "\n   "+verb.Name+" ") && !verb.Hidden {
						t.Errorf("%s --help has no %s:\n%s", name, verb.Name, help.stdout)
					}
				}
				if got := execute(words...); got.code != exitUsage || !strings.HasSuffix(got.stderr, "? ("+name+" --help)\n") {
					t.Errorf("%s: (%d) %s", name, got.code, got.stderr)
				}
				walk(words, command.Subcommands)
				continue
			}
			verbs++
			if !strings.Contains(help.stdout, "Flags of every command, such as --output json: privlink --help\n") {
				t.Errorf("%s --help says nothing of the flags of every command:\n%s", name, help.stdout)
			}
			required := false
			for _, flag := range command.Flags {
				if f, ok := flag.(cli.RequiredFlag); ok && f.IsRequired() {
					required = true
					for line := range strings.Lines(help.stdout) {
						if strings.HasPrefix(line, "   "+dashed(flag.Names()[0])+" ") && strings.Count(line, "(required)") != 1 {
							t.Errorf("%s --help: %s", name, line)
						}
					}
				}
			}
			if required || strings.HasPrefix(command.ArgsUsage, "NAME") {
				if got := execute(words...); got.code != exitUsage || !strings.HasSuffix(got.stderr, "is missing ("+name+" --help)\n") {
					t.Errorf("%s: (%d) %s", name, got.code, got.stderr)
				}
			}
		}
	}
	walk(nil, newApp(testEnvironment(&bytes.Buffer{}, &bytes.Buffer{})).Commands)
	if verbs < 40 {
		t.Errorf("only %d verbs", verbs)
	}
}
