package examine

import (
	"fmt"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

// example is a launch and what must come of it.
type example struct {
	what      string
	args      any
	out       *output
	want      []float32
	tolerance ref.Tolerance
	// The last row by itself, if its bits can be compared.
	alone    any
	aloneOut *output
}

// What bounds the rows of W of a product that is checked, each of which is like the others: their number, and the
// multiplications of the reference.
const (
	outputsMax   = 192
	productsMax  = 1 << 26
	outputsFloor = 8
)

// examples makes the launches that an op is checked by at a shape.
func (r *rig) examples(op gpu.Op, s gpu.KernelShape) ([]example, error) {
	switch op {
	case gpu.OpRMSNorm:
		return r.norms(s), r.err
	case gpu.OpActMul:
		return r.gates(s), r.err
	case gpu.OpRoPE:
		return r.rotations(s), r.err
	case gpu.OpMatMul:
		return r.products(s), r.err
	}
	return nil, fmt.Errorf("%w: kernels of %q cannot be examined; those of %q can", gpu.ErrNotSupported, op, Ops)
}

func (r *rig) norms(s gpu.KernelShape) []example {
	const eps = 1e-5
	x, weight := r.normal(r.compute, s.Rows*s.Cols, 2), r.normal(gpu.F32, s.Cols, 1)
	in, w := r.put("x", r.compute, x, s.Rows, s.Cols), r.put("weight", gpu.F32, weight, s.Cols)
	last := r.put("x", r.compute, x[(s.Rows-1)*s.Cols:], 1, s.Cols)
	var list []example
	for _, offset := range []float32{0, 1} {
		e := example{what: fmt.Sprintf("offset %v", offset), out: r.output(r.compute, nil, s.Rows, s.Cols), aloneOut: r.output(r.compute, nil, 1, s.Cols),
			want: ref.RMSNorm(x, weight, eps, offset), tolerance: ref.RMSNormTolerance}
		e.args = &gpu.RMSNorm{Out: e.out.tensor, X: in, Weight: w, Eps: eps, Offset: offset}
		e.alone = &gpu.RMSNorm{Out: e.aloneOut.tensor, X: last, Weight: w, Eps: eps, Offset: offset}
		list = append(list, e)
	}
	same := example{what: "in place", out: r.output(r.compute, x, s.Rows, s.Cols), want: list[0].want, tolerance: ref.RMSNormTolerance}
	same.args = &gpu.RMSNorm{Out: same.out.tensor, X: same.out.tensor, Weight: w, Eps: eps}
	return append(list, same)
}

func (r *rig) gates(s gpu.KernelShape) []example {
	x := r.normal(r.compute, s.Rows*2*s.Cols, 4)
	x[0], x[len(x)/2] = -100, 100
	in, last := r.put("x", r.compute, x, s.Rows, 2*s.Cols), r.put("x", r.compute, x[(s.Rows-1)*2*s.Cols:], 1, 2*s.Cols)
	var list []example
	for act, f := range []func(float64) float64{gpu.SiLU: ref.SiLU, gpu.GELUTanh: ref.GELUTanh} {
		e := example{what: fmt.Sprintf("activation %d", act), out: r.output(r.compute, nil, s.Rows, s.Cols), aloneOut: r.output(r.compute, nil, 1, s.Cols),
			want: ref.ActMul(x, s.Cols, f), tolerance: ref.ActMulTolerance}
		e.args = &gpu.ActMul{Out: e.out.tensor, X: in, Act: gpu.Activation(act)}
		e.alone = &gpu.ActMul{Out: e.aloneOut.tensor, X: last, Act: gpu.Activation(act)}
		list = append(list, e)
	}
	return list
}

func (r *rig) rotations(s gpu.KernelShape) []example {
	before, behind := s.HeadDim, 2*s.HeadDim
	stride := before + s.Heads*s.HeadDim + behind
	x := r.normal(r.compute, s.Rows*stride, 1)
	cos, sin := r.normal(gpu.F32, s.Rows*s.Cols, 1), r.normal(gpu.F32, s.Rows*s.Cols, 1)
	cosines, sines := r.put("cos", gpu.F32, cos, s.Rows, s.Cols), r.put("sin", gpu.F32, sin, s.Rows, s.Cols)
	e := example{what: "rotation", out: r.output(r.compute, x, s.Rows, stride), aloneOut: r.output(r.compute, x[(s.Rows-1)*stride:], 1, stride),
		want: ref.RoPE(x, stride, before, s.Heads, s.HeadDim, cos, sin), tolerance: ref.RoPETolerance}
	args := gpu.RoPE{X: e.out.tensor, Column: before, Heads: s.Heads, HeadDim: s.HeadDim, Cos: cosines, Sin: sines}
	alone, last := args, (s.Rows-1)*s.Cols
	alone.X, alone.Cos, alone.Sin = e.aloneOut.tensor, r.put("cos", gpu.F32, cos[last:], 1, s.Cols), r.put("sin", gpu.F32, sin[last:], 1, s.Cols)
	e.args, e.alone = &args, &alone
	return []example{e}
}

func (r *rig) products(s gpu.KernelShape) []example {
	n, k := min(s.Outputs, outputsMax, max(outputsFloor, productsMax/(s.Rows*s.Cols))), s.Cols
	x, w, bias := r.normal(r.compute, s.Rows*k, 1), r.normal(gpu.BF16, n*k, 1), r.normal(gpu.F32, n, 1)
	in, weight, biases := r.put("x", r.compute, x, s.Rows, k), r.pack(ref.Encode(gpu.BF16, w), n, k), r.put("bias", gpu.F32, bias, n)
	last := r.put("x", r.compute, x[(s.Rows-1)*k:], 1, k)
	tolerance := ref.SumTolerance(r.compute, k)
	plain := example{what: "plain", out: r.output(r.compute, nil, s.Rows, n), aloneOut: r.output(r.compute, nil, 1, n),
		want: ref.MatMul(x, w, nil, nil, n, k), tolerance: tolerance}
	plain.args = &gpu.MatMul{Out: plain.out.tensor, X: in, W: weight}
	plain.alone = &gpu.MatMul{Out: plain.aloneOut.tensor, X: last, W: weight}
	list := []example{plain}
	for _, dtype := range []gpu.DType{r.compute, gpu.F32} {
		old := r.normal(dtype, s.Rows*n, 1)
		e := example{what: fmt.Sprintf("added to %v, with a bias", dtype), out: r.output(dtype, old, s.Rows, n), want: ref.MatMul(x, w, bias, old, n, k), tolerance: tolerance}
		e.args = &gpu.MatMul{Out: e.out.tensor, X: in, W: weight, Bias: biases, Accumulate: true}
		list = append(list, e)
	}
	return list
}
