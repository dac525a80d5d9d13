package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"go.etcd.io/bbolt"
)

// migration brings a file from one schema to the next, inside the transaction that also writes the new number.
type migration func(tx *bbolt.Tx) error

// migrations are all there ever were, in order: the first brings schema 1 to schema 2. A file of any schema of before goes
// through those that it lacks in one transaction when it is opened, a backup when it is restored. What one does is never changed.
func migrations() []migration { return []migration{addChecksums} }

// schema is what this version writes.
func schema() uint64 { return uint64(len(migrations())) + 1 }

// migrate does what a file of a schema lacks. Nothing of it is in the file before tx ends.
func migrate(tx *bbolt.Tx, from uint64, all []migration) error {
	for at := from; at <= uint64(len(all)); at++ {
		if err := all[at-1](tx); err != nil {
			return fmt.Errorf("bring schema %d to %d: %w", at, at+1, err)
		}
	}
	return tx.Bucket(metaBucket()).Put(schemaKey(), number(uint64(len(all))+1))
}

// addChecksums is schema 2. Before it a value's bytes stood behind its revision, and a bit that the disk turned round was
// taken as it was: bbolt has checksums for its two root pages only.
func addChecksums(tx *bbolt.Tx) error {
	type pair struct{ key, stored []byte }
	var all []pair
	entries := tx.Bucket(entriesBucket())
	err := entries.ForEach(func(k, v []byte) error {
		if len(v) < 8 {
			return damaged(fmt.Errorf("entry %q has no revision", k))
		}
		all = append(all, pair{bytes.Clone(k), seal(k, binary.BigEndian.Uint64(v), v[8:])})
		return nil
	})
	if err != nil {
		return err
	}
	for _, p := range all {
		if err := entries.Put(p.key, p.stored); err != nil {
			return err
		}
	}
	return nil
}

// What stands before a value: its revision and the checksum.
const sealed = 8 + 4

// seal is a value as it is stored: revision (8 bytes, big endian), CRC-32C of key, revision and value (4, big endian), value.
func seal(key []byte, rev uint64, value []byte) []byte {
	stored := make([]byte, 0, sealed+len(value))
	stored = binary.BigEndian.AppendUint64(stored, rev)
	stored = binary.BigEndian.AppendUint32(stored, checksum(key, stored, value))
	return append(stored, value...)
}

func checksum(key, rev, value []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Update(crc32.Update(0, table, key), table, rev), table, value)
}

// verify reads every entry and compares it with its checksum.
func verify(tx *bbolt.Tx) error {
	return tx.Bucket(entriesBucket()).ForEach(func(k, v []byte) error {
		if len(v) < sealed || binary.BigEndian.Uint32(v[8:]) != checksum(k, v[:8], v[sealed:]) {
			return fmt.Errorf("entry %q is not what was written", k)
		}
		return nil
	})
}
