package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

// testEnvironment has no variables and fixed time.
func testEnvironment(stdout, stderr *bytes.Buffer) *environment {
	return &environment{
		stdin:  strings.NewReader(""),
		stdout: stdout,
		stderr: stderr,
		getenv: func(string) string { return "" },
		now:    func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) },
	}
}

// probeApp is a small tree with every kind of flag and name.
func probeApp(env *environment, ran *[]string) *cli.App {
	app := newApp(env)
	record := func(_ context.Context, c *call) error {
		*ran = append([]string{c.setting("output"), c.String("lb"), strings.Join(c.StringSlice("ip"), "+")}, c.Args().Slice()...)
		if c.Bool("force") {
			*ran = append(*ran, "forced")
		}
		return nil
	}
	flags := []cli.Flag{&cli.StringFlag{Name: "lb"}, &cli.StringSliceFlag{Name: "ip"}, &cli.BoolFlag{Name: "force"},
		&cli.IntFlag{Name: "count"}, &cli.Uint64Flag{Name: "after"}, &cli.DurationFlag{Name: "life"}}
	app.Commands = append(app.Commands, noun(env, "thing", "test things",
		verb{name: "create", names: "NAME [OTHER]", flags: flags, offline: true, run: record},
		verb{name: "list", offline: true, run: record},
	))
	return app
}

func TestPermute_FlagsAnywhere_SameCall(t *testing.T) {
	for _, line := range []string{
		"thing create web --lb l1 --ip a --ip b -o json --force",
		"-o json thing --lb l1 create --ip a,b --force web",
		"--output=json --lb=l1 --ip=a --force thing create --ip=b -- web",
		"thing -o json create --force web --ip a --lb l1 --ip b",
		"thing --force create --ip a web --lb l1 --ip b -o=json",
	} {
		var ran []string
		var out, errs bytes.Buffer
		env := testEnvironment(&out, &errs)
		app := probeApp(env, &ran)
		sorted, err := permute(app, append([]string{"privlink"}, strings.Fields(line)...))
		if err == nil {
			err = app.Run(sorted)
		}
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if got, want := strings.Join(ran, " "), "json l1 a+b web forced"; got != want {
			t.Errorf("%s: ran %q, want %q", line, got, want)
		}
	}
}

func TestPermute_WrongLine_UsageError(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"thnig list", `unknown command "thnig" (did you mean thing?)`},
		{"thing crate x", `thing: unknown command "crate" (did you mean create?)`},
		{"thing", `thing: which of create, list? (privlink thing --help)`},
		{"thing create", `thing create: NAME is missing (privlink thing create --help)`},
		{"thing create a b c", `thing create: left-over argument "c" (privlink thing create --help)`},
		{"thing list left", `thing list: left-over argument "left" (privlink thing list --help)`},
		{"thing create a --ipp x", `thing create: unknown flag --ipp (did you mean --ip?)`},
		{"--forse thing create a", `unknown flag --forse (did you mean --force?)`},
		{"--force thing list", `thing list: unknown flag --force (privlink thing list --help)`},
		{"thing destroy", `thing: unknown command "destroy" (privlink thing --help)`},
		{"thing create a --colour red", `thing create: unknown flag --colour (privlink thing create --help)`},
		{"networks", `unknown command "networks" (privlink --help)`},
		{"thing create a --lb", `thing create: flag --lb needs a value`},
		{"thing create a --force=perhaps", `thing create: flag --force: "perhaps" is not true or false`},
		{"thing create a --count x", `thing create: flag --count: "x" is not a whole number`},
		{"thing create a --after -1", `thing create: flag --after: "-1" is not a whole number from 0 up`},
		{"thing create a --life=1x", `thing create: flag --life: "1x" is not a time such as 90s, 15m or 720h`},
		{"thing create a -o jsn", `flag --output: "jsn" is not one of table, json, yaml (did you mean json?)`},
	} {
		var ran []string
		var out, errs bytes.Buffer
		app := probeApp(testEnvironment(&out, &errs), &ran)
		sorted, err := permute(app, append([]string{"privlink"}, strings.Fields(c.line)...))
		if err == nil {
			err = app.Run(sorted)
		}
		switch {
		case err == nil:
			t.Errorf("%s: no error, want %s", c.line, c.want)
		case err.Error() != c.want:
			t.Errorf("%s:\n got %s\nwant %s", c.line, err, c.want)
		case exitCode(err) != exitUsage:
			t.Errorf("%s: exit code %d, want %d", c.line, exitCode(err), exitUsage)
		}
		if len(ran) > 0 {
			t.Errorf("%s: ran although the line is wrong", c.line)
		}
	}
}

func TestComplete_PartOfALine_Candidates(t *testing.T) {
	for _, c := range []struct{ words, want string }{
		{"com", "completion"},
		{"thing ", "create list"},
		{"-o json thing cr", "create"},
		{"thing create --f", "--force"},
		{"thing create --lb ", ""},
		{"nothing ", ""},
	} {
		var ran []string
		var out, errs bytes.Buffer
		app := probeApp(testEnvironment(&out, &errs), &ran)
		if got := strings.Join(candidates(app, strings.Split(c.words, " ")), " "); got != c.want {
			t.Errorf("%q: got %q, want %q", c.words, got, c.want)
		}
	}
}
