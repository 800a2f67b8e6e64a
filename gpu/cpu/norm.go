package cpu

import (
	"fmt"
	"math"

	"github.com/troupe-engine/troupe/gpu"
)

// rmsNorm executes gpu.RMSNorm, one work item per row.
func (d *Device) rmsNorm(t *tier, a *gpu.RMSNorm) error {
	p := &d.work.norm
	*p = normTask{tier: t, out: d.Float32s(a.Out), x: d.Float32s(a.X), weight: d.Float32s(a.Weight), eps: a.Eps, offset: a.Offset}
	cols := len(p.weight)
	mustLen(gpu.OpRMSNorm, "Out", a.Out, len(p.x))
	if cols == 0 || len(p.x)%cols != 0 {
		panic(fmt.Sprintf("cpu: rmsnorm: X is %v, not rows of %d", a.X, cols))
	}
	d.share(p, len(p.x)/cols, float64(len(p.x))/t.gatesPerNs/2)
	*p = normTask{}
	return nil
}

type normTask struct {
	tier           *tier
	out, x, weight []float32
	eps, offset    float32
}

func (p *normTask) run(_, from, to int) {
	cols := len(p.weight)
	for r := from; r < to; r++ {
		normRow(p.tier, p.out[r*cols:][:cols], p.x[r*cols:][:cols], p.weight, p.eps, p.offset)
	}
}

// normRow normalizes x to out, which may be x.
func normRow(t *tier, out, x, weight []float32, eps, offset float32) {
	mean := t.squares(x) / float64(len(x))
	scale := float32(1 / math.Sqrt(mean+float64(eps)))
	t.scaleRow(out, x, weight, scale, offset)
}
