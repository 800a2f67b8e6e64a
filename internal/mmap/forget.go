package mmap

import (
	"slices"
	"sync"
	"unsafe"
)

// span is a mapped file's place in memory.
type span struct{ from, to uintptr }

var (
	spansMu sync.Mutex
	spans   []span // of files that are mapped now
)

func spanOf(data []byte) span {
	from := uintptr(unsafe.Pointer(unsafe.SliceData(data)))
	return span{from, from + uintptr(len(data))}
}

// remember notes that data is a mapped file, so that Forget can tell it from other memory.
func remember(data []byte) {
	spansMu.Lock()
	defer spansMu.Unlock()
	spans = append(spans, spanOf(data))
}

// unremember undoes remember.
func unremember(data []byte) {
	spansMu.Lock()
	defer spansMu.Unlock()
	if i := slices.Index(spans, spanOf(data)); i >= 0 {
		spans = slices.Delete(spans, i, i+1)
	}
}

// Forget says that part of what Open returned will hardly be read again, so that its pages need not stay in this
// process's memory. They do stay in the system's cache, and reading them again is as right as before. For bytes that
// are no mapped file it does nothing.
func Forget(part []byte) {
	if len(part) == 0 {
		return
	}
	p := spanOf(part)
	spansMu.Lock()
	defer spansMu.Unlock() // held, so that the file stays mapped
	if slices.ContainsFunc(spans, func(s span) bool { return s.from <= p.from && p.to <= s.to }) {
		forget(part)
	}
}
