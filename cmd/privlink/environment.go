package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/privlink/privlink/pkg/client"
)

// environment is the world the commands run in; tests bring their own.
type environment struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	now            func() time.Time
	// confine gives up what the daemon does not need before it does anything; nil in tests.
	confine func() error
}

// Defaults of the settings every command has.
const (
	defaultSocket        = "/run/privlink/privlink.sock"
	defaultStateDir      = "/var/lib/privlink"
	defaultBPFFS         = "/sys/fs/bpf/privlink"
	defaultSubscription  = "00000000-0000-0000-0000-000000000001"
	defaultResourceGroup = "default"
	defaultLocation      = "local"
)

// setting is a flag of every command: the flag wins over the environment variable, that
// over the default.
type setting struct {
	flag, alias, variable, fallback string
	usage                           string // with the value's placeholder in backquotes
}

func settings() []setting {
	return []setting{
		{flag: "output", alias: "o", variable: "PRIVLINK_OUTPUT", fallback: "table", usage: "print results as `table|json|yaml`"},
		{flag: "subscription", variable: "PRIVLINK_SUBSCRIPTION", fallback: defaultSubscription, usage: "`ID` of the subscription that the resources belong to"},
		{flag: "resource-group", variable: "PRIVLINK_RESOURCE_GROUP", fallback: defaultResourceGroup, usage: "`NAME` of their resource group"},
		{flag: "socket", variable: "PRIVLINK_SOCKET", fallback: defaultSocket, usage: "`PATH` of the daemon's Unix socket"},
		{flag: "server", variable: "PRIVLINK_SERVER", usage: "`URL` of a daemon elsewhere (https://HOST:PORT), instead of the socket"},
		{flag: "ca", variable: "PRIVLINK_CA", usage: "`FILE` with the certificates that --server is checked against (PEM)"},
		{flag: "cert", variable: "PRIVLINK_CERT", usage: "`FILE` with the client certificate for --server (PEM)"},
		{flag: "key", variable: "PRIVLINK_KEY", usage: "`FILE` with the key of --cert (PEM)"},
		{flag: "token-file", variable: "PRIVLINK_TOKEN_FILE", usage: "`FILE` with the bearer token to present"},
	}
}

func globalFlags() []cli.Flag {
	var flags []cli.Flag
	for _, s := range settings() {
		flag := &cli.StringFlag{Name: s.flag, Usage: s.usage + " [$" + s.variable + "]", DefaultText: s.fallback}
		if s.alias != "" {
			flag.Aliases = []string{s.alias}
		}
		flags = append(flags, flag)
	}
	return flags
}

// call is one invocation of a verb: its flags and names, the environment and the client.
type call struct {
	*cli.Context
	env *environment
	api *client.Client
	out *printer
}

// verb is a command that does something.
type verb struct {
	name        string
	names       string // what it is told by position, as shown in its help: "NAME", "[NAME]", "NAME..."
	usage       string
	description string
	flags       []cli.Flag
	// offline verbs do without the daemon.
	offline bool
	hidden  bool
	run     func(ctx context.Context, c *call) error
}

// command turns the verb into its place in the command tree.
func (v verb) command(env *environment) *cli.Command {
	return &cli.Command{
		Name:            v.name,
		Usage:           v.usage,
		ArgsUsage:       v.names,
		Description:     v.description,
		Flags:           described(v.flags),
		Hidden:          v.hidden,
		HideHelpCommand: true,
		// Where results are printed is a flag of every command, as is whose resources are meant.
		CustomHelpTemplate: cli.CommandHelpTemplate + "\nFlags of every command, such as --output json: privlink --help\n",
		Action: func(cc *cli.Context) error {
			c := &call{Context: cc, env: env}
			out, err := newPrinter(env.stdout, c.setting("output"))
			if err != nil {
				return err
			}
			c.out = out
			if !v.offline {
				if c.api, err = c.connect(); err != nil {
					return err
				}
				defer c.api.Close()
			}
			return v.run(cc.Context, c)
		},
	}
}

// described makes the help of flags say which of them are required, and not that those without a value are off.
func described(flags []cli.Flag) []cli.Flag {
	const required = " (required)"
	mark := func(usage *string, is bool) {
		if is && !strings.HasSuffix(*usage, required) { // two verbs may share a flag
			*usage += required
		}
	}
	for _, flag := range flags {
		switch f := flag.(type) {
		case *cli.StringFlag:
			mark(&f.Usage, f.Required)
		case *cli.StringSliceFlag:
			mark(&f.Usage, f.Required)
		case *cli.BoolFlag:
			f.DisableDefaultText = true
		}
	}
	return flags
}

// noun is a group of verbs.
func noun(env *environment, name, usage string, verbs ...verb) *cli.Command {
	command := &cli.Command{Name: name, Usage: usage, UsageText: "privlink " + name + " COMMAND [options]", HideHelpCommand: true}
	for _, v := range verbs {
		command.Subcommands = append(command.Subcommands, v.command(env))
	}
	return command
}

// setting is a setting's value from flag, environment or default.
func (c *call) setting(name string) string {
	if c.IsSet(name) {
		return c.String(name)
	}
	for _, s := range settings() {
		if s.flag == name {
			if value := c.env.getenv(s.variable); value != "" {
				return value
			}
			return s.fallback
		}
	}
	return ""
}

// connect makes the client; nothing is sent yet.
func (c *call) connect() (*client.Client, error) {
	options := client.Options{
		Socket:    c.setting("socket"),
		Server:    c.setting("server"),
		CAFile:    c.setting("ca"),
		CertFile:  c.setting("cert"),
		KeyFile:   c.setting("key"),
		TokenFile: c.setting("token-file"),
		Waiting: func() {
			fmt.Fprintln(c.env.stderr, "waiting: the daemon is not done yet, as where flows drain or end first (it goes on if this is interrupted)")
		},
	}
	return client.New(options)
}

// readInput reads a file whole, "-" being standard input.
func (c *call) readInput(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(c.env.stdin)
	}
	return os.ReadFile(name)
}
