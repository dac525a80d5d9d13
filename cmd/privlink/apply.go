package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/privlink/privlink/pkg/api"
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
	Action  string   `json:"action"` // create, change, nothing, delete
	ID      string   `json:"id"`
	Changes []change `json:"changes,omitempty"`
	id      api.ID
	gone    bool // there is no resource afterwards
}

func (c *call) documents() ([]document, error) {
	name := c.String("filename")
	text, err := c.readInput(name)
	if err != nil {
		var named *fs.PathError
		if errors.As(err, &named) {
			err = named.Err
		}
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	documents, err := readDocuments(text, c.scope())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return documents, nil
}

func applyFile(ctx context.Context, c *call) error {
	documents, err := c.documents()
	if err != nil {
		return err
	}
	var batch api.Batch
	for _, r := range inSteps(documents) {
		// The file says everything: own properties that it leaves out get their defaults.
		api.Complete(r)
		text, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("%s: %w", api.IDOf(r).Short(), err)
		}
		batch.Steps = append(batch.Steps, api.BatchStep{ID: r.Meta().ID, Put: text})
	}
	return c.runBatch(ctx, batch)
}

// inSteps are the resources in the order in which they are written. Networks that are peered with each other cannot both come
// first: one whose peer comes later is written without that peering, and again when all networks are there.
func inSteps(documents []document) []api.Resource {
	var steps, again []api.Resource
	sorted := inOrder(documents)
	position := map[string]int{}
	for i, d := range sorted {
		position[d.id.Key()] = i
	}
	for i, d := range sorted {
		network, ok := d.resource.(*api.VirtualNetwork)
		if !ok {
			steps = append(steps, again...)
			again = nil
			steps = append(steps, d.resource)
			continue
		}
		first := api.Clone(network)
		first.Properties.VirtualNetworkPeerings = nil
		for _, peering := range network.Properties.VirtualNetworkPeerings {
			remote, err := api.ParseID(peering.Properties.RemoteVirtualNetwork.ID, d.id)
			if err != nil || position[remote.Key()] <= i {
				first.Properties.VirtualNetworkPeerings = append(first.Properties.VirtualNetworkPeerings, peering)
			}
		}
		steps = append(steps, first)
		if len(first.Properties.VirtualNetworkPeerings) < len(network.Properties.VirtualNetworkPeerings) {
			again = append(again, network)
		}
	}
	return append(steps, again...)
}

func deleteFile(ctx context.Context, c *call) error {
	documents, err := c.documents()
	if err != nil {
		return err
	}
	sorted := inOrder(documents)
	slices.Reverse(sorted)
	var batch api.Batch
	for _, d := range sorted {
		batch.Steps = append(batch.Steps, api.BatchStep{ID: d.id.String()})
	}
	return c.runBatch(ctx, batch)
}

// runBatch does all steps or none, prints what each did, and waits until the kernel agrees. A dry run prints the same
// lines; the daemon checks everything and changes nothing.
func (c *call) runBatch(ctx context.Context, batch api.Batch) error {
	batch.DryRun = c.Bool("dry-run")
	var answer struct {
		Outcomes []outcome `json:"outcomes"`
	}
	if _, err := c.api.Call(ctx, http.MethodPost, "/privlink/batch", nil, nil, batch, &answer); err != nil {
		return err
	}
	steps := []step{}
	for _, o := range joined(answer.Outcomes) {
		s, err := o.step()
		if err != nil {
			return err
		}
		if err := c.tell(s); err != nil {
			return err
		}
		steps = append(steps, s)
	}
	if !c.out.human() {
		if err := c.out.value(steps, nil); err != nil {
			return err
		}
	}
	if batch.DryRun {
		return nil
	}
	for _, s := range steps {
		if err := c.api.Await(ctx, s.id, s.gone); err != nil {
			return fmt.Errorf("%s: %w", s.id.Short(), err)
		}
	}
	return nil
}

// outcome is what the daemon says of one step.
type outcome struct {
	ID      string          `json:"id"`
	Before  json.RawMessage `json:"before"`
	After   json.RawMessage `json:"after"`
	Changed bool            `json:"changed"`
}

// joined makes one outcome of several of the same resource, in the place of the first.
func joined(outcomes []outcome) []outcome {
	var list []outcome
	place := map[string]int{}
	for _, o := range outcomes {
		if i, known := place[o.ID]; known {
			list[i].After = o.After
			list[i].Changed = list[i].Changed || o.Changed
			continue
		}
		place[o.ID] = len(list)
		list = append(list, o)
	}
	return list
}

func (o outcome) step() (step, error) {
	id, err := api.ParseID(o.ID, api.ID{})
	if err != nil {
		return step{}, err
	}
	before, after := present(o.Before), present(o.After)
	s := step{Action: "nothing", ID: o.ID, id: id, gone: !after}
	switch {
	case !before && after:
		s.Action = "create"
	case before && !after:
		s.Action = "delete"
	case before && o.Changed:
		if s.Changes, err = differences(api.Kind(id.Type), o.Before, o.After); err != nil {
			return step{}, err
		}
		if len(s.Changes) > 0 {
			s.Action = "change"
		}
	}
	return s, nil
}

// present says that an answer has a resource there.
func present(text json.RawMessage) bool { return len(text) > 0 && string(text) != "null" }

// tell prints a step for people: one line, or one per property changed.
func (c *call) tell(s step) error {
	if s.Action != "change" {
		return c.out.say("%s %s", s.Action, s.id.Short())
	}
	for _, ch := range s.Changes {
		if err := c.out.say("change %s: %s: %s -> %s", s.id.Short(), ch.Property, oneLine(show(ch.From)), oneLine(show(ch.To))); err != nil {
			return err
		}
	}
	return nil
}
