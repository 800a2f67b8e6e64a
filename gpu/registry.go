package gpu

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// Registry holds a backend's implementations of the operations, K being its type of kernel, and knows
// which one of each is active. Register a first implementation of every op before launching work; the rest may
// be called from anywhere.
type Registry[K any] struct {
	device     string // for error messages: "cpu"
	ops        map[Op]*operation[K]
	selections atomic.Uint64
}

// operation is an op with its registered implementations.
type operation[K any] struct {
	mu              sync.Mutex // guards implementations, but not what each holds
	implementations []*implementation[K]
	active          atomic.Pointer[implementation[K]]
}

// implementation does not change once it is registered.
type implementation[K any] struct {
	name, doc    string
	kernel       K
	batchVariant bool
}

// NewRegistry returns an empty registry. device names the backend in errors.
func NewRegistry[K any](device string) *Registry[K] {
	return &Registry[K]{device: device, ops: map[Op]*operation[K]{}}
}

// Register adds an implementation of op, or replaces the one of that name; Select makes it the
// one that runs. The first of an op is active from the start.
func (r *Registry[K]) Register(op Op, name, doc string, kernel K) {
	r.put(op, &implementation[K]{name: name, doc: doc, kernel: kernel})
}

// Vary marks the implementation of op called name as one whose rows depend on their batch. It is for
// backends, after Register.
func (r *Registry[K]) Vary(op Op, name string) {
	for _, im := range r.ops[op].list() {
		if im.name == name {
			varies := *im
			varies.batchVariant = true
			r.put(op, &varies)
		}
	}
}

func (r *Registry[K]) put(op Op, fresh *implementation[K]) {
	o := r.ops[op]
	if o == nil {
		o = &operation[K]{}
		r.ops[op] = o
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, old := range o.implementations {
		if old.name == fresh.name {
			o.implementations[i] = fresh
			if o.active.CompareAndSwap(old, fresh) {
				r.selections.Add(1)
			}
			return
		}
	}
	o.implementations = append(o.implementations, fresh)
	o.active.CompareAndSwap(nil, fresh)
}

func (o *operation[K]) list() []*implementation[K] {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.implementations)
}

func (r *Registry[K]) find(op Op) (*operation[K], error) {
	if o := r.ops[op]; o != nil {
		return o, nil
	}
	return nil, fmt.Errorf("%w: the %s device has no op %q", ErrNotSupported, r.device, op)
}

// Active returns the kernel of op that runs now, or ErrNotSupported.
func (r *Registry[K]) Active(op Op) (kernel K, err error) {
	o, err := r.find(op)
	if err != nil {
		return kernel, err
	}
	return o.active.Load().kernel, nil
}

// First returns the kernel of op that was registered first, which does all that the op is defined for, and
// reports whether it is the active one. It panics if there is none.
func (r *Registry[K]) First(op Op) (kernel K, active bool) {
	o := r.ops[op]
	o.mu.Lock()
	defer o.mu.Unlock()
	first := o.implementations[0]
	return first.kernel, o.active.Load() == first
}

// Implementations implements Device.Implementations.
func (r *Registry[K]) Implementations(op Op) []Implementation {
	o := r.ops[op]
	if o == nil {
		return nil
	}
	all, active := o.list(), o.active.Load()
	list := make([]Implementation, len(all))
	for i, im := range all {
		list[i] = Implementation{Name: im.name, Doc: im.doc, Active: im == active, BatchVariant: im.batchVariant}
	}
	return list
}

// Selections counts what may have changed which kernel runs.
func (r *Registry[K]) Selections() uint64 { return r.selections.Load() }

// Select implements Device.Select.
func (r *Registry[K]) Select(op Op, name string) error {
	o, err := r.find(op)
	if err != nil {
		return err
	}
	var names []string
	for _, im := range o.list() {
		if im.name == name {
			o.active.Store(im)
			r.selections.Add(1)
			return nil
		}
		names = append(names, im.name)
	}
	return fmt.Errorf("%w: op %q has no implementation %q here; it has %q", ErrNotSupported, op, name, names)
}
