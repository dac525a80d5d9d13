package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/auth"
	"github.com/privlink/privlink/pkg/store"
)

// accessPath begins the targets of access control in the journal.
const accessPath = "/privlink/"

// access is who there is and what they may do, by store key. Values are never changed, only replaced.
type access struct {
	subscriptions map[string]*entry[api.Subscription]
	principals    map[string]*entry[api.Principal]
	tokens        map[string]*entry[keptToken]
	roles         map[string]*entry[api.RoleAssignment]
}

// entry is a value with the revision of the Commit that wrote it.
type entry[T any] struct {
	value    T
	revision uint64
}

// keptToken is a token as it is kept: its secret is 256 random bits, so one round of SHA-256 is enough.
type keptToken struct {
	api.Token
	Hash []byte `json:"hash"`
}

func newAccess() access {
	return access{subscriptions: map[string]*entry[api.Subscription]{}, principals: map[string]*entry[api.Principal]{},
		tokens: map[string]*entry[keptToken]{}, roles: map[string]*entry[api.RoleAssignment]{}}
}

func (a *access) load(e store.Entry) error {
	switch {
	case strings.HasPrefix(e.Key, prefixSubscr):
		return loadEntry(a.subscriptions, e)
	case strings.HasPrefix(e.Key, prefixPrincipal):
		return loadEntry(a.principals, e)
	case strings.HasPrefix(e.Key, prefixToken):
		return loadEntry(a.tokens, e)
	case strings.HasPrefix(e.Key, prefixRole):
		return loadEntry(a.roles, e)
	}
	return nil
}

func loadEntry[T any](m map[string]*entry[T], e store.Entry) error {
	x := &entry[T]{revision: e.Revision}
	if err := json.Unmarshal(e.Value, &x.value); err != nil {
		return fmt.Errorf("load %s: %w", e.Key, err)
	}
	m[e.Key] = x
	return nil
}

// committed gives what a transaction wrote its revision.
func (a *access) committed(t *tx, revision uint64) {
	for key := range t.puts {
		if e := a.subscriptions[key]; e != nil {
			e.revision = revision
		}
		if e := a.principals[key]; e != nil {
			e.revision = revision
		}
		if e := a.tokens[key]; e != nil {
			e.revision = revision
		}
		if e := a.roles[key]; e != nil {
			e.revision = revision
		}
	}
}

// setEntry writes a value under a key, or deletes it (nil). shown is the value as the journal shows it.
func setEntry[T any](t *tx, m map[string]*entry[T], key, target string, value *T, shown func(T) any) error {
	old := m[key]
	var before, after json.RawMessage
	var err error
	revision := uint64(0)
	if old != nil {
		revision = old.revision
		if before, err = json.Marshal(shown(old.value)); err != nil {
			return fmt.Errorf("keep %s: %w", key, err)
		}
	}
	t.undo = append(t.undo, func() {
		if delete(m, key); old != nil {
			m[key] = old
		}
	})
	if value == nil {
		delete(m, key)
		t.note(key, target, before, nil)
		t.drop(key, revision)
		return nil
	}
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("keep %s: %w", key, err)
	}
	if after, err = json.Marshal(shown(*value)); err != nil {
		return fmt.Errorf("keep %s: %w", key, err)
	}
	m[key] = &entry[T]{value: *value}
	t.note(key, target, before, after)
	t.put(key, data, revision)
	return nil
}

func same[T any](v T) any { return v }

// values are the values of a table in the order of their keys.
func values[T any](m map[string]*entry[T]) []T {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	list := make([]T, len(keys))
	for i, k := range keys {
		list[i] = m[k].value
	}
	return list
}

// tenantOf is the tenant of a subscription; one that nobody registered is its own.
func (v *view) tenantOf(subscription string) string {
	if e := v.access.subscriptions[prefixSubscr+strings.ToLower(subscription)]; e != nil {
		return e.value.Tenant
	}
	return subscription
}

// bootstrap makes root on the socket Owner of everything when there is nobody yet, and nobody else.
func (c *Controller) bootstrap(ctx context.Context) error {
	return c.update(ctx, auth.System(), func(t *tx) error {
		if len(t.view.access.principals) > 0 {
			return nil
		}
		root, uid := auth.Root(), uint32(0)
		if err := t.setPrincipal(&api.Principal{Name: root.Principal, Tenant: root.Tenant, UID: &uid}); err != nil {
			return err
		}
		return t.setRole(&api.RoleAssignment{ID: newGUID(), Principal: root.Principal, Role: string(auth.Owner), Scope: auth.Everything})
	})
}

func (t *tx) setPrincipal(p *api.Principal) error {
	return setEntry(t, t.view.access.principals, prefixPrincipal+strings.ToLower(p.Name), accessPath+"principals/"+p.Name, p, same)
}

func (t *tx) setRole(r *api.RoleAssignment) error {
	return setEntry(t, t.view.access.roles, prefixRole+r.ID, accessPath+"roles/"+r.ID, r, same)
}

// control refuses who may not control access to a scope.
func control(who auth.Actor, scope string) error {
	if who.May(auth.Control, scope) {
		return nil
	}
	return who.Forbidden(auth.Control, scope)
}

func noSuch(what, name string) error {
	return api.NewError(http.StatusNotFound, api.CodeNotFound, "", "%s %q was not found", what, name)
}

// PutSubscription registers a subscription with its tenant.
func (c *Controller) PutSubscription(ctx context.Context, who auth.Actor, s api.Subscription) (api.Subscription, error) {
	if err := control(who, auth.Everything); err != nil {
		return s, err
	}
	if err := s.Validate(); err != nil {
		return s, err
	}
	err := c.update(ctx, who, func(t *tx) error {
		key := prefixSubscr + strings.ToLower(s.Name)
		if old := t.view.access.subscriptions[key]; old != nil {
			s.Name = old.value.Name
			if old.value == s {
				return nil
			}
		}
		return setEntry(t, t.view.access.subscriptions, key, accessPath+"subscriptions/"+s.Name, &s, same)
	})
	return s, err
}

// Subscriptions lists those in which the actor may read something.
func (c *Controller) Subscriptions(_ context.Context, who auth.Actor) ([]api.Subscription, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := []api.Subscription{}
	for _, s := range values(c.view.access.subscriptions) {
		if who.MayBelow(auth.Read, auth.SubscriptionScope(s.Name)) {
			list = append(list, s)
		}
	}
	return list, nil
}

// DeleteSubscription forgets a subscription that has no resources, and the roles on it.
func (c *Controller) DeleteSubscription(ctx context.Context, who auth.Actor, name string) error {
	if err := control(who, auth.Everything); err != nil {
		return err
	}
	return c.update(ctx, who, func(t *tx) error {
		key := prefixSubscr + strings.ToLower(name)
		if t.view.access.subscriptions[key] == nil {
			return noSuch("subscription", name)
		}
		for _, r := range t.view.records {
			if strings.EqualFold(r.id.Subscription, name) {
				return api.Refused(api.CodeInUse, "", "subscription %s has resources: %s", name, r.id.Short())
			}
		}
		scope := strings.ToLower(auth.SubscriptionScope(name))
		for roleKey, r := range t.view.access.roles {
			if s := strings.ToLower(r.value.Scope); s == scope || strings.HasPrefix(s, scope+"/") {
				if err := setEntry(t, t.view.access.roles, roleKey, accessPath+"roles/"+r.value.ID, nil, same); err != nil {
					return err
				}
			}
		}
		return setEntry(t, t.view.access.subscriptions, key, accessPath+"subscriptions/"+name, nil, same)
	})
}

// PutPrincipal makes or changes a principal. Nobody else may be known by the same uid, gid or certificate.
func (c *Controller) PutPrincipal(ctx context.Context, who auth.Actor, p api.Principal) (api.Principal, error) {
	if err := control(who, auth.Everything); err != nil {
		return p, err
	}
	if err := p.Validate(); err != nil {
		return p, err
	}
	err := c.update(ctx, who, func(t *tx) error {
		if old := t.view.access.principals[prefixPrincipal+strings.ToLower(p.Name)]; old != nil {
			p.Name = old.value.Name // as resources do: roles and tokens name it so
		}
		for _, other := range values(t.view.access.principals) {
			if strings.EqualFold(other.Name, p.Name) {
				continue
			}
			switch {
			case p.UID != nil && other.UID != nil && *p.UID == *other.UID:
				return api.Refused(api.CodeConflict, "uid", "%d is principal %s", *p.UID, other.Name)
			case p.GID != nil && other.GID != nil && *p.GID == *other.GID:
				return api.Refused(api.CodeConflict, "gid", "%d is principal %s", *p.GID, other.Name)
			case p.Certificate != "" && p.Certificate == other.Certificate:
				return api.Refused(api.CodeConflict, "certificate", "%q is principal %s", p.Certificate, other.Name)
			}
		}
		if err := t.setPrincipal(&p); err != nil {
			return err
		}
		return t.checkOwner()
	})
	return p, err
}

// checkOwner refuses to leave nobody who could repair access: at least one Owner of everything that is not
// known by tokens alone, which expire.
func (t *tx) checkOwner() error {
	for _, r := range t.view.access.roles {
		if r.value.Role != string(auth.Owner) || r.value.Scope != auth.Everything {
			continue
		}
		if p := t.view.access.principals[prefixPrincipal+strings.ToLower(r.value.Principal)]; p != nil &&
			(p.value.UID != nil || p.value.GID != nil || p.value.Certificate != "") {
			return nil
		}
	}
	return api.Refused(api.CodeConflict, "", "nobody would be Owner of %s with a uid, gid or certificate any more", auth.Everything)
}

// Principals lists all principals.
func (c *Controller) Principals(_ context.Context, who auth.Actor) ([]api.Principal, error) {
	if err := control(who, auth.Everything); err != nil {
		return nil, err
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	return values(c.view.access.principals), nil
}

// DeletePrincipal removes a principal, its tokens and its roles.
func (c *Controller) DeletePrincipal(ctx context.Context, who auth.Actor, name string) error {
	if err := control(who, auth.Everything); err != nil {
		return err
	}
	return c.update(ctx, who, func(t *tx) error {
		key := prefixPrincipal + strings.ToLower(name)
		if t.view.access.principals[key] == nil {
			return noSuch("principal", name)
		}
		for k, x := range t.view.access.tokens {
			if strings.EqualFold(x.value.Principal, name) {
				if err := setEntry(t, t.view.access.tokens, k, accessPath+"tokens/"+x.value.ID, nil, shownToken); err != nil {
					return err
				}
			}
		}
		for k, r := range t.view.access.roles {
			if strings.EqualFold(r.value.Principal, name) {
				if err := setEntry(t, t.view.access.roles, k, accessPath+"roles/"+r.value.ID, nil, same); err != nil {
					return err
				}
			}
		}
		if err := setEntry(t, t.view.access.principals, key, accessPath+"principals/"+name, nil, same); err != nil {
			return err
		}
		return t.checkOwner()
	})
}

// tokenPrefix begins every token, so that one that got lost is recognised.
const tokenPrefix = "plk_"

func shownToken(x keptToken) any { return x.Token }

// CreateToken makes a bearer token for a principal: its own, or anybody's for who controls access. life 0 is
// for as long as may be: a token that asks for another of its own principal's is outlived by none, whether it expires or is
// deleted. Only the answer has the secret.
func (c *Controller) CreateToken(ctx context.Context, who auth.Actor, principal string, life time.Duration) (api.Token, error) {
	if !strings.EqualFold(principal, who.Principal) {
		if err := control(who, auth.Everything); err != nil {
			return api.Token{}, err
		}
	}
	if life < 0 {
		return api.Token{}, api.Invalid("expires", "lies in the past")
	}
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails: it ends the program instead
	var made api.Token
	err := c.update(ctx, who, func(t *tx) error {
		p := t.view.access.principals[prefixPrincipal+strings.ToLower(principal)]
		if p == nil {
			return noSuch("principal", principal)
		}
		n := 0
		for _, x := range t.view.access.tokens {
			if strings.EqualFold(x.value.Principal, principal) {
				n++
			}
		}
		if n >= api.MaxTokens {
			return api.OverLimit("", "principal %s has %d tokens, at most %d allowed", principal, n, api.MaxTokens)
		}
		made = api.Token{ID: strings.ReplaceAll(newGUID(), "-", ""), Principal: p.value.Name, Created: t.now}
		if life > 0 {
			made.Expires = t.now.Add(life)
		}
		if who.Token != "" && strings.EqualFold(principal, who.Principal) {
			if t.view.access.tokens[prefixToken+who.Token] == nil {
				return noSuch("token", who.Token) // deleted just now
			}
			made.Parent = who.Token
			switch {
			case who.Expires.IsZero():
			case life == 0:
				made.Expires = who.Expires
			case made.Expires.After(who.Expires):
				return api.NewError(http.StatusForbidden, api.CodeForbidden, "expires", "the token that asks is valid until %s, and so can be at most what it asks for",
					who.Expires.Format(time.RFC3339))
			}
		}
		text := tokenPrefix + made.ID + "_" + base64.RawURLEncoding.EncodeToString(secret[:])
		hash := sha256.Sum256([]byte(text))
		kept := &keptToken{Token: made, Hash: hash[:]}
		made.Secret = text
		return setEntry(t, t.view.access.tokens, prefixToken+made.ID, accessPath+"tokens/"+made.ID, kept, shownToken)
	})
	if err != nil {
		return api.Token{}, err
	}
	return made, nil
}

// Tokens lists tokens without their secrets: all for who controls access, else the actor's own.
func (c *Controller) Tokens(_ context.Context, who auth.Actor) ([]api.Token, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := []api.Token{}
	for _, x := range values(c.view.access.tokens) {
		if strings.EqualFold(x.Principal, who.Principal) || who.May(auth.Control, auth.Everything) {
			list = append(list, x.Token)
		}
	}
	return list, nil
}

// DeleteToken makes a token worthless at once, with those that were made with it.
func (c *Controller) DeleteToken(ctx context.Context, who auth.Actor, id string) error {
	return c.update(ctx, who, func(t *tx) error {
		x := t.view.access.tokens[prefixToken+id]
		if x == nil || !strings.EqualFold(x.value.Principal, who.Principal) && !who.May(auth.Control, auth.Everything) {
			return noSuch("token", id)
		}
		return t.dropToken(id)
	})
}

func (t *tx) dropToken(id string) error {
	if err := setEntry(t, t.view.access.tokens, prefixToken+id, accessPath+"tokens/"+id, nil, shownToken); err != nil {
		return err
	}
	for _, child := range values(t.view.access.tokens) {
		if child.Parent == id {
			if err := t.dropToken(child.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// PutRole gives a principal a role on a scope that the actor controls. The same twice is one assignment.
func (c *Controller) PutRole(ctx context.Context, who auth.Actor, r api.RoleAssignment) (api.RoleAssignment, error) {
	role, err := auth.ParseRole(r.Role)
	if err != nil {
		return r, err
	}
	if r.Scope, err = auth.CheckScope(r.Scope); err != nil {
		return r, err
	}
	if err := control(who, r.Scope); err != nil {
		return r, err
	}
	r.Role = string(role)
	err = c.update(ctx, who, func(t *tx) error {
		p := t.view.access.principals[prefixPrincipal+strings.ToLower(r.Principal)]
		if p == nil {
			return api.BadReference("principal", "%q was not found", r.Principal)
		}
		r.Principal = p.value.Name
		for _, known := range t.view.access.roles {
			if k := known.value; strings.EqualFold(k.Principal, r.Principal) && k.Role == r.Role && strings.EqualFold(k.Scope, r.Scope) {
				r = k
				return nil
			}
		}
		r.ID = newGUID()
		return t.setRole(&r)
	})
	return r, err
}

// Roles lists the assignments on scopes that the actor controls, and its own.
func (c *Controller) Roles(_ context.Context, who auth.Actor) ([]api.RoleAssignment, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	list := []api.RoleAssignment{}
	for _, r := range values(c.view.access.roles) {
		if who.May(auth.Control, r.Scope) || strings.EqualFold(r.Principal, who.Principal) {
			list = append(list, r)
		}
	}
	return list, nil
}

// DeleteRole takes a role away.
func (c *Controller) DeleteRole(ctx context.Context, who auth.Actor, id string) error {
	return c.update(ctx, who, func(t *tx) error {
		r := t.view.access.roles[prefixRole+id]
		if r == nil || !who.May(auth.Control, r.value.Scope) {
			return noSuch("role assignment", id)
		}
		if err := setEntry(t, t.view.access.roles, prefixRole+id, accessPath+"roles/"+id, nil, same); err != nil {
			return err
		}
		return t.checkOwner()
	})
}

// Identify finds who presents these credentials, with all of its roles. Who is nobody gets an error with
// status 401 that does not say why.
func (c *Controller) Identify(_ context.Context, x auth.Credentials) (auth.Actor, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	known := c.matching(x)
	if len(known) == 0 {
		return auth.Actor{}, api.NewError(http.StatusUnauthorized, api.CodeUnauthorized, "", "who asks is not known here (see `privlink principal create`)")
	}
	who := auth.Actor{Principal: known[0].Name, Tenant: known[0].Tenant, From: x.From}
	if x.Token != "" {
		kept := c.view.access.tokens[prefixToken+tokenID(x.Token)].value
		who.Token, who.Expires = kept.ID, kept.Expires
	}
	for _, p := range known {
		for _, r := range values(c.view.access.roles) {
			if strings.EqualFold(r.Principal, p.Name) {
				who.Grants = append(who.Grants, auth.Grant{Role: auth.Role(r.Role), Scope: r.Scope})
			}
		}
	}
	return who, nil
}

// matching are the principals that the credentials prove: by token, else by certificate, else by uid and gids,
// the uid's first.
func (c *Controller) matching(x auth.Credentials) []api.Principal {
	if x.Token != "" {
		return c.byToken(x.Token)
	}
	var list []api.Principal
	for _, p := range values(c.view.access.principals) {
		switch {
		case x.Certificate != "" && p.Certificate == x.Certificate:
			return []api.Principal{p}
		case x.UID != nil && p.UID != nil && *p.UID == *x.UID:
			list = slices.Insert(list, 0, p)
		case p.GID != nil && slices.Contains(x.GIDs, *p.GID):
			list = append(list, p)
		}
	}
	return list
}

// tokenID is the id in a token's text.
func tokenID(token string) string {
	id, _, _ := strings.Cut(strings.TrimPrefix(token, tokenPrefix), "_")
	return id
}

func (c *Controller) byToken(token string) []api.Principal {
	kept := c.view.access.tokens[prefixToken+tokenID(token)]
	hash := sha256.Sum256([]byte(token))
	if kept == nil || subtle.ConstantTimeCompare(hash[:], kept.value.Hash) != 1 {
		return nil
	}
	if e := kept.value.Expires; !e.IsZero() && !c.options.Now().Before(e) {
		return nil
	}
	if p := c.view.access.principals[prefixPrincipal+strings.ToLower(kept.value.Principal)]; p != nil {
		return []api.Principal{p.value}
	}
	return nil
}
