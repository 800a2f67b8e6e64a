package cpu

import (
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

const (
	// inlineNs is the estimated work below which sharing costs more than it saves: when the
	// workers are spinning, and when they have to be woken.
	inlineNs, inlineParkedNs = 1500, 6000
	// depthMax bounds k per kernel call: assembly cannot be preempted, and a garbage collection
	// waits for it. At 8 panels of float32 it is 2 MB of weights, about 100 µs.
	depthMax = 4096
	// groupPanels is the number of panels of one work item when there are several tokens: the
	// group stays in the second-level cache while the token tiles pass over it.
	groupPanels = 4
)

// matMul executes gpu.MatMul.
func (d *Device) matMul(t *tier, a *gpu.MatMul) error {
	if a.Norm != nil {
		if err := d.Launch(gpu.OpRMSNorm, a.Norm); err != nil {
			return err
		}
	}
	m := d.weight(a.W)
	tokens := a.X.Dims[0]
	mustShape(gpu.OpMatMul, "X", a.X, tokens, m.k)
	mustShape(gpu.OpMatMul, "Out", a.Out, tokens, m.n)
	var bias []float32
	if a.Bias.Valid() {
		mustLen(gpu.OpMatMul, "Bias", a.Bias, m.n)
		bias = d.Float32s(a.Bias)
	}
	d.multiply(t, d.Float32s(a.Out), d.Float32s(a.X), tokens, m, bias, a.Accumulate)
	if a.Gate != nil {
		return d.Launch(gpu.OpActMul, a.Gate)
	}
	return nil
}

// multiply computes out[tokens, n] = x[tokens, k] * m^T, plus bias where it is not nil and
// out's old value if accumulate.
func (d *Device) multiply(t *tier, out, x []float32, tokens int, m *matrix, bias []float32, accumulate bool) {
	if tokens == 0 {
		return
	}
	if m.dtype.Quantized() {
		d.multiplyQuantized(t, out, x, tokens, m, bias, accumulate)
		return
	}
	kernels := t.tiles[m.dtype]
	w := &d.work
	if m.pairs {
		kernels, x = t.pairs, d.narrowActivations(t, x)
	}
	group := groupPanels
	if tokens == 1 {
		group = kernels[0].panels
		w.tiles = append(w.tiles[:0], tileRun{tile: &kernels[0], tokens: 1})
	} else {
		w.tiles = planTiles(w.tiles[:0], kernels, tokens)
		x = d.packActivations(t, x, tokens, m.steps())
	}
	group, groups, parts := divideWork(m.panels(), group, len(w.tiles), d.pool.threads)
	w.matmul = matmulTask{out: out, x: x, m: m, bias: bias, accumulate: accumulate,
		addTo: t.addTo, tiles: w.tiles, group: group, groups: groups, parts: parts, workers: w.workers}
	macs := float64(tokens) * float64(m.n) * float64(m.steps())
	ns := max(macs/t.macsPerNs, float64(len(m.data))/t.bytesPerNs)
	d.share(&w.matmul, groups*parts, ns)
	w.matmul = matmulTask{}
}

// divideWork gives every thread something to do: with few panels for the threads, groups get
// smaller, and then the tiles of tokens are divided as well.
func divideWork(panels, group, tiles, threads int) (groupPanels, groups, parts int) {
	for group > 1 && (panels < group*threads || tiles > 1 && lopsided(panels, group, threads)) {
		group /= 2
	}
	groups, parts = (panels+group-1)/group, 1
	for groups*parts < threads && 2*parts <= tiles {
		parts *= 2
	}
	return group, groups, parts
}

// lopsided reports whether the thread with the most groups has over a tenth more than its fair
// share. Several tiles find a smaller group in cache, so that it costs little.
func lopsided(panels, group, threads int) bool {
	groups := (panels + group - 1) / group
	most := (groups + threads - 1) / threads * group
	return 10*most*threads > 11*panels
}

// share runs t on the pool if its estimated cost is worth it, in chunks small enough that the
// workers finish together.
func (d *Device) share(t task, items int, ns float64) {
	if ns < inlineNs || (ns < inlineParkedNs && !d.pool.awake()) {
		if items > 0 {
			t.run(0, 0, items)
		}
		return
	}
	const chunksPerThread = 8
	d.pool.do(t, items, max(1, items/(d.pool.threads*chunksPerThread)))
}

// tileRun is one tile of tokens: its kernel, first token, and how many of the kernel's tokens
// are real. at is where its activations start in the packed buffer.
type tileRun struct {
	tile          *tile
	start, tokens int
	at            int
}

// planTiles covers the tokens with tiles. It pads by at most one token, because a smaller tile
// for a remainder of one costs as much as the padding, and it prefers two equal tiles to a large
// one and a small one.
func planTiles(plan []tileRun, kernels []tile, tokens int) []tileRun {
	for start, at := 0, 0; start < tokens; {
		left := tokens - start
		pick := &kernels[0]
		for i := range kernels {
			if kernels[i].tokens > left+1 {
				break
			}
			if i == 0 || kernels[i].tokens >= left || 2*kernels[i-1].tokens != left {
				pick = &kernels[i]
			}
		}
		plan = append(plan, tileRun{pick, start, min(left, pick.tokens), at})
		start += pick.tokens
		at += pick.tokens
	}
	return plan
}

// narrowActivations rounds x to bfloat16, two of which lie in the place of one float32.
func (d *Device) narrowActivations(t *tier, x []float32) []float32 {
	w := &d.work
	w.narrowed = grow(w.narrowed, len(x)/2)
	w.narrow = narrowTask{dst: unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(w.narrowed))), len(x)), src: x, narrow: t.narrow}
	const chunk = narrowTaskLen
	d.share(&w.narrow, (len(x)+chunk-1)/chunk, float64(len(x))/t.bytesPerNs)
	w.narrow = narrowTask{}
	return w.narrowed
}

// narrowTaskLen is the elements of an item of a narrowTask.
const narrowTaskLen = 1 << 12

type narrowTask struct {
	dst    []uint16
	src    []float32
	narrow func(dst []uint16, src []float32)
}

func (p *narrowTask) run(_, from, to int) {
	at, end := from*narrowTaskLen, min(to*narrowTaskLen, len(p.src))
	p.narrow(p.dst[at:end], p.src[at:end])
}

// packActivations copies x[tokens, k] into tiles of [k][tile tokens], padding with zeros.
func (d *Device) packActivations(t *tier, x []float32, tokens, k int) []float32 {
	w := &d.work
	last := w.tiles[len(w.tiles)-1]
	w.packed = grow(w.packed, (last.at+last.tile.tokens)*k)
	w.pack = packTask{dst: w.packed, x: x, k: k, tiles: w.tiles, interleave4: t.interleave4}
	d.share(&w.pack, len(w.tiles), float64(tokens*k)/t.bytesPerNs)
	w.pack = packTask{}
	return w.packed
}

type packTask struct {
	dst, x []float32
	k      int
	tiles  []tileRun

	interleave4 func(dst []float32, width int, a, b, c, d []float32)
}

func (p *packTask) run(_, from, to int) {
	for _, r := range p.tiles[from:to] {
		width := r.tile.tokens
		dst := p.dst[r.at*p.k:][:width*p.k]
		for t := 0; t < width; {
			switch left := r.tokens - t; {
			case left >= 4:
				p.interleave4(dst[t:], width, p.row(r, t), p.row(r, t+1), p.row(r, t+2), p.row(r, t+3))
				t += 4
			case left >= 1:
				for i, v := range p.row(r, t) {
					dst[i*width+t] = v
				}
				t++
			default: // padding
				for i := t; i < len(dst); i += width {
					dst[i] = 0
				}
				t++
			}
		}
	}
}

func (p *packTask) row(r tileRun, t int) []float32 { return p.x[(r.start+t)*p.k:][:p.k] }

// interleave4 stores element i of the rows at dst[i*width:]. Four at a time fill a cache line
// in few passes.
func interleave4(dst []float32, width int, a, b, c, d []float32) {
	b, c, d = b[:len(a)], c[:len(a)], d[:len(a)]
	at := 0
	for i, v := range a {
		to := dst[at : at+4 : at+4]
		to[0], to[1], to[2], to[3] = v, b[i], c[i], d[i]
		at += width
	}
}

// matmulTask has one item per group of panels and part of the tiles.
type matmulTask struct {
	out, x     []float32
	m          *matrix
	bias       []float32
	accumulate bool
	addTo      func(dst, src []float32)
	tiles      []tileRun
	group      int // panels in a group
	groups     int
	parts      int // the tiles are divided too where there are fewer groups than threads
	workers    []workerSpace
}

func (p *matmulTask) run(worker, from, to int) {
	space := &p.workers[worker]
	for item := from; item < to; item++ {
		g, part := item%p.groups, item/p.groups
		end := min((g+1)*p.group, p.m.panels())
		tiles := p.tiles[len(p.tiles)*part/p.parts : len(p.tiles)*(part+1)/p.parts]
		for i := range tiles {
			r := &tiles[i]
			for panel := g * p.group; panel < end; {
				count := 1
				if panel+r.tile.panels <= end {
					count = r.tile.panels
				}
				p.multiply(space, r, panel, count)
				panel += count
			}
		}
	}
}

// multiply runs one tile against count panels.
func (p *matmulTask) multiply(space *workerSpace, r *tileRun, panel, count int) {
	kernel := r.tile.one
	if count == r.tile.panels {
		kernel = r.tile.many
	}
	first, cols := panel*panelRows, count*panelRows
	out := p.out[r.start*p.m.n+first:]
	if valid := min(cols, p.m.n-first); valid < cols || r.tokens < r.tile.tokens || p.m.steps() > depthMax {
		p.multiplyAside(space, kernel, r, panel, count, out, valid)
	} else {
		mode := panelSet
		if p.accumulate {
			mode = panelAdd
		}
		stride := p.m.panelBytes()
		steps := p.m.steps()
		kernel(&out[0], uintptr(4*p.m.n), &p.m.data[panel*stride], uintptr(stride), &p.x[r.at*steps], steps, mode)
	}
	if p.bias != nil {
		for t := range r.tokens {
			p.addTo(out[t*p.m.n:][:min(cols, p.m.n-first)], p.bias[first:])
		}
	}
}

// multiplyAside is for tiles that are larger than what they have to compute, and for sums that
// take several calls: it makes them in scratch and stores the valid columns of the real tokens.
func (p *matmulTask) multiplyAside(space *workerSpace, kernel panelKernel, r *tileRun, panel, count int, out []float32, valid int) {
	k, width, cols := p.m.steps(), r.tile.tokens, count*panelRows
	stride, size := p.m.panelBytes(), p.m.stepBytes()
	space.sums = grow(space.sums, width*cols)
	weights := p.m.data[panel*stride:][:count*stride]
	x := p.x[r.at*k:][:width*k]
	for at, mode := 0, panelSet; at < k; at, mode = at+depthMax, panelResume {
		kernel(&space.sums[0], uintptr(4*cols), &weights[at*panelRows*size], uintptr(stride), &x[at*width], min(depthMax, k-at), mode)
	}
	for t := range r.tokens {
		to, sums := out[t*p.m.n:][:valid], space.sums[t*cols:][:valid]
		if p.accumulate {
			p.addTo(to, sums)
		} else {
			copy(to, sums)
		}
	}
}
