package control

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/privlink/privlink/pkg/api"
)

// DefaultAliasSuffix are the last labels of an alias. Existing tools accept only this form.
const DefaultAliasSuffix = "azure.privatelinkservice"

// newGUID is a random UUID (RFC 9562, version 4).
func newGUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the program instead
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// makeAlias is prefix.guid.region.suffix; the prefix is the service's name, the region its location.
func makeAlias(name, guid, location, suffix string) string {
	return strings.Join([]string{name, guid, location, suffix}, ".")
}

// LinkIDs are numbers of 28 bits spread over four bytes, seven bits each, so that every byte is below
// 0x80: such an id survives peers that take the TLV for text. They are given in order, and the count of
// those given is kept in the store.
const (
	linkIDBits  = 28
	linkIDFirst = 0x20 << 21 // the first id is 0x20000001, which no byte order makes a small number
)

// linkID is the n-th id, from 1; ok is false when all are used up.
func linkID(n uint64) (id uint32, ok bool) {
	const mask = 1<<linkIDBits - 1
	if n == 0 || n > mask {
		return 0, false
	}
	// Numbers go up from linkIDFirst and around, and leave out 0.
	v := (linkIDFirst + n) & mask
	if v < linkIDFirst {
		v++ // gone around: 0 is no id
	}
	return uint32(v&0x7f | v>>7&0x7f<<8 | v>>14&0x7f<<16 | v>>21&0x7f<<24), true
}

// giveLinkID takes the next LinkID.
func (t *tx) giveLinkID() (uint32, error) {
	n := t.view.linkIDs + 1
	id, ok := linkID(n)
	if !ok {
		return 0, api.Refused(api.CodeLimit, "", "all %d LinkIDs are used up; none is given twice", uint64(1)<<linkIDBits-1)
	}
	old := t.view.linkIDs
	t.view.linkIDs = n
	t.undo = append(t.undo, func() { t.view.linkIDs = old })
	t.put(keyLinkIDs, binary.BigEndian.AppendUint64(nil, n), t.view.linkIDsRevision)
	return id, nil
}
