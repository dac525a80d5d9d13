package api

import (
	"encoding/json"
	"strings"
	"time"
)

// What access control and the journal are made of (paths under /privlink).

// Subscription says which tenant a subscription belongs to. One that nobody registered is a tenant of its own.
type Subscription struct {
	Name   string `json:"name"`
	Tenant string `json:"tenant"`
}

// Principal is somebody who makes requests. It is known by any of uid, gid, certificate and its tokens.
type Principal struct {
	Name   string `json:"name"`
	Tenant string `json:"tenant"`
	// UID and GID are those of a process on the Unix socket, as the kernel vouches for them.
	UID *uint32 `json:"uid,omitempty"`
	GID *uint32 `json:"gid,omitempty"`
	// Certificate is the common name in the subject of a TLS client certificate.
	Certificate string `json:"certificate,omitempty"`
}

// Token is a bearer token of a principal. Its secret is shown once, when it is made.
type Token struct {
	ID        string    `json:"id"`
	Principal string    `json:"principal"`
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires,omitzero"` // zero: never
	// Parent is the token with which its principal asked for this one, which is deleted with it.
	Parent string `json:"parent,omitempty"`
	Secret string `json:"token,omitempty"`
}

// RoleAssignment gives a principal a role on a scope.
type RoleAssignment struct {
	ID        string `json:"id"`
	Principal string `json:"principal"`
	Role      string `json:"role"`  // Owner, Contributor, Reader
	Scope     string `json:"scope"` // "/", a subscription, a resource group or a resource
}

// Limits of access control.
const (
	MaxTokens    = 100                        // of one principal
	MaxTokenLife = 100 * 365 * 24 * time.Hour // of a token that does not live for ever
)

// Validate checks a subscription's name and tenant.
func (s *Subscription) Validate() error {
	if err := CheckGroupName("name", s.Name); err != nil {
		return err
	}
	return CheckGroupName("tenant", s.Tenant)
}

// Validate checks a principal.
func (p *Principal) Validate() error {
	if err := CheckGroupName("name", p.Name); err != nil {
		return err
	}
	if err := CheckGroupName("tenant", p.Tenant); err != nil {
		return err
	}
	if strings.ContainsFunc(p.Certificate, func(r rune) bool { return r < ' ' }) || len(p.Certificate) > MaxName {
		return Invalid("certificate", "%q is not a common name", p.Certificate)
	}
	return nil
}

// EventKind is what an entry of the journal means to provider and consumer of a connection.
type EventKind string

// Events of connections.
const (
	EventRequested    EventKind = "ConnectionRequested"
	EventApproved     EventKind = "ConnectionApproved"
	EventRejected     EventKind = "ConnectionRejected"
	EventDisconnected EventKind = "ConnectionDisconnected" // removed by the provider, or its service deleted
	EventDeleted      EventKind = "ConnectionDeleted"      // by deleting the endpoint
)

// JournalEntry is one write: who changed what, from where, from what to what.
type JournalEntry struct {
	Number    uint64    `json:"number"` // 1 for the first; gaps never, the oldest are forgotten
	Time      time.Time `json:"time"`
	Principal string    `json:"principal"`
	Tenant    string    `json:"tenant,omitempty"`
	From      string    `json:"from,omitempty"`
	// Action is create, change, delete or restore. Before and After of a restore are the revisions and last entries of the state
	// that was replaced and of the backup.
	Action string `json:"action"`
	// Target is a resource id, or the path of what has none: /privlink/principals/NAME, /privlink/restore.
	Target string          `json:"target"`
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
	// Event is set for connections only; Endpoint is the consumer's resource id then.
	Event    EventKind `json:"event,omitempty"`
	Endpoint string    `json:"endpoint,omitempty"`
}

// MaxJournal is the number of entries of the journal that are kept.
const MaxJournal = 10_000
