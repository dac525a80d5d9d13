package dataplane

import "strconv"

// ident is the hash by which a restarted daemon finds a slot again: FNV-64a over the parts,
// each preceded by its length so that ("ab","c") and ("a","bc") differ. Never 0, which means
// that a slot is nobody's.
func ident(parts ...string) uint64 {
	h := identBegin
	for _, p := range parts {
		h = identPart(h, p)
	}
	return identEnd(h)
}

// FNV-64a. Who has many idents that begin alike keeps what identPart gave for the parts in common.
const (
	identBegin = uint64(0xcbf29ce484222325)
	identPrime = uint64(0x100000001b3)
)

func identPart[T string | []byte](h uint64, part T) uint64 {
	var digits [20]byte
	for _, b := range strconv.AppendInt(digits[:0], int64(len(part)), 10) {
		h = (h ^ uint64(b)) * identPrime
	}
	h = (h ^ ':') * identPrime
	for i := range len(part) {
		h = (h ^ uint64(part[i])) * identPrime
	}
	return h
}

func identEnd(h uint64) uint64 {
	if h != 0 {
		return h
	}
	return 1
}

// backendIdents gives the idents of one rule's backends, and the hashes of the names by which they are balanced.
type backendIdents struct {
	rule uint64 // of what comes before the pool
	port string
	// Of the pool asked for last, which is mostly that of all.
	pool           string
	inPool, byName uint64
}

func newBackendIdents(rs *RuleSet, r *Rule) backendIdents {
	h := identBegin
	for _, part := range []string{"backend", rs.Key, r.Key} {
		h = identPart(h, part)
	}
	return backendIdents{rule: h, port: strconv.Itoa(int(r.BackendPort))}
}

func (b *backendIdents) of(t *Target) (id, name uint64) {
	if b.inPool == 0 || b.pool != t.Pool {
		b.pool, b.inPool, b.byName = t.Pool, identPart(b.rule, t.Pool), identPart(identBegin, t.Pool)
	}
	var text [40]byte
	addr := t.Addr.AppendTo(text[:0])
	return identEnd(identPart(identPart(b.inPool, addr), b.port)), identPart(identPart(b.byName, addr), b.port)
}

func backendIdent(rs *RuleSet, r *Rule, t Target) uint64 {
	idents := newBackendIdents(rs, r)
	id, _ := idents.of(&t)
	return id
}
