package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/client"
)

// accessCommands are the nouns of access control.
func accessCommands(env *environment) []*cli.Command {
	return []*cli.Command{subscriptionCommand(env), principalCommand(env), tokenCommand(env), roleCommand(env)}
}

func subscriptionCommand(env *environment) *cli.Command {
	return noun(env, "subscription", "subscriptions and the tenants they belong to",
		verb{
			name: "create", names: "NAME", usage: "register a subscription, or change its tenant",
			flags: []cli.Flag{&cli.StringFlag{Name: "tenant", Usage: "`NAME` of its tenant", Required: true}},
			run: func(ctx context.Context, c *call) error {
				body := api.Subscription{Name: c.Args().First(), Tenant: c.String("tenant")}
				if _, err := c.api.Call(ctx, http.MethodPut, ownPath("subscriptions", body.Name), nil, nil, body, &body); err != nil {
					return err
				}
				return c.out.value(body, func(t *columns) {
					t.field("Subscription", body.Name)
					t.field("Tenant", body.Tenant)
				})
			},
		},
		accessList("subscriptions", "list subscriptions", func(t *columns, s *api.Subscription) { t.row(s.Name, s.Tenant) }, "NAME", "TENANT"),
		accessDelete("subscriptions", "subscription", "forget a subscription that has no resources"),
	)
}

func principalCommand(env *environment) *cli.Command {
	return noun(env, "principal", "who may make requests",
		verb{
			name: "create", names: "NAME", usage: "make or change a principal",
			description: "It is known by any of a uid or gid on the Unix socket, a TLS client certificate and its tokens.\n" +
				"It may do nothing until it is given a role (role create).",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "tenant", Usage: "`NAME` of its tenant", Required: true},
				&cli.IntFlag{Name: "uid", Usage: "`UID` of its processes on the Unix socket", DefaultText: "none"},
				&cli.IntFlag{Name: "gid", Usage: "`GID` of its processes on the Unix socket", DefaultText: "none"},
				&cli.StringFlag{Name: "certificate", Usage: "common `NAME` of its client certificate"},
			},
			run: func(ctx context.Context, c *call) error {
				body := api.Principal{Name: c.Args().First(), Tenant: c.String("tenant"), Certificate: c.String("certificate")}
				var err error
				if body.UID, err = c.id32("uid"); err != nil {
					return err
				}
				if body.GID, err = c.id32("gid"); err != nil {
					return err
				}
				if _, err := c.api.Call(ctx, http.MethodPut, ownPath("principals", body.Name), nil, nil, body, &body); err != nil {
					return err
				}
				return c.out.value(body, func(t *columns) {
					t.field("Principal", body.Name)
					t.field("Tenant", body.Tenant)
					t.field("Known by", knownBy(&body))
				})
			},
		},
		accessList("principals", "list principals", func(t *columns, p *api.Principal) { t.row(p.Name, p.Tenant, knownBy(p)) }, "NAME", "TENANT", "KNOWN BY"),
		accessDelete("principals", "principal", "remove a principal with its tokens and roles"),
	)
}

// id32 is a flag with a uid or gid, or nil.
func (c *call) id32(name string) (*uint32, error) {
	if !c.IsSet(name) {
		return nil, nil
	}
	value := c.Int(name)
	if value < 0 || value > 1<<32-2 {
		return nil, usageErrorf("flag --%s: %d is no id", name, value)
	}
	id := uint32(value)
	return &id, nil
}

func knownBy(p *api.Principal) string {
	text := ""
	add := func(what string) {
		if text != "" {
			text += ", "
		}
		text += what
	}
	if p.UID != nil {
		add("uid " + strconv.FormatUint(uint64(*p.UID), 10))
	}
	if p.GID != nil {
		add("gid " + strconv.FormatUint(uint64(*p.GID), 10))
	}
	if p.Certificate != "" {
		add("certificate " + p.Certificate)
	}
	if text == "" {
		return "its tokens only"
	}
	return text
}

func tokenCommand(env *environment) *cli.Command {
	return noun(env, "token", "bearer tokens of principals",
		verb{
			name: "create", usage: "make a token; only this answer shows its secret",
			description: "Everybody makes tokens for himself, who controls access for others, too. One that is asked for with a token of\n" +
				"the same principal lives as long as that one at most, and is deleted with it.",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "principal", Usage: "`NAME` of the principal", Required: true},
				&cli.DurationFlag{Name: "life", Usage: "`TIME` after which it is worthless, such as 720h", DefaultText: "never"},
			},
			run: func(ctx context.Context, c *call) error {
				ask := api.TokenRequest{Principal: c.String("principal"), LifeInSeconds: int64(c.Duration("life") / time.Second)}
				if c.IsSet("life") && ask.LifeInSeconds < 1 {
					return usageErrorf("flag --life: %s is shorter than a second", c.Duration("life"))
				}
				var made api.Token
				if _, err := c.api.Call(ctx, http.MethodPost, "/privlink/tokens", nil, nil, ask, &made); err != nil {
					return err
				}
				return c.out.value(made, func(t *columns) {
					t.field("Token id", made.ID)
					t.field("Principal", made.Principal)
					t.field("Expires", moment(made.Expires))
					t.field("Token", made.Secret)
				})
			},
		},
		accessList("tokens", "list tokens, without their secrets", func(t *columns, x *api.Token) {
			t.row(x.ID, x.Principal, moment(x.Created), moment(x.Expires))
		}, "ID", "PRINCIPAL", "CREATED", "EXPIRES"),
		accessDelete("tokens", "token", "make a token worthless at once"),
	)
}

func roleCommand(env *environment) *cli.Command {
	return noun(env, "role", "roles of principals on scopes",
		verb{
			name: "create", usage: "give a principal a role",
			description: "Roles: Owner may do everything, Contributor everything but access control, Reader looks.\n" +
				"A scope is / (everything), /subscriptions/S, /subscriptions/S/resourceGroups/G or a resource's id.",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "principal", Usage: "`NAME` of the principal", Required: true},
				&cli.StringFlag{Name: "role", Usage: "`Owner|Contributor|Reader`", Required: true},
				&cli.StringFlag{Name: "scope", Usage: "`SCOPE` of the role", Required: true},
			},
			run: func(ctx context.Context, c *call) error {
				body := api.RoleAssignment{Principal: c.String("principal"), Role: c.String("role"), Scope: c.String("scope")}
				if _, err := c.api.Call(ctx, http.MethodPost, "/privlink/roles", nil, nil, body, &body); err != nil {
					return err
				}
				return c.out.value(body, func(t *columns) {
					t.field("Role id", body.ID)
					t.field("Principal", body.Principal)
					t.field("Role", body.Role)
					t.field("Scope", body.Scope)
				})
			},
		},
		accessList("roles", "list roles", func(t *columns, r *api.RoleAssignment) { t.row(r.ID, r.Principal, r.Role, r.Scope) }, "ID", "PRINCIPAL", "ROLE", "SCOPE"),
		accessDelete("roles", "role", "take a role away"),
	)
}

func ownPath(collection, name string) string {
	return "/privlink/" + collection + "/" + url.PathEscape(name)
}

func accessList[T any](collection, usage string, row func(*columns, *T), header ...string) verb {
	return verb{name: "list", usage: usage, run: func(ctx context.Context, c *call) error {
		all, err := client.List[T](ctx, c.api, "/privlink/"+collection, nil)
		if err != nil {
			return err
		}
		return c.out.value(all, func(t *columns) {
			t.row(header...)
			for i := range all {
				row(t, &all[i])
			}
		})
	}}
}

func accessDelete(collection, what, usage string) verb {
	names := "NAME"
	if collection == "tokens" || collection == "roles" {
		names = "ID"
	}
	return verb{name: "delete", names: names, usage: usage, run: func(ctx context.Context, c *call) error {
		name := c.Args().First()
		answer, err := c.api.Call(ctx, http.MethodDelete, ownPath(collection, name), nil, nil, nil, nil)
		if err != nil {
			return err
		}
		if answer.Status == http.StatusNoContent {
			return c.out.say("%s %s did not exist", what, name)
		}
		return c.out.say("%s %s deleted", what, name)
	}}
}

func eventCommand(env *environment) *cli.Command {
	return noun(env, "event", "what was requested, decided and changed",
		verb{
			name: "list", usage: "list what was changed: who, what, from where",
			flags: []cli.Flag{&cli.Uint64Flag{Name: "after", Usage: "only entries after number `N`"}},
			run: func(ctx context.Context, c *call) error {
				all, err := client.List[api.JournalEntry](ctx, c.api, "/privlink/journal", url.Values{"after": {strconv.FormatUint(c.Uint64("after"), 10)}})
				if err != nil {
					return err
				}
				return c.out.value(all, func(t *columns) {
					t.row("NUMBER", "TIME", "PRINCIPAL", "FROM", "ACTION", "EVENT", "TARGET")
					for _, e := range all {
						t.row(strconv.FormatUint(e.Number, 10), moment(e.Time), e.Principal, e.From, e.Action, string(e.Event), e.Target)
					}
				})
			},
		},
		verb{
			name: "watch", usage: "print connection requests and decisions as they come, until interrupted",
			flags: []cli.Flag{
				&cli.BoolFlag{Name: "all", Usage: "every change, not only of connections"},
				&cli.Uint64Flag{Name: "after", Usage: "begin after entry number `N`", DefaultText: "with what comes now"},
			},
			run: watchEvents,
		},
	)
}

// watchEvents prints one line, or with -o json one object, for each entry.
func watchEvents(ctx context.Context, c *call) error {
	after := c.Uint64("after")
	if !c.IsSet("after") {
		var now api.Journal
		for {
			if _, err := c.api.Call(ctx, http.MethodGet, "/privlink/journal", url.Values{"after": {strconv.FormatUint(after, 10)}}, nil, nil, &now); err != nil {
				return err
			}
			if now.Next == after {
				break
			}
			after = now.Next
		}
	}
	for {
		var news api.Journal
		query := url.Values{"after": {strconv.FormatUint(after, 10)}, "wait": {"true"}}
		if _, err := c.api.Call(ctx, http.MethodGet, "/privlink/journal", query, nil, nil, &news); err != nil {
			if ctx.Err() != nil {
				return nil // interrupted, as it should end
			}
			return err
		}
		after = news.Next
		for _, e := range news.Value {
			if e.Event == "" && !c.Bool("all") {
				continue
			}
			if c.out.human() {
				what := string(e.Event)
				if what == "" {
					what = e.Action
				}
				if err := c.out.say("%s %s %s by %q", moment(e.Time), oneLine(what), oneLine(e.Target), e.Principal); err != nil {
					return err
				}
				continue
			}
			if err := c.out.line(e); err != nil {
				return err
			}
		}
	}
}

func backupCommand(env *environment) *cli.Command {
	return verb{
		name: "backup", names: "FILE", usage: "write a copy of all resources while the daemon runs; - is standard output",
		run: func(ctx context.Context, c *call) error {
			return c.backup(ctx, c.Args().First())
		},
	}.command(env)
}

func restoreCommand(env *environment) *cli.Command {
	return verb{
		name: "restore", names: "FILE", usage: "replace all resources with those of a backup; - is standard input",
		description: "The kernel follows at once: connections that the backup does not know are cut.",
		run: func(ctx context.Context, c *call) error {
			if err := c.restore(ctx, c.Args().First()); err != nil {
				return fmt.Errorf("restore from %s: %w", c.Args().First(), err)
			}
			return c.out.say("all resources are those of %s", c.Args().First())
		},
	}.command(env)
}
