package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
)

func applyCommand(env *environment) *cli.Command {
	return verb{
		name: "apply", usage: "make resources what a file says",
		description: "The file has one or more documents, YAML or JSON, each an ARM template resource: type, name,\n" +
			"location, properties, and subscription and resourceGroup where not the default. A reference is a full\n" +
			"id or the part after providers/Microsoft.Network/. What a document leaves out gets its default.\n" +
			"Per resource it prints create, change (property, from, to) or nothing, and waits until the kernel agrees.",
		flags: fileFlags(), run: applyFile,
	}.command(env)
}

func deleteCommand(env *environment) *cli.Command {
	return verb{
		name: "delete", usage: "delete the resources a file names",
		flags: fileFlags(), run: deleteFile,
	}.command(env)
}

func fileFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "filename", Aliases: []string{"f"}, Usage: "the `FILE`, - for standard input", Required: true},
		&cli.BoolFlag{Name: "dry-run", Usage: "print what would be done and touch nothing"},
	}
}

// step is what apply or delete does, or would do, with one document.
type step struct {
	Action   string   `json:"action"` // create, change, nothing, delete
	ID       string   `json:"id"`
	Changes  []change `json:"changes,omitempty"`
	document document
	short    string
}

func (c *call) documents() ([]document, error) {
	name := c.String("filename")
	text, err := c.readInput(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	documents, err := readDocuments(text, c.scope())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return documents, nil
}

// stored is a resource as the daemon has it, or nil.
func (c *call) stored(ctx context.Context, id api.ID) (api.Resource, error) {
	text, err := client.Get[json.RawMessage](ctx, c.api, id)
	if api.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return api.Decode(*text, api.Kind(id.Type), api.Tolerant)
}

func applyFile(ctx context.Context, c *call) error {
	documents, err := c.documents()
	if err != nil {
		return err
	}
	var steps []step
	for _, d := range inOrder(documents) {
		s, err := c.plan(ctx, d)
		if err != nil {
			return fmt.Errorf("%s: %w", d.id.Short(), err)
		}
		if s.Action != "nothing" && !c.Bool("dry-run") {
			if err := c.write(ctx, d, documents); err != nil {
				return fmt.Errorf("%s: %w", d.id.Short(), err)
			}
		}
		if err := c.tell(s); err != nil {
			return err
		}
		steps = append(steps, s)
	}
	if !c.out.human() {
		return c.out.value(steps, nil)
	}
	return nil
}

// plan compares a document with what the daemon has.
func (c *call) plan(ctx context.Context, d document) (step, error) {
	s := step{Action: "create", ID: d.id.String(), document: d, short: d.id.Short()}
	stored, err := c.stored(ctx, d.id)
	if err != nil || stored == nil {
		return s, err
	}
	s.Action = "change"
	if s.Changes, err = differences(stored, d.resource); err != nil {
		return s, err
	}
	if len(s.Changes) == 0 {
		s.Action = "nothing"
	}
	return s, nil
}

// write puts one document. A network whose peerings name networks that come later in the file is written without these first.
func (c *call) write(ctx context.Context, d document, all []document) error {
	api.Complete(d.resource)
	_, err := client.Put[json.RawMessage](ctx, c.api, d.id, d.resource, client.Conditions{})
	return err
}

func deleteFile(ctx context.Context, c *call) error {
	documents, err := c.documents()
	if err != nil {
		return err
	}
	sorted := inOrder(documents)
	slices.Reverse(sorted)
	var steps []step
	for _, d := range sorted {
		s := step{Action: "delete", ID: d.id.String(), short: d.id.Short()}
		stored, err := c.stored(ctx, d.id)
		if err != nil {
			return fmt.Errorf("%s: %w", d.id.Short(), err)
		}
		if stored == nil {
			s.Action = "nothing"
		} else if !c.Bool("dry-run") {
			if _, err := c.api.Delete(ctx, d.id, nil, client.Conditions{}); err != nil {
				return fmt.Errorf("%s: %w", d.id.Short(), err)
			}
		}
		if err := c.tell(s); err != nil {
			return err
		}
		steps = append(steps, s)
	}
	if !c.out.human() {
		return c.out.value(steps, nil)
	}
	return nil
}

// tell prints a step for people: one line, or one per property changed.
func (c *call) tell(s step) error {
	if s.Action != "change" {
		return c.out.say("%s %s", s.Action, s.short)
	}
	for _, ch := range s.Changes {
		if err := c.out.say("change %s: %s: %s -> %s", s.short, ch.Property, oneLine(show(ch.From)), oneLine(show(ch.To))); err != nil {
			return err
		}
	}
	return nil
}
