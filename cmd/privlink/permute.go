package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/xrash/smetrics"
)

// permute sorts a command line by the command tree so that flags may stand anywhere:
//
//	privlink [flags of all commands] noun verb [flags of the verb] -- names
//
// The cli package stops looking for flags at the first name. What the tree does not know
// is a usage error that suggests the nearest thing it does: a command, a flag, a flag
// without its value, a name too many or too few.
func permute(app *cli.App, args []string) ([]string, error) {
	line := &commandLine{program: app.Name, global: app.Flags, commands: app.Commands}
	for rest := args[1:]; len(rest) > 0; {
		arg := rest[0]
		rest = rest[1:]
		switch {
		case arg == "--":
			for _, name := range rest {
				if err := line.word(name); err != nil {
					return nil, err
				}
			}
			rest = nil
		case len(arg) > 1 && arg[0] == '-':
			taken, err := line.flag(arg, rest)
			if err != nil {
				return nil, err
			}
			rest = rest[taken:]
		default:
			if err := line.word(arg); err != nil {
				return nil, err
			}
		}
	}
	return line.sorted(args[0])
}

// commandLine is what permute has understood so far.
type commandLine struct {
	program  string
	global   []cli.Flag     // of every command
	commands []*cli.Command // what may come next; empty at a verb
	path     []string       // noun, verb
	at       *cli.Command
	names    []string

	globalFlags, verbFlags []string
	// early are flags that stood before the command they may belong to.
	early    []earlyFlag
	given    map[string]bool // flags by the names they were given with
	wantHelp bool
}

type earlyFlag struct {
	name  string
	words []string
}

// errorf is a usage error of the command understood so far.
func (l *commandLine) errorf(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if len(l.path) > 0 {
		err = fmt.Errorf("%s: %w", strings.Join(l.path, " "), err)
	}
	return &codedError{exitUsage, err}
}

// help is how to learn more about the command understood so far.
func (l *commandLine) help() string {
	return strings.Join(append([]string{l.program}, l.path...), " ") + " --help"
}

// orHelp is a suggestion, or where there is none how to learn what there is.
func (l *commandLine) orHelp(suggestion string) string {
	if suggestion != "" {
		return suggestion
	}
	return " (" + l.help() + ")"
}

// word takes the next command, or a name once there are no commands to come.
func (l *commandLine) word(word string) error {
	if len(l.commands) == 0 {
		l.names = append(l.names, word)
		return nil
	}
	if word == "help" {
		l.wantHelp = true
		return nil
	}
	var known []string
	for _, command := range l.commands {
		if command.HasName(word) {
			l.path = append(l.path, command.Name)
			l.at = command
			l.commands = command.Subcommands
			return nil
		}
		if !command.Hidden {
			known = append(known, command.Name)
		}
	}
	return l.errorf("unknown command %q%s", word, l.orHelp(suggestion(word, known)))
}

// flag takes one flag and reports how many of the words behind it are its value.
func (l *commandLine) flag(arg string, rest []string) (int, error) {
	name, value, joined := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	if name == "help" || name == "h" {
		l.wantHelp = true
		return 0, nil
	}
	found, global := findFlag(l.global, name), true
	if found == nil && l.at != nil {
		found, global = findFlag(l.at.Flags, name), false
	}
	early := found == nil && len(l.commands) > 0
	if early {
		// A verb's flag before the verb: look through what may still come to learn if it takes a value.
		found = findFlagBelow(l.commands, name)
		global = false
	}
	if found == nil {
		return 0, l.errorf("unknown flag %s%s", dashed(name), l.orHelp(l.flagSuggestion(name)))
	}
	if l.given == nil {
		l.given = map[string]bool{}
	}
	l.given[name] = true
	words := []string{dashed(name)}
	taken := 0
	switch {
	case joined:
		words = []string{dashed(name) + "=" + value}
	case takesValue(found):
		if len(rest) == 0 {
			return 0, l.errorf("flag %s needs a value", dashed(name))
		}
		words = []string{dashed(name) + "=" + rest[0]}
		value, taken = rest[0], 1
	}
	if joined || taken > 0 {
		if err := l.checkValue(found, name, value); err != nil {
			return 0, err
		}
	}
	switch {
	case early:
		l.early = append(l.early, earlyFlag{name, words})
	case global:
		l.globalFlags = append(l.globalFlags, words...)
	default:
		l.verbFlags = append(l.verbFlags, words...)
	}
	return taken, nil
}

// sorted is the command line as the cli package wants it.
func (l *commandLine) sorted(program string) ([]string, error) {
	if l.wantHelp || l.at == nil {
		return append([]string{program}, append(l.path, "--help")...), nil
	}
	if len(l.commands) > 0 {
		var verbs []string
		for _, command := range l.commands {
			if !command.Hidden {
				verbs = append(verbs, command.Name)
			}
		}
		return nil, l.errorf("which of %s? (%s)", strings.Join(verbs, ", "), l.help())
	}
	var first []string
	for _, early := range l.early {
		if findFlag(l.at.Flags, early.name) == nil {
			return nil, l.errorf("unknown flag %s%s", dashed(early.name), l.orHelp(suggestion(dashed(early.name), l.flagNames())))
		}
		first = append(first, early.words...)
	}
	if err := l.checkRequired(); err != nil {
		return nil, err
	}
	if err := l.checkNames(); err != nil {
		return nil, err
	}
	sorted := append([]string{program}, l.globalFlags...)
	sorted = append(sorted, l.path...)
	sorted = append(sorted, first...)
	sorted = append(sorted, l.verbFlags...)
	return append(append(sorted, "--"), l.names...), nil
}

// flagNames are the flags that may stand here: those of every command and, at a verb, its own.
func (l *commandLine) flagNames() []string {
	names := namesOf(l.global)
	if l.at != nil {
		names = append(names, namesOf(l.at.Flags)...)
	}
	return names
}

func (l *commandLine) flagSuggestion(name string) string {
	known := append(l.flagNames(), namesBelow(l.commands)...)
	for i := range known {
		known[i] = strings.TrimLeft(known[i], "-")
	}
	if best := nearest(name, known); best != "" {
		return fmt.Sprintf(" (did you mean %s?)", dashed(best))
	}
	return ""
}

func namesOf(flags []cli.Flag) []string {
	var names []string
	for _, flag := range flags {
		names = append(names, dashed(flag.Names()[0]))
	}
	return names
}

func namesBelow(commands []*cli.Command) []string {
	var names []string
	for _, command := range commands {
		names = append(append(names, namesOf(command.Flags)...), namesBelow(command.Subcommands)...)
	}
	return names
}

// checkRequired finds a flag that the verb cannot do without.
func (l *commandLine) checkRequired() error {
	for _, flag := range l.at.Flags {
		required, ok := flag.(cli.RequiredFlag)
		if !ok || !required.IsRequired() {
			continue
		}
		given := false
		for _, name := range flag.Names() {
			given = given || l.given[name]
		}
		if !given {
			return l.errorf("flag %s is missing (%s)", dashed(flag.Names()[0]), l.help())
		}
	}
	return nil
}

// checkNames compares the names given with the verb's ArgsUsage: one word per name, in
// brackets if it may be left out, "..." at the end if it may come again.
func (l *commandLine) checkNames() error {
	wanted := strings.Fields(l.at.ArgsUsage)
	least, most := 0, len(wanted)
	for _, word := range wanted {
		if !strings.HasPrefix(word, "[") {
			least++
		}
		if strings.Contains(word, "...") {
			most = len(l.names)
		}
	}
	switch {
	case len(l.names) < least:
		return l.errorf("%s is missing (%s)", wanted[len(l.names)], l.help())
	case len(l.names) > most:
		return l.errorf("left-over argument %q (%s)", l.names[most], l.help())
	}
	return nil
}

func findFlag(flags []cli.Flag, name string) cli.Flag {
	for _, flag := range flags {
		for _, known := range flag.Names() {
			if known == name {
				return flag
			}
		}
	}
	return nil
}

func findFlagBelow(commands []*cli.Command, name string) cli.Flag {
	for _, command := range commands {
		if flag := findFlag(command.Flags, name); flag != nil {
			return flag
		}
		if flag := findFlagBelow(command.Subcommands, name); flag != nil {
			return flag
		}
	}
	return nil
}

func takesValue(flag cli.Flag) bool {
	documented, ok := flag.(cli.DocGenerationFlag)
	return ok && documented.TakesValue()
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// suggestion is the known word nearest to word as the end of an error message, or empty
// if none is near.
func suggestion(word string, known []string) string {
	if best := nearest(word, known); best != "" {
		return fmt.Sprintf(" (did you mean %s?)", best)
	}
	return ""
}

// nearest is the known word that fewest letters have to change for, compared without
// case, or empty if that is more than one and a quarter of the word.
func nearest(word string, known []string) string {
	best, least := "", len(word)/4+2
	for _, candidate := range known {
		if d := smetrics.WagnerFischer(strings.ToLower(word), strings.ToLower(candidate), 1, 1, 1); d < least {
			best, least = candidate, d
		}
	}
	return best
}
