package cuda

import (
	"fmt"
	"slices"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

type moeRouteArgs struct {
	logits, experts, weights             uintptr
	tokens, expertCount, topK, normalize int32
}

func (d *Device) moeRoute(a *gpu.MoERoute) error {
	tokens, experts, topK := a.Logits.Dims[0], a.Logits.Dims[1], a.Experts.Dims[1]
	mustShape(gpu.OpMoERoute, "Experts", a.Experts, tokens, topK)
	mustShape(gpu.OpMoERoute, "Weights", a.Weights, tokens, topK)
	if topK > experts {
		panic(fmt.Sprintf("cuda: moe_route: top %d of %d experts", topK, experts))
	}
	args := moeRouteArgs{d.act(a.Logits), d.i32(a.Experts), d.f32(a.Weights), int32(tokens), int32(experts), int32(topK), 0}
	if a.Normalize {
		args.normalize = 1
	}
	const warps = 4
	return run(d, d.functions["moe_route"], grid{ceilDiv(tokens, warps), 1, 1}, 32*warps, 0, args)
}

type moeSortArgs struct {
	experts, starts, order uintptr
	pairs, expertCount     int32
}

type groupedArgs struct {
	out, x, w, starts, order uintptr
	stride                   int64
	n, k, divisor, outF32    int32
}

type moeCombineArgs struct {
	out, products, experts, weights uintptr
	hidden, topK                    int32
}

// expertTable is a copy on the device of the addresses of a layer's experts, GateUp and Down.
type expertTable struct {
	addresses []uint64
	block     block
}

// forget drops what is kept for a buffer that is freed.
func (w *workspace) forget(b *buffer) {
	if t := w.experts[b]; t != nil {
		delete(w.experts, b)
		w.spare = append(w.spare, t.block)
	}
}

func moeNames() (names []string) {
	for _, dtype := range weightTypes {
		names = append(names, moeName(dtype, true), moeName(dtype, false))
	}
	return names
}

func moeName(dtype gpu.DType, aligned bool) string {
	if aligned {
		return fmt.Sprintf("moe_%v", dtype)
	}
	return fmt.Sprintf("moe_%v_odd", dtype)
}

// experts are the checked arguments of a gpu.MoEExperts.
type experts struct {
	gateUp, down                   *matrix // the first expert's
	table                          uintptr // addresses of all experts' GateUp, and then of their Down
	out, x, chosen, weights, gated uintptr
	tokens, topK, pairs, count     int
	hidden, width                  int
}

func (d *Device) expertsOf(a *gpu.MoEExperts) (e experts, err error) {
	e.tokens, e.hidden, e.topK, e.width, e.count = a.X.Dims[0], a.X.Dims[1], a.Experts.Dims[1], a.Scratch.Dims[1], len(a.GateUp)
	e.pairs = e.tokens * e.topK
	mustShape(gpu.OpMoEExperts, "Out", a.Out, e.tokens, e.hidden)
	mustShape(gpu.OpMoEExperts, "Experts", a.Experts, e.tokens, e.topK)
	mustShape(gpu.OpMoEExperts, "Weights", a.Weights, e.tokens, e.topK)
	mustShape(gpu.OpMoEExperts, "Hidden", a.Hidden, e.pairs, 2*e.width)
	mustShape(gpu.OpMoEExperts, "Scratch", a.Scratch, e.pairs, e.width)
	e.out, e.x, e.chosen, e.weights, e.gated = d.act(a.Out), d.act(a.X), d.i32(a.Experts), d.f32(a.Weights), d.act(a.Scratch)
	e.gateUp, e.down, e.table, err = d.expertWeights(a, e.hidden, e.width)
	return e, err
}

// productBytes are those of all pairs' products in float32, in whole classes of the heap.
func (e *experts) productBytes() int64 {
	const floatBytes = 4
	return int64(ceilDiv(e.pairs*e.hidden*floatBytes, classBytesMin) * classBytesMin)
}

// moeGrouped multiplies with float32 arithmetic. Quantized weights are left to moeTensor.
func (d *Device) moeGrouped(a *gpu.MoEExperts) error {
	e, err := d.expertsOf(a)
	if err != nil || e.pairs == 0 {
		return err
	}
	if e.gateUp.quant != nil || e.down.quant != nil {
		return d.moeTensor(a, false)
	}
	const intBytes = 4
	products, err := d.scratch(e.productBytes() + int64(intBytes*(e.pairs+e.count+1)))
	if err != nil {
		return err
	}
	order := products + uintptr(e.productBytes())
	starts, hiddens := order+uintptr(intBytes*e.pairs), d.act(a.Hidden)
	if err := run(d, d.functions["moe_sort"], grid{1, 1, 1}, 256, 0, moeSortArgs{e.chosen, starts, order, int32(e.pairs), int32(e.count)}); err != nil {
		return err
	}
	grouped := func(m *matrix, args groupedArgs) error {
		args.starts, args.order, args.stride, args.n, args.k = starts, order, int64(m.stride), int32(m.n), int32(m.k)
		const rowsPerWarp = 4
		return run(d, d.functions[moeName(m.dtype, alignedRows(args.x, m.k))], grid{ceilDiv(m.n, matMulWarps*rowsPerWarp), e.count, 1}, 32*matMulWarps, 0, args)
	}
	if err := grouped(e.gateUp, groupedArgs{out: hiddens, x: e.x, w: e.table, divisor: int32(e.topK)}); err != nil {
		return err
	}
	if err := d.activate(e.gated, hiddens, e.pairs, e.width, a.Act); err != nil {
		return err
	}
	if err := grouped(e.down, groupedArgs{out: products, x: e.gated, w: e.table + uintptr(8*e.count), divisor: 1, outF32: 1}); err != nil {
		return err
	}
	return d.combine(&e, products)
}

// combine adds every token's weighted products to its output.
func (d *Device) combine(e *experts, products uintptr) error {
	// In whole 16 bytes: the compiler reads the ranks four at a time.
	rankBytes := 4 * ceilDiv(e.topK, 4) * 4
	blocks := grid{e.tokens, 1, 1}
	if e.tokens < combineRowsMin {
		blocks.y = ceilDiv(e.hidden, threadsPerBlock)
	}
	return run(d, d.functions["moe_combine"], blocks, threadsPerBlock, rankBytes,
		moeCombineArgs{e.out, products, e.chosen, e.weights, int32(e.hidden), int32(e.topK)})
}

// combineRowsMin are the tokens from which on a block per token fills a GPU.
const combineRowsMin = 512

// expertWeights checks the experts' matrices and returns one of each kind and the device address
// of their table.
func (d *Device) expertWeights(a *gpu.MoEExperts, hidden, width int) (gateUp, down *matrix, table uintptr, err error) {
	experts := len(a.GateUp)
	if experts == 0 || experts != len(a.Down) {
		panic(fmt.Sprintf("cuda: moe_experts: %d GateUp and %d Down matrices", experts, len(a.Down)))
	}
	w := &d.work
	w.pointers = slices.Grow(w.pointers[:0], 2*experts)[:2*experts]
	for e := range experts {
		g, o := d.weight(a.GateUp[e]), d.weight(a.Down[e])
		if e == 0 {
			gateUp, down = g.weight, o.weight
		}
		if g.weight.n != 2*width || g.weight.k != hidden || o.weight.n != hidden || o.weight.k != width {
			panic(fmt.Sprintf("cuda: moe_experts: expert %d is %v and %v, want [%d %d] and [%d %d]", e, a.GateUp[e], a.Down[e], 2*width, hidden, hidden, width))
		}
		if g.weight.dtype != gateUp.dtype || o.weight.dtype != down.dtype {
			return nil, nil, 0, fmt.Errorf("%w: moe_experts: expert %d is %v and %v, expert 0 %v and %v; the cuda device wants all experts of a layer alike",
				gpu.ErrNotSupported, e, g.weight.dtype, o.weight.dtype, gateUp.dtype, down.dtype)
		}
		w.pointers[e], w.pointers[experts+e] = uint64(g.block.address), uint64(o.block.address)
	}
	key := d.table.Get(a.GateUp[0])
	t := w.experts[key]
	if t == nil || !slices.Equal(t.addresses, w.pointers) {
		if t, err = d.newExpertTable(t); err != nil {
			return nil, nil, 0, err
		}
		if w.experts == nil {
			w.experts = map[*buffer]*expertTable{}
		}
		w.experts[key] = t
	}
	return gateUp, down, t.block.address, nil
}

// newExpertTable sends work.pointers to the device, in place of old if that is not nil.
func (d *Device) newExpertTable(old *expertTable) (*expertTable, error) {
	for _, b := range d.work.spare {
		d.heap.put(b)
	}
	d.work.spare = d.work.spare[:0]
	pointers := d.work.pointers
	b, err := d.heap.get(int64(8 * len(pointers)))
	if err != nil {
		return nil, err
	}
	if err := d.send(b.address, unsafe.Slice((*byte)(unsafe.Pointer(&pointers[0])), 8*len(pointers))); err != nil {
		d.heap.put(b) // old stays
		return nil, err
	}
	if old != nil {
		d.heap.put(old.block)
	}
	return &expertTable{addresses: slices.Clone(pointers), block: b}, nil
}
