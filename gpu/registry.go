package gpu

import (
	"fmt"
	"sync/atomic"
)

// Registry holds a backend's implementations of the operations, K being its type of kernel, and knows
// which one of each is active. Register before launching work; the rest may be called from anywhere.
type Registry[K any] struct {
	device     string // for error messages: "cpu"
	ops        map[Op]*operation[K]
	selections atomic.Uint64
}

// operation is an op with its registered implementations.
type operation[K any] struct {
	implementations []*implementation[K]
	active          atomic.Pointer[implementation[K]]
}

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
	o := r.ops[op]
	if o == nil {
		o = &operation[K]{}
		r.ops[op] = o
	}
	fresh := &implementation[K]{name: name, doc: doc, kernel: kernel}
	for i, old := range o.implementations {
		if old.name == name {
			o.implementations[i] = fresh
			o.active.CompareAndSwap(old, fresh)
			return
		}
	}
	o.implementations = append(o.implementations, fresh)
	o.active.CompareAndSwap(nil, fresh)
}

// Vary marks the implementation of op called name as one whose rows depend on their batch. It is for
// backends, after Register.
func (r *Registry[K]) Vary(op Op, name string) {
	for _, im := range r.ops[op].implementations {
		if im.name == name {
			im.batchVariant = true
		}
	}
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

// Implementations implements Device.Implementations.
func (r *Registry[K]) Implementations(op Op) []Implementation {
	o := r.ops[op]
	if o == nil {
		return nil
	}
	active := o.active.Load()
	list := make([]Implementation, len(o.implementations))
	for i, im := range o.implementations {
		list[i] = Implementation{Name: im.name, Doc: im.doc, Active: im == active, BatchVariant: im.batchVariant}
	}
	return list
}

// Selections counts the calls of Select that chose something.
func (r *Registry[K]) Selections() uint64 { return r.selections.Load() }

// Select implements Device.Select.
func (r *Registry[K]) Select(op Op, name string) error {
	o, err := r.find(op)
	if err != nil {
		return err
	}
	var names []string
	for _, im := range o.implementations {
		if im.name == name {
			o.active.Store(im)
			r.selections.Add(1)
			return nil
		}
		names = append(names, im.name)
	}
	return fmt.Errorf("%w: op %q has no implementation %q here; it has %q", ErrNotSupported, op, name, names)
}
