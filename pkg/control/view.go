package control

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/store"
)

// view is everything in the store, decoded, with what is looked up often. The Controller owns it; it is
// changed by transactions only.
type view struct {
	records     map[string]*record     // by key
	connections map[string]*connection // by key
	// The same in the order of their keys, for snapshots.
	recordList     []*record
	connectionList []*connection
	byService      map[string]map[string]*connection
	byEndpoint     map[string]*connection
	aliases        map[string]string               // alias in lower case -> key of the service
	held           map[string]map[netip.Addr]owner // by network
	backends       map[place]int                   // addresses that pools name -> how many pools do
	refs           map[string]map[string]bool      // what is referred to -> records that do

	access access

	linkIDs         uint64 // given so far
	linkIDsRevision uint64
	journal         uint64 // number of the last entry
	journalRevision uint64
	revision        uint64 // of the store
}

// owner is who has an address.
type owner struct {
	record *record
	hold   hold
}

// String is the owner as errors name it.
func (o owner) String() string {
	if o.hold.part == "" {
		return o.record.id.Short()
	}
	return o.record.id.Short() + " (" + o.hold.part + ")"
}

// loadView decodes all entries of a store.
func loadView(entries []store.Entry, revision uint64) (*view, error) {
	v := &view{
		records: map[string]*record{}, connections: map[string]*connection{},
		byService: map[string]map[string]*connection{}, byEndpoint: map[string]*connection{},
		aliases: map[string]string{}, held: map[string]map[netip.Addr]owner{}, refs: map[string]map[string]bool{}, backends: map[place]int{},
		access: newAccess(), revision: revision,
	}
	for _, e := range entries {
		switch {
		case strings.HasPrefix(e.Key, prefixResource+"/"):
			r, err := loadRecord(e.Key, e.Value)
			if err != nil {
				return nil, err
			}
			r.revision = e.Revision
			v.add(r)
		case strings.HasPrefix(e.Key, prefixConnection+"/"):
			c, err := loadConnection(e.Key, e.Value)
			if err != nil {
				return nil, err
			}
			c.revision = e.Revision
			v.addConnection(c)
		case e.Key == keyLinkIDs, e.Key == keyJournal:
			if len(e.Value) != 8 {
				return nil, fmt.Errorf("load %s: %d bytes", e.Key, len(e.Value))
			}
			if n := binary.BigEndian.Uint64(e.Value); e.Key == keyLinkIDs {
				v.linkIDs, v.linkIDsRevision = n, e.Revision
			} else {
				v.journal, v.journalRevision = n, e.Revision
			}
		default:
			if err := v.access.load(e); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// add puts a record that is not there into all tables.
func (v *view) add(r *record) {
	v.records[r.key] = r
	v.recordList = inOrder(v.recordList, r, (*record).compare)
	for _, h := range r.holds {
		if v.held[h.network] == nil {
			v.held[h.network] = map[netip.Addr]owner{}
		}
		v.held[h.network][h.addr] = owner{record: r, hold: h}
	}
	for _, at := range r.backends {
		v.backends[at]++
	}
	for _, ref := range r.refs {
		if v.refs[ref] == nil {
			v.refs[ref] = map[string]bool{}
		}
		v.refs[ref][r.key] = true
	}
	if r.kept.Alias != "" {
		v.aliases[strings.ToLower(r.kept.Alias)] = r.key
	}
}

// remove takes a record out of all tables.
func (v *view) remove(r *record) {
	delete(v.records, r.key)
	v.recordList = without(v.recordList, r, (*record).compare)
	for _, h := range r.holds {
		if o, ok := v.held[h.network][h.addr]; ok && o.record.key == r.key {
			delete(v.held[h.network], h.addr)
		}
	}
	for _, at := range r.backends {
		if v.backends[at]--; v.backends[at] == 0 {
			delete(v.backends, at)
		}
	}
	for _, ref := range r.refs {
		if delete(v.refs[ref], r.key); len(v.refs[ref]) == 0 {
			delete(v.refs, ref)
		}
	}
	if r.kept.Alias != "" {
		delete(v.aliases, strings.ToLower(r.kept.Alias))
	}
}

func (v *view) addConnection(c *connection) {
	v.connections[c.key] = c
	v.connectionList = inOrder(v.connectionList, c, (*connection).compare)
	if v.byService[c.serviceKey] == nil {
		v.byService[c.serviceKey] = map[string]*connection{}
	}
	v.byService[c.serviceKey][c.key] = c
	v.byEndpoint[c.endpointKey] = c
}

func (v *view) removeConnection(c *connection) {
	delete(v.connections, c.key)
	v.connectionList = without(v.connectionList, c, (*connection).compare)
	if delete(v.byService[c.serviceKey], c.key); len(v.byService[c.serviceKey]) == 0 {
		delete(v.byService, c.serviceKey)
	}
	if v.byEndpoint[c.endpointKey] == c {
		delete(v.byEndpoint, c.endpointKey)
	}
}

func (r *record) compare(other *record) int { return strings.Compare(r.key, other.key) }

func (c *connection) compare(other *connection) int { return strings.Compare(c.key, other.key) }

// inOrder puts x into an ordered list.
func inOrder[T any](list []T, x T, compare func(T, T) int) []T {
	i, _ := slices.BinarySearchFunc(list, x, compare)
	return slices.Insert(list, i, x)
}

// without takes x out of an ordered list.
func without[T any](list []T, x T, compare func(T, T) int) []T {
	if i, found := slices.BinarySearchFunc(list, x, compare); found {
		return slices.Delete(list, i, i+1)
	}
	return list
}

// find returns the record of an id and its resource as R, or nil.
func find[R api.Resource](v *view, id string) (*record, R) {
	var none R
	parsed, err := api.ParseID(id, api.ID{})
	if err != nil {
		return nil, none
	}
	rec := v.records[parsed.Parent().Key()]
	if rec == nil {
		return nil, none
	}
	r, ok := rec.resource.(R)
	if !ok {
		return nil, none
	}
	return rec, r
}

// subnet returns a subnet with its network, or nil.
func (v *view) subnet(ref *api.SubResource) (*record, *api.Subnet) {
	if ref == nil {
		return nil, nil
	}
	rec, network := find[*api.VirtualNetwork](v, ref.ID)
	if rec == nil {
		return nil, nil
	}
	id, _ := api.ParseID(ref.ID, api.ID{})
	if s := network.Subnet(id.Child); s != nil {
		return rec, s
	}
	return nil, nil
}

// users are the records of a kind that refer to a key, in the order of their keys.
func (v *view) users(key string, kinds ...api.Kind) []*record {
	var list []*record
	for user := range v.refs[key] {
		rec := v.records[user]
		for _, k := range kinds {
			if rec.resource.Kind() == k {
				list = append(list, rec)
			}
		}
	}
	sortRecords(list)
	return list
}
