package cpu

import (
	"fmt"
	"math"

	"github.com/troupe-engine/troupe/gpu"
)

// moeRoute executes gpu.MoERoute. Selection compares logits, which softmax does not reorder.
func (d *Device) moeRoute(a *gpu.MoERoute) error {
	tokens, experts, topK := a.Logits.Dims[0], a.Logits.Dims[1], a.Experts.Dims[1]
	mustShape(gpu.OpMoERoute, "Experts", a.Experts, tokens, topK)
	mustShape(gpu.OpMoERoute, "Weights", a.Weights, tokens, topK)
	if topK > experts {
		panic(fmt.Sprintf("cpu: moe_route: top %d of %d experts", topK, experts))
	}
	logits, chosen, weights := d.Float32s(a.Logits), d.Int32s(a.Experts), d.Float32s(a.Weights)
	for t := range tokens {
		routeRow(logits[t*experts:][:experts], chosen[t*topK:][:topK], weights[t*topK:][:topK], a.Normalize)
	}
	return nil
}

func routeRow(row []float32, chosen []int32, weights []float32, normalize bool) {
	for j := range chosen {
		best := int32(-1)
		for e, v := range row {
			if (best < 0 || v > row[best]) && !contains(chosen[:j], int32(e)) {
				best = int32(e)
			}
		}
		chosen[j] = best
	}
	largest := float64(row[chosen[0]])
	counted := 0.0
	if normalize {
		for _, e := range chosen {
			counted += math.Exp(float64(row[e]) - largest)
		}
	} else {
		for _, v := range row {
			counted += math.Exp(float64(v) - largest)
		}
	}
	for j, e := range chosen {
		weights[j] = float32(math.Exp(float64(row[e])-largest) / counted)
	}
}

func contains(ids []int32, id int32) bool {
	for _, v := range ids {
		if v == id {
			return true
		}
	}
	return false
}

// expertRow is one (token, choice) pair that an expert has to compute.
type expertRow struct {
	token  int
	weight float32
}

// moeExperts executes gpu.MoEExperts: expert by expert in index order, each over all tokens
// that chose it, so its weights are read once. A row's products do not depend on the others.
func (d *Device) moeExperts(t *tier, a *gpu.MoEExperts) error {
	tokens, hidden, topK := a.X.Dims[0], a.X.Dims[1], a.Experts.Dims[1]
	width := a.Scratch.Dims[1]
	mustShape(gpu.OpMoEExperts, "Out", a.Out, tokens, hidden)
	mustShape(gpu.OpMoEExperts, "Experts", a.Experts, tokens, topK)
	mustShape(gpu.OpMoEExperts, "Weights", a.Weights, tokens, topK)
	mustShape(gpu.OpMoEExperts, "Hidden", a.Hidden, tokens*topK, 2*width)
	mustShape(gpu.OpMoEExperts, "Scratch", a.Scratch, tokens*topK, width)
	if len(a.GateUp) != len(a.Down) {
		panic(fmt.Sprintf("cpu: moe_experts: %d GateUp and %d Down matrices", len(a.GateUp), len(a.Down)))
	}
	x, out, chosen, weights := d.Float32s(a.X), d.Float32s(a.Out), d.Int32s(a.Experts), d.Float32s(a.Weights)
	for _, e := range chosen {
		mustIndex(gpu.OpMoEExperts, "Experts", int(e), len(a.GateUp))
	}
	w := &d.work
	w.sums = grow(w.sums, tokens*hidden)
	clear(w.sums)
	for e := range a.GateUp {
		w.rows = w.rows[:0]
		for i, c := range chosen {
			if int(c) == e {
				w.rows = append(w.rows, expertRow{i / topK, weights[i]})
			}
		}
		if len(w.rows) == 0 {
			continue
		}
		gateUp, down := d.weight(a.GateUp[e]), d.weight(a.Down[e])
		if gateUp.n != 2*width || gateUp.k != hidden || down.n != hidden || down.k != width {
			panic(fmt.Sprintf("cpu: moe_experts: expert %d is %v and %v, want [%d %d] and [%d %d]",
				e, a.GateUp[e], a.Down[e], 2*width, hidden, hidden, width))
		}
		d.runExpert(t, x, d.Float32s(a.Hidden), d.Float32s(a.Scratch), gateUp, down, a.Act)
	}
	addTo(out, w.sums)
	return nil
}

// runExpert adds weight * down(act(gate x) * up x) to the sums of the tokens in work.rows.
func (d *Device) runExpert(t *tier, x, hiddenSpace, scratch []float32, gateUp, down *matrix, act gpu.Activation) {
	w := &d.work
	n, hidden, width := len(w.rows), gateUp.k, down.k
	w.gathered = grow(w.gathered, n*hidden)
	w.products = grow(w.products, n*hidden)
	for i, r := range w.rows {
		copy(w.gathered[i*hidden:][:hidden], x[r.token*hidden:][:hidden])
	}
	d.multiply(t, hiddenSpace[:n*2*width], w.gathered, n, gateUp, nil, false)
	d.activate(t, scratch[:n*width], hiddenSpace[:n*2*width], n, width, act)
	d.multiply(t, w.products, scratch[:n*width], n, down, nil, false)
	for i, r := range w.rows {
		sum := w.sums[r.token*hidden:][:hidden]
		for j, v := range w.products[i*hidden:][:hidden] {
			sum[j] += r.weight * v
		}
	}
}
