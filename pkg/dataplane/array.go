package dataplane

import (
	"fmt"
	"iter"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// array is a BPF_F_MMAPABLE ARRAY as Go sees it: its elements in memory, shared with the programs.
//
// Reads and writes are 64-bit words, atomic each; the order of the words is the caller's
// business, which is why store names the word that comes last. Only the owner of the
// Dataplane's mutex writes. T has no pointers.
type array[T any] struct {
	mem   []byte
	words []uint64 // of all elements
	per   int      // words of an element
	count uint32
}

// mapArray maps m, whose value must be a T. The mapping outlives m.
func mapArray[T any](m *ebpf.Map) (*array[T], error) {
	var zero T
	size := int(unsafe.Sizeof(zero))
	if int(m.ValueSize()) != size {
		return nil, fmt.Errorf("map %s into memory: values of %d bytes, expected %d", m, m.ValueSize(), size)
	}
	stride := (size + 7) / 8 * 8 // the kernel rounds elements up
	mem, err := mapWords(m, stride)
	if err != nil {
		return nil, err
	}
	return &array[T]{
		mem:   mem,
		words: unsafe.Slice((*uint64)(unsafe.Pointer(&mem[0])), len(mem)/8),
		per:   stride / 8,
		count: m.MaxEntries(),
	}, nil
}

// mapWords maps all elements of m, each of stride bytes, into memory.
func mapWords(m *ebpf.Map, stride int) ([]byte, error) {
	page := unix.Getpagesize()
	length := (int(m.MaxEntries())*stride + page - 1) / page * page
	mem, err := unix.Mmap(m.FD(), 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s into memory: %w", m, err)
	}
	return mem, nil
}

// close ends the mapping; the array must not be used any more.
func (a *array[T]) close() error {
	if a == nil || a.mem == nil {
		return nil
	}
	mem := a.mem
	a.mem, a.words, a.count = nil, nil, 0
	return unix.Munmap(mem)
}

func (a *array[T]) slot(slot uint32) []uint64 {
	first := int(slot) * a.per
	return a.words[first : first+a.per : first+a.per]
}

// padded has room for a T in whole words.
type padded[T any] struct {
	v T
	_ uint64
}

func (p *padded[T]) words() []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(p)), (unsafe.Sizeof(p.v)+7)/8)
}

// load copies an element, word by word.
func (a *array[T]) load(slot uint32) T {
	var p padded[T]
	to := p.words()
	for i := range a.slot(slot) {
		to[i] = atomic.LoadUint64(&a.slot(slot)[i])
	}
	return p.v
}

// all are the elements, in the order of their slots.
func (a *array[T]) all() iter.Seq[T] {
	return func(yield func(T) bool) {
		for slot := range a.count {
			if !yield(a.load(slot)) {
				return
			}
		}
	}
}

// store writes an element; the word with index last is written after all others. Words
// that are equal already are left alone, so that an unchanged element costs no packet
// a cache miss.
func (a *array[T]) store(slot uint32, v T, last int) {
	p := padded[T]{v: v}
	from, to := p.words(), a.slot(slot)
	for i := range from {
		if i != last && atomic.LoadUint64(&to[i]) != from[i] {
			atomic.StoreUint64(&to[i], from[i])
		}
	}
	if atomic.LoadUint64(&to[last]) != from[last] {
		atomic.StoreUint64(&to[last], from[last])
	}
}

// storeWord writes one word of an element, as it is in v.
func (a *array[T]) storeWord(slot uint32, v T, word int) {
	p := padded[T]{v: v}
	atomic.StoreUint64(&a.slot(slot)[word], p.words()[word])
}

// word reads one word of an element.
func (a *array[T]) word(slot uint32, word int) uint64 {
	return atomic.LoadUint64(&a.slot(slot)[word])
}

// store32 writes 4 bytes of an element, at an offset that is a multiple of 4.
func (a *array[T]) store32(slot uint32, offset uintptr, v uint32) {
	atomic.StoreUint32((*uint32)(unsafe.Add(unsafe.Pointer(&a.slot(slot)[0]), offset)), v)
}

// words are the elements of a mmapable array whose type Go does not have.
type words struct {
	mem    []byte
	stride int
}

// openWords maps m, an ARRAY with values of any size.
func openWords(m *ebpf.Map) (words, error) {
	stride := (int(m.ValueSize()) + 7) / 8 * 8 // as in mapArray
	mem, err := mapWords(m, stride)
	return words{mem, stride}, err
}

// slot is an element's memory.
func (w words) slot(slot uint32) []byte {
	first := int(slot) * w.stride
	return w.mem[first : first+w.stride : first+w.stride]
}

func (w words) close() {
	_ = unix.Munmap(w.mem) // unmapping our own mapping cannot fail
}

// bytesOf is the memory of a value without pointers.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}
