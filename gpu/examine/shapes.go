package examine

import "github.com/troupe-engine/troupe/gpu"

// Ops are those whose kernels can be examined.
var Ops = []gpu.Op{gpu.OpRMSNorm, gpu.OpActMul, gpu.OpRoPE, gpu.OpMatMul}

// Model is what a loaded model asks of kernels.
type Model struct {
	Hidden, Intermediate    int // elements
	Heads, KVHeads, HeadDim int
	Rotated                 int // elements of a head that RoPE rotates
	SequencesMax, TokensMax int // of a step
}

// Limits of the shapes.
const (
	rowsMax  = 512     // of a model's: more tell nothing new
	colsMax  = 8192    // of the others
	pairsMax = 1 << 24 // elements of a shape's arguments, so that the reference is done in time
)

// Shapes lists the sizes at which k is examined: odd ones, those at the ends of what k takes, and those of the
// model. It may be empty of the model's if k takes none of them.
func Shapes(k *gpu.KernelSource, m Model) []gpu.KernelShape {
	var list []gpu.KernelShape
	seen := map[gpu.KernelShape]bool{}
	add := func(s gpu.KernelShape) {
		small := s.Rows*max(s.Cols, s.Heads*s.HeadDim) <= pairsMax
		whole := s.HeadDim%max(1, k.ColsMultiple) == 0
		if s.Rows > 0 && s.Cols > 0 && small && whole && k.Takes(s.Rows, s.Cols) && !seen[s] {
			seen[s] = true
			list = append(list, s)
		}
	}
	step := max(1, k.ColsMultiple)
	low := (max(k.ColsMin, 1) + step - 1) / step * step
	high := colsMax / step * step
	if k.ColsMax > 0 {
		high = min(high, k.ColsMax/step*step)
	}
	for _, cols := range []int{low, low + step, low + 2*step, 3, 64, 65, 257, 1024, 1032, high} {
		for _, rows := range []int{1, 2, 7, min(k.RowsMax, rowsMax)} {
			add(sized(k.Op, rows, cols))
		}
	}
	for _, rows := range []int{1, 8, min(m.SequencesMax, rowsMax), min(m.TokensMax, rowsMax), min(k.RowsMax, rowsMax)} {
		for _, s := range m.shapes(k.Op) {
			s.Rows, s.Model = rows, true
			add(s)
		}
	}
	return list
}

// sized is a shape that no model has.
func sized(op gpu.Op, rows, cols int) gpu.KernelShape {
	s := gpu.KernelShape{Rows: rows, Cols: cols}
	switch op {
	case gpu.OpRoPE:
		s.Heads, s.HeadDim = 3, 2*cols+cols%2*2 // with odd halves, a part of each head stays as it is
	case gpu.OpMatMul:
		s.Outputs = 5 + 3*rows
	}
	return s
}

// shapes are the model's for one token.
func (m Model) shapes(op gpu.Op) []gpu.KernelShape {
	switch op {
	case gpu.OpRMSNorm:
		return []gpu.KernelShape{{Cols: m.Hidden}}
	case gpu.OpActMul:
		return []gpu.KernelShape{{Cols: m.Intermediate}}
	case gpu.OpRoPE:
		return []gpu.KernelShape{{Cols: m.Rotated / 2, Heads: m.Heads + m.KVHeads, HeadDim: m.HeadDim}}
	case gpu.OpMatMul:
		return []gpu.KernelShape{{Cols: m.Hidden, Outputs: (m.Heads + 2*m.KVHeads) * m.HeadDim}, {Cols: m.Heads * m.HeadDim, Outputs: m.Hidden},
			{Cols: m.Hidden, Outputs: 2 * m.Intermediate}, {Cols: m.Intermediate, Outputs: m.Hidden}}
	}
	return nil
}
