package main

import (
	"context"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
)

// scope is where names without more belong: the subscription and resource group set.
func (c *call) scope() api.ID {
	return api.ID{Subscription: c.setting("subscription"), ResourceGroup: c.setting("resource-group")}
}

// resource is the id of what a word names: a plain name, the end of an id (privateLinkServices/web) or
// a full ARM id.
func (c *call) resource(kind api.Kind, word string) (api.ID, error) {
	if !strings.Contains(word, "/") {
		return c.scope().Sibling(kind, word), nil
	}
	id, err := api.ParseID(word, c.scope())
	if err != nil {
		return api.ID{}, &codedError{exitUsage, err}
	}
	if id.Type != string(kind) || id.ChildType != "" {
		return api.ID{}, usageErrorf("%q is no id of a %s", word, kind.Noun())
	}
	return id, nil
}

// part is the id of what a word names inside a resource: a plain name, OTHER/NAME in another resource
// of the same kind, or an id.
func (c *call) part(parent api.ID, collection, word string) (api.ID, error) {
	switch strings.Count(word, "/") {
	case 0:
		if parent.Name == "" {
			return api.ID{}, usageErrorf("%q: say of which %s (NAME/%s)", word, api.Kind(parent.Type).Noun(), word)
		}
		return parent.Sub(collection, word), nil
	case 1:
		owner, name, _ := strings.Cut(word, "/")
		return c.scope().Sibling(api.Kind(parent.Type), owner).Sub(collection, name), nil
	}
	id, err := api.ParseID(word, c.scope())
	if err != nil {
		return api.ID{}, &codedError{exitUsage, err}
	}
	if id.Type != parent.Type || id.ChildType != collection {
		return api.ID{}, usageErrorf("%q is no id of one of the %s of a %s", word, collection, api.Kind(parent.Type).Noun())
	}
	return id, nil
}

// ref is an id as it stands in a document.
func ref(id api.ID) *api.SubResource { return &api.SubResource{ID: id.String()} }

// lastName is the last part of an id as written, for tables.
func lastName(r *api.SubResource) string {
	if r == nil {
		return ""
	}
	return lastOf(r.ID)
}

func lastOf(id string) string { return id[strings.LastIndexByte(id, '/')+1:] }

// ownerName is the name of the resource that the part with this id belongs to.
func ownerName(r *api.SubResource) string {
	if r == nil {
		return ""
	}
	id, err := api.ParseID(r.ID, api.ID{})
	if err != nil {
		return ""
	}
	return id.Name
}

// listVerb lists a kind: the resource group, or the subscription with --all-groups.
func listVerb[R any](kind api.Kind, row func(*columns, *R), header ...string) verb {
	return verb{
		name:  "list",
		usage: "list the " + plural(kind) + " of the resource group",
		flags: []cli.Flag{&cli.BoolFlag{Name: "all-groups", Usage: "those of every resource group of the subscription"}},
		run: func(ctx context.Context, c *call) error {
			group := c.setting("resource-group")
			if c.Bool("all-groups") {
				group = ""
			}
			all, err := client.List[R](ctx, c.api, client.Collection(c.setting("subscription"), group, kind), nil)
			if err != nil {
				return err
			}
			return c.out.value(all, func(t *columns) {
				t.row(header...)
				for i := range all {
					row(t, &all[i])
				}
			})
		},
	}
}

// showVerb shows one resource.
func showVerb[R any](kind api.Kind, show func(ctx context.Context, c *call, id api.ID, resource *R) error) verb {
	return verb{
		name: "show", names: "NAME", usage: "show a " + kind.Noun(),
		run: func(ctx context.Context, c *call) error {
			id, err := c.resource(kind, c.Args().First())
			if err != nil {
				return err
			}
			resource, err := client.Get[R](ctx, c.api, id)
			if err != nil {
				return err
			}
			return show(ctx, c, id, resource)
		},
	}
}

// deleteVerb deletes one resource; deleting what is not there succeeds and says so.
func deleteVerb(kind api.Kind, flags ...cli.Flag) verb {
	return verb{
		name: "delete", names: "NAME", usage: "delete a " + kind.Noun(), flags: flags,
		run: func(ctx context.Context, c *call) error {
			id, err := c.resource(kind, c.Args().First())
			if err != nil {
				return err
			}
			query := map[string][]string{}
			for _, flag := range flags {
				if name := flag.Names()[0]; c.Bool(name) {
					query[name] = []string{"true"}
				}
			}
			existed, err := c.api.Delete(ctx, id, query, client.Conditions{})
			if err != nil {
				return err
			}
			if !existed {
				return c.out.say("%s %s did not exist", kind.Noun(), id.Name)
			}
			return c.out.say("%s %s deleted", kind.Noun(), id.Name)
		},
	}
}

// plural is the kind in plain words.
func plural(kind api.Kind) string { return kind.Noun() + "s" }

// createFlags are the flags that every resource made on the command line has.
func createFlags(more ...cli.Flag) []cli.Flag {
	return append(more,
		&cli.StringFlag{Name: "location", Usage: "`LOCATION` of the resource (default: that of what it belongs to, else " + defaultLocation + ")"},
		&cli.StringSliceFlag{Name: "tag", Usage: "a tag, `NAME=VALUE`; may be repeated"},
	)
}

// tags reads --tag.
func (c *call) tags() (map[string]string, error) {
	var tags map[string]string
	for _, tag := range c.StringSlice("tag") {
		name, value, ok := strings.Cut(tag, "=")
		if !ok || name == "" {
			return nil, usageErrorf("flag --tag: %q is not NAME=VALUE", tag)
		}
		if tags == nil {
			tags = map[string]string{}
		}
		tags[name] = value
	}
	return tags, nil
}

// location is --location, or what the resource's surroundings have.
func (c *call) location(inherited string) string {
	if c.IsSet("location") {
		return c.String("location")
	}
	if inherited != "" {
		return inherited
	}
	return defaultLocation
}
