package examine

import (
	"fmt"
	"math"
	"slices"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

// Check launches an implementation of op on example data of shape s and compares what it writes with the
// reference, and with what it writes for a row by itself. Errors are of the device or of launch.
func Check(dev gpu.Device, op gpu.Op, s gpu.KernelShape, launch func(args any) error) (gpu.KernelCase, error) {
	c := gpu.KernelCase{Shape: s}
	r := newRig(dev)
	defer r.free()
	list, err := r.examples(op, s)
	if err != nil {
		return c, err
	}
	for i := range list {
		e := &list[i]
		if err := launch(e.args); err != nil {
			return c, err
		}
		got, fault := r.read(e.out)
		if r.err != nil {
			return c, r.err
		}
		hold(&c, e, fault, got, ref.Epsilon(r.compute))
		if e.alone == nil {
			continue
		}
		if err := launch(e.alone); err != nil {
			return c, err
		}
		alone, fault := r.read(e.aloneOut)
		if r.err != nil {
			return c, r.err
		}
		rest := got[len(got)-len(alone):]
		last := example{what: e.what + ", the last row by itself", want: e.want[len(got)-len(alone):], tolerance: e.tolerance}
		hold(&c, &last, fault, alone, ref.Epsilon(r.compute))
		c.Varies = c.Varies || !slices.EqualFunc(alone, rest, func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) })
	}
	if fault := r.changed(); fault != "" && c.Fault == "" {
		c.Fault = fault
	}
	return c, r.err
}

// hold adds to c how far got is from what e wants. The first fault stays.
func hold(c *gpu.KernelCase, e *example, fault string, got []float32, epsilon float64) {
	allowed := e.tolerance.Steps * epsilon
	c.Allowed = allowed
	for i, want := range e.want {
		off := e.tolerance.Relative(got[i], want)
		if off <= allowed {
			c.Error = max(c.Error, off)
			continue
		}
		if fault == "" {
			fault = fmt.Sprintf("element %d of %d is %v, want %v", i, len(got), got[i], want)
		}
		if off != off || off > math.MaxFloat32 {
			off = math.MaxFloat32 // a number, for JSON
		}
		c.Error = max(c.Error, off)
	}
	if fault != "" && c.Fault == "" {
		c.Fault = e.what + ": " + fault
	}
}
