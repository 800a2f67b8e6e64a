package gpu

import (
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strings"
	"sync/atomic"
)

// traceDepthMax bounds the frames kept of a creation or free stack.
const traceDepthMax = 24

var tracing atomic.Bool

// TraceLeaks turns recording of creation and free stacks on or off for allocations made from
// now on. It costs about a microsecond per allocation, so tests turn it on in TestMain and
// production leaves it off.
func TraceLeaks(on bool) { tracing.Store(on) }

// Table is a backend's allocation table: it hands out the (ID, Generation) pairs inside a
// Tensor and resolves them to the backend's payload T. A slot's generation is bumped when it
// is freed, so a stale Tensor never resolves to its slot's next owner.
//
// Put, Get, Free and All belong to the device's executor; Stats may be called from anywhere.
type Table[T any] struct {
	slots   []slot[T]
	vacant  []uint32 // freed slot indices, reused last in first out
	tensors atomic.Int64
	bytes   atomic.Int64
}

type slot[T any] struct {
	payload    T
	generation uint32 // of the live allocation, or of the next one when vacant
	live       bool
	bytes      int64
	name       string
	tensor     Tensor
	current    trace // of the live allocation
	previous   trace // of the one freed last
}

type trace struct {
	generation     uint32
	created, freed []uintptr
}

// Put stores payload, which occupies the given bytes of device memory, and returns the Tensor
// that names it. name appears in leak reports and panics; it may be empty.
func (t *Table[T]) Put(payload T, bytes int64, name string, dtype DType, dims ...int) Tensor {
	if len(t.vacant) == 0 {
		t.slots = append(t.slots, slot[T]{generation: 1})
		t.vacant = append(t.vacant, uint32(len(t.slots)-1))
	}
	index := t.vacant[len(t.vacant)-1]
	t.vacant = t.vacant[:len(t.vacant)-1]
	s := &t.slots[index]
	s.payload, s.bytes, s.live, s.name = payload, bytes, true, name
	s.tensor = NewTensor(index+1, s.generation, dtype, dims...)
	s.current = trace{generation: s.generation, created: stack()}
	t.tensors.Add(1)
	t.bytes.Add(bytes)
	return s.tensor
}

// Get returns the payload that x names. It panics if x was freed or never existed.
func (t *Table[T]) Get(x Tensor) T {
	if i := uint(x.ID) - 1; i < uint(len(t.slots)) {
		if s := &t.slots[i]; s.generation == x.Generation && s.live {
			return s.payload
		}
	}
	panic(t.stale("use", x))
}

// Free removes x and returns its payload for the backend to release. It panics if x was freed
// before or never existed.
func (t *Table[T]) Free(x Tensor) T {
	payload, ok := t.lookup(x)
	if !ok {
		panic(t.stale("free", x))
	}
	s := &t.slots[x.ID-1]
	s.previous = s.current
	s.previous.freed = stack()
	s.current = trace{}
	t.tensors.Add(-1)
	t.bytes.Add(-s.bytes)
	var none T
	s.payload, s.live, s.bytes = none, false, 0
	s.generation++
	t.vacant = append(t.vacant, x.ID-1)
	return payload
}

func (t *Table[T]) lookup(x Tensor) (payload T, ok bool) {
	if i := uint(x.ID) - 1; i < uint(len(t.slots)) {
		s := &t.slots[i]
		return s.payload, s.live && s.generation == x.Generation
	}
	return payload, false
}

// Stats accounts for the live allocations.
func (t *Table[T]) Stats() MemoryStats {
	return MemoryStats{Tensors: int(t.tensors.Load()), Bytes: t.bytes.Load()}
}

// All yields the live allocations in slot order.
func (t *Table[T]) All() iter.Seq2[Tensor, T] {
	return func(yield func(Tensor, T) bool) {
		for i := range t.slots {
			if s := &t.slots[i]; s.live && !yield(s.tensor, s.payload) {
				return
			}
		}
	}
}

// Leaks returns nil when nothing is live, and otherwise an error that lists the live
// allocations, each with its creation stack if tracing was on when it was made.
func (t *Table[T]) Leaks() error {
	stats := t.Stats()
	if stats.Tensors == 0 {
		return nil
	}
	const listedMax = 32
	var b strings.Builder
	fmt.Fprintf(&b, "gpu: %d tensors (%d bytes) were not freed", stats.Tensors, stats.Bytes)
	listed, traced := 0, true
	for i := range t.slots {
		s := &t.slots[i]
		if !s.live {
			continue
		}
		if listed++; listed > listedMax {
			fmt.Fprintf(&b, "\n%d more", stats.Tensors-listedMax)
			break
		}
		fmt.Fprintf(&b, "\n%v %s(%d bytes)", s.tensor, label(s.name), s.bytes)
		traced = traced && s.current.created != nil
		writeStack(&b, "created", s.current.created)
	}
	if !traced {
		b.WriteString("\ncall gpu.TraceLeaks(true) before allocating to see where they were made")
	}
	return errors.New(b.String())
}

// stale describes why x does not resolve.
func (t *Table[T]) stale(verb string, x Tensor) string {
	var b strings.Builder
	if !x.Valid() || int64(x.ID) > int64(len(t.slots)) {
		fmt.Fprintf(&b, "gpu: %s of %v, which this device never allocated", verb, x)
		return b.String()
	}
	s := &t.slots[x.ID-1]
	name := ""
	if s.tensor.Generation == x.Generation {
		name = label(s.name)
	}
	fmt.Fprintf(&b, "gpu: %s of freed %v %s", verb, x, name)
	if s.previous.generation == x.Generation {
		writeStack(&b, "created", s.previous.created)
		writeStack(&b, "freed", s.previous.freed)
	}
	if s.previous.created == nil {
		b.WriteString("(gpu.TraceLeaks(true) shows where it was created and freed)")
	}
	return b.String()
}

func label(name string) string {
	if name == "" {
		return ""
	}
	return fmt.Sprintf("%q ", name)
}

// stack captures the callers of the table's user, or nil when tracing is off.
func stack() []uintptr {
	if !tracing.Load() {
		return nil
	}
	pcs := make([]uintptr, traceDepthMax)
	return pcs[:runtime.Callers(3, pcs)]
}

func writeStack(b *strings.Builder, title string, pcs []uintptr) {
	if len(pcs) == 0 {
		return
	}
	fmt.Fprintf(b, "\n  %s at", title)
	frames := runtime.CallersFrames(pcs)
	for {
		f, more := frames.Next()
		fmt.Fprintf(b, "\n    %s\n      %s:%d", f.Function, f.File, f.Line)
		if !more {
			return
		}
	}
}
