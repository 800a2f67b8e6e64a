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

func (d *Device) moeExperts(a *gpu.MoEExperts) error {
	tokens, hidden, topK := a.X.Dims[0], a.X.Dims[1], a.Experts.Dims[1]
	width, pairs := a.Scratch.Dims[1], tokens*topK
	mustShape(gpu.OpMoEExperts, "Out", a.Out, tokens, hidden)
	mustShape(gpu.OpMoEExperts, "Experts", a.Experts, tokens, topK)
	mustShape(gpu.OpMoEExperts, "Weights", a.Weights, tokens, topK)
	mustShape(gpu.OpMoEExperts, "Hidden", a.Hidden, pairs, 2*width)
	mustShape(gpu.OpMoEExperts, "Scratch", a.Scratch, pairs, width)
	gateUp, down, table, err := d.expertWeights(a, hidden, width)
	if err != nil {
		return err
	}
	experts := len(a.GateUp)
	const intBytes = 4
	productBytes := ceilDiv(pairs*hidden*intBytes, classBytesMin) * classBytesMin
	space, err := d.scratch(int64(productBytes + intBytes*(pairs+experts+1)))
	if err != nil {
		return err
	}
	products, order := space, space+uintptr(productBytes)
	starts := order + uintptr(intBytes*pairs)
	chosen, x, hiddens, gated := d.i32(a.Experts), d.act(a.X), d.act(a.Hidden), d.act(a.Scratch)
	if pairs == 0 {
		return nil
	}
	if err := run(d, d.functions["moe_sort"], grid{1, 1, 1}, 256, 0, moeSortArgs{chosen, starts, order, int32(pairs), int32(experts)}); err != nil {
		return err
	}
	grouped := func(m *matrix, args groupedArgs) error {
		args.starts, args.order, args.stride, args.n, args.k = starts, order, int64(m.stride), int32(m.n), int32(m.k)
		const rowsPerWarp = 4
		return run(d, d.functions[moeName(m.dtype, alignedRows(args.x, m.k))], grid{ceilDiv(m.n, matMulWarps*rowsPerWarp), experts, 1}, 32*matMulWarps, 0, args)
	}
	if err := grouped(gateUp, groupedArgs{out: hiddens, x: x, w: table, divisor: int32(topK)}); err != nil {
		return err
	}
	if err := d.activate(gated, hiddens, pairs, width, a.Act); err != nil {
		return err
	}
	if err := grouped(down, groupedArgs{out: products, x: gated, w: table + uintptr(8*experts), divisor: 1, outF32: 1}); err != nil {
		return err
	}
	// In whole 16 bytes: the compiler reads the ranks four at a time.
	rankBytes := intBytes * ceilDiv(topK, 4) * 4
	return run(d, d.functions["moe_combine"], grid{tokens, 1, 1}, 256, rankBytes,
		moeCombineArgs{d.act(a.Out), products, chosen, d.f32(a.Weights), int32(hidden), int32(topK)})
}

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
	if old != nil {
		d.heap.put(old.block)
	}
	pointers := d.work.pointers
	b, err := d.heap.get(int64(8 * len(pointers)))
	if err != nil {
		return nil, err
	}
	t := &expertTable{addresses: slices.Clone(pointers), block: b}
	return t, d.send(b.address, unsafe.Slice((*byte)(unsafe.Pointer(&pointers[0])), 8*len(pointers)))
}
