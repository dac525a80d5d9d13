package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// The scripts hand the words typed so far to the hidden command "complete" and offer what
// it prints, one candidate a line.
const (
	bashCompletion = `_privlink() {
	local IFS=$'\n'
	COMPREPLY=($(compgen -W "$(privlink complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _privlink privlink
`
	zshCompletion = `#compdef privlink
_privlink() {
	local -a candidates
	candidates=(${(f)"$(privlink complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
	if (( ${#candidates} )); then compadd -- $candidates; else _files; fi
}
compdef _privlink privlink
`
	fishCompletion = `complete -c privlink -f -a '(privlink complete -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
`
)

func completionCommand(env *environment) *cli.Command {
	return verb{
		name:        "completion",
		names:       "SHELL",
		usage:       "print a completion script for bash, zsh or fish",
		description: "bash: source <(privlink completion bash)",
		offline:     true,
		run: func(_ context.Context, c *call) error {
			script, ok := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[c.Args().First()]
			if !ok {
				return usageErrorf("completion: %q is not one of bash, zsh, fish (privlink completion --help)", c.Args().First())
			}
			_, err := fmt.Fprint(c.env.stdout, script)
			return err
		},
	}.command(env)
}

// completeCommand prints what may stand in place of the last word: a command or a flag.
func completeCommand(env *environment, app *cli.App) *cli.Command {
	return verb{
		name:    "complete",
		names:   "[WORD...]",
		usage:   "print candidates for the last word",
		offline: true,
		hidden:  true,
		run: func(_ context.Context, c *call) error {
			for _, candidate := range candidates(app, c.Args().Slice()) {
				if _, err := fmt.Fprintln(c.env.stdout, candidate); err != nil {
					return err
				}
			}
			return nil
		},
	}.command(env)
}

func candidates(app *cli.App, words []string) []string {
	last := ""
	if len(words) > 0 {
		last = words[len(words)-1]
		words = words[:len(words)-1]
	}
	line := &commandLine{program: app.Name, global: app.Flags, commands: app.Commands}
	for i := 0; i < len(words); i++ {
		word := words[i]
		if !strings.HasPrefix(word, "-") {
			if line.word(word) != nil {
				return nil
			}
			continue
		}
		taken, err := line.flag(word, words[i+1:])
		if err != nil {
			return nil // a value is being typed: files are the shell's to offer
		}
		i += taken
	}
	var found []string
	if strings.HasPrefix(last, "-") {
		found = append(line.flagNames(), "--help")
	} else {
		for _, command := range line.commands {
			if !command.Hidden {
				found = append(found, command.Name)
			}
		}
	}
	var matching []string
	for _, candidate := range found {
		if strings.HasPrefix(candidate, last) {
			matching = append(matching, candidate)
		}
	}
	return matching
}
