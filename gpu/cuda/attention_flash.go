package cuda

import (
	"fmt"
	"math"

	"github.com/troupe-engine/troupe/gpu"
)

// flashArgs is FlashArgs of attention_mma.cuh.
type flashArgs struct {
	out, q, kPool, vPool, tables, slots, queryStart, positions, partial, plan         uintptr
	sequences, tokens, stride, qColumn, heads, kvHeads, blockSize, dim                int32
	tableWidth, tableRows, blocks, window, headsPerTile, tokensPerTile, few, capacity int32
	scale, softCap                                                                    float32
}

// flashWidths are the head dimensions of the compiled kernels; others are padded to the next.
// wgmmaWidths are those of flash_wgmma, which needs Hopper.
var (
	flashWidths = []int{32, 64, 96, 128, 256}
	wgmmaWidths = []int{64, 128}
)

// Compute capabilities: wgmma is of that one alone, clusters are from it on.
const (
	wgmmaMajor   = 9
	clusterMajor = 9
)

// Sizes shared with attention_mma.cuh and the kernels.
const (
	flashThreads      = 128
	wgmmaGroups       = 3  // of flash_wgmma, that multiply
	flashCombineHeads = 4  // of a block of flash_combine
	flashDecodeRows   = 8  // query rows of a block of flash_decode
	flashPrefillRows  = 64 // and of flash_prefill
	wgmmaGroupRows    = 64
	wgmmaRingBytes    = 80 << 10 // of tiles
	flashTilesOfPart  = 4
	flashStreamWarps  = 8 // of a block of flash_stream
	flashStages       = 3 // places of half a tile's keys or values in the ring of a warp of flash_stream
	// Where there are warps enough, sequences of up to so many parts are not divided: longer ones would take much longer
	// than others.
	flashWholePartsMax = 4
	flashPadding       = 8 // elements at the end of a row in shared memory
	// Sequences with at most so many tokens in a step go through flash_decode, which reads their
	// keys once for every 8 query rows but divides them among blocks.
	flashFewTokens = 16
	// Partial results take at most so much; units that find no room are not divided.
	flashPartialBytesMax  = 128 << 20
	flashBlocksPerSMMax   = 8
	flashExchangePerWarp  = 32 + 256 // bytes of Exchange beside the weights
	flashClusterBlocksMax = 8
	// What the driver takes of each block's shared memory.
	reservedSharedBytes = 1024
)

// flashTile returns the keys of a tile.
func flashTile(width int) int {
	if width <= 128 {
		return 64
	}
	return 32
}

func flashName(kind string, width int) string { return fmt.Sprintf("flash_%s_%d", kind, width) }

// flashModules are the bfloat16 kernels of attention.
func flashModules() (list []module) {
	for _, width := range flashWidths {
		define := fmt.Sprintf("DP %d", width)
		list = append(list,
			module{file: "attention_decode.cu", include: "attention_mma.cuh attention_units.cuh attention_part.cuh", define: define, only: gpu.BF16, overlap: true,
				kernels: []string{flashName("decode", width), flashName("combine", width)}},
			module{file: "attention_cluster.cu", include: "attention_mma.cuh attention_units.cuh attention_part.cuh rope.cuh", define: define, only: gpu.BF16, overlap: true,
				kernels: []string{flashName("cluster", width)}},
			module{file: "attention_stream.cu", include: "attention_mma.cuh attention_units.cuh", define: define, only: gpu.BF16, overlap: true,
				kernels: []string{flashName("stream", width)}},
			module{file: "attention_prefill.cu", include: "attention_mma.cuh attention_rows.cuh", define: define, only: gpu.BF16, overlap: true,
				kernels: []string{flashName("prefill", width)}})
	}
	for _, width := range wgmmaWidths {
		list = append(list, module{file: "attention_wgmma.cu", include: "attention_mma.cuh attention_rows.cuh wgmma.cuh", define: fmt.Sprintf("DP %d", width), only: gpu.BF16,
			overlap: true, kernels: []string{flashName("wgmma", width)}})
	}
	return list
}

// registerFlash registers attention in bfloat16.
func (d *Device) registerFlash() error {
	hopper := d.properties.major == wgmmaMajor
	register := func(name, doc string, wgmma bool) { // not by Register: it sees to a.Write itself
		d.ops.Register(gpu.OpAttention, name, doc, func(d *Device, args any) error { return d.flash(args.(*gpu.Attention), wgmma) })
	}
	if hopper {
		register("flash", "tensor cores, contexts in parts of fixed length, the same bits in any batch and chunk; wgmma for many queries", true)
	}
	register("flash-mma", "as flash with mma.sync alone", false)
	var names []string
	for _, width := range flashWidths {
		names = append(names, flashName("decode", width), flashName("stream", width), flashName("prefill", width))
		if d.properties.major >= clusterMajor {
			names = append(names, flashName("cluster", width))
		}
	}
	for _, width := range wgmmaWidths {
		if hopper {
			names = append(names, flashName("wgmma", width))
		}
	}
	for _, name := range names {
		if err := d.allowShared(name, d.properties.sharedBytesBlock); err != nil {
			return err
		}
	}
	return nil
}

// widthFor returns the first of widths that has room for a head, or 0.
func widthFor(widths []int, headDim int) int {
	for _, w := range widths {
		if headDim <= w {
			return w
		}
	}
	return 0
}

// flash is attention on tensor cores: bfloat16 queries, keys and values, float32 sums. A query's
// result does not depend on the batch, the chunk or the kernel; see attention_mma.cuh.
func (d *Device) flash(a *gpu.Attention, wgmma bool) error {
	tokens, sequences, kvHeads, dim := attentionShape(a)
	if tokens == 0 || sequences == 0 {
		return d.flashWrite(a)
	}
	width := widthFor(flashWidths, dim)
	rows := int64(a.KPool.Dims[0]) * int64(kvHeads) * int64(a.KPool.Dims[2])
	if width == 0 || !(a.Scale > 0) || rows > math.MaxInt32 {
		return fmt.Errorf("%w: attention with heads of %d, scale %v and %v keys; it takes heads of up to %d, a scale above 0 and %d keys",
			gpu.ErrNotSupported, dim, a.Scale, rows, flashWidths[len(flashWidths)-1], math.MaxInt32)
	}
	args := flashArgs{out: d.act(a.Out), q: d.act(a.Q), kPool: d.act(a.KPool), vPool: d.act(a.VPool),
		tables: d.i32(a.BlockTables), slots: d.i32(a.Slots), queryStart: d.i32(a.QueryStart), positions: d.i32(a.Positions),
		sequences: int32(sequences), tokens: int32(tokens), stride: int32(a.Q.Dims[1]), qColumn: int32(a.QColumn), heads: int32(a.Heads),
		kvHeads: int32(kvHeads), blockSize: int32(a.KPool.Dims[2]), dim: int32(dim), tableWidth: int32(a.BlockTables.Dims[1]),
		tableRows: int32(a.BlockTables.Dims[0]), blocks: int32(a.KPool.Dims[0]), window: int32(a.Window), few: flashFewTokens,
		scale: a.Scale, softCap: a.SoftCap}
	const aligned = 16
	if dim%8 == 0 && (args.kPool|args.vPool)%aligned != 0 {
		panic(fmt.Sprintf("cuda: attention: %v or %v does not start at a multiple of %d bytes", a.KPool, a.VPool, aligned))
	}
	if done, err := d.flashCluster(a, args, width); done || err != nil {
		return err
	}
	if err := d.flashWrite(a); err != nil {
		return err
	}
	oneEach := tokens == sequences || a.QueryMax == 1
	if oneEach {
		args.few = math.MaxInt32 // also where one has two and another none
	}
	wide := widthFor(wgmmaWidths, dim)
	wgmma = wgmma && wide > 0 && dim%8 == 0
	few := oneEach || a.QueryMax > 0 && a.QueryMax <= flashFewTokens
	if !wgmma && flashPrefillShared(width) > d.properties.sharedBytesBlock {
		args.few, few = math.MaxInt32, true // slower, with the same bits
	}
	many := sequences == 1 && tokens > flashFewTokens && !few
	if !many {
		if err := d.flashDecode(a, args, width, oneEach); err != nil {
			return err
		}
	}
	switch {
	case few:
		return nil
	case wgmma:
		return d.flashWGMMA(args, wide)
	}
	return d.flashPrefill(args, width)
}

// contextMax bounds the positions of a's queries: none is as large.
func (f *flashArgs) contextMax(a *gpu.Attention) int {
	context := int(f.tableWidth * f.blockSize)
	if a.ContextMax > 0 {
		context = min(context, a.ContextMax)
	}
	return context
}

// flashWrite writes keys and values, if there are any to write, in a launch of their own.
func (d *Device) flashWrite(a *gpu.Attention) error {
	if a.Write == nil {
		return nil
	}
	return d.launch(gpu.OpKVWrite, a.Write)
}

// flashClusterArgs is FlashClusterArgs of attention_cluster.cu.
type flashClusterArgs struct {
	flash          flashArgs
	write          ropeKVArgs
	blocks, writes int32
}

// flashCluster serves sequences of one token each, if they are so few that all parts of all are at work at once, and
// takes in the writing of keys and values where it can. It reports whether it did.
func (d *Device) flashCluster(a *gpu.Attention, args flashArgs, width int) (bool, error) {
	tile := flashTile(width)
	if d.properties.major < clusterMajor || a.QueryMax != 1 || args.dim%padElements != 0 {
		return false, nil
	}
	part := flashTilesOfPart * tile
	parts := ceilDiv(args.contextMax(a), part)
	if a.Window > 0 {
		parts = min(parts, ceilDiv(a.Window-1, part)+1)
	}
	blocks := 1
	for blocks < parts {
		blocks *= 2
	}
	group := int(args.heads / args.kvHeads)
	headsPerTile := min(group, flashDecodeRows)
	tiles := int(args.sequences*args.kvHeads) * ceilDiv(group, headsPerTile)
	half, slices := tile*(width+flashPadding)*2, ceilDiv(width/16, flashClusterBlocksMax)*flashClusterBlocksMax
	shared := flashTilesOfPart*(2*half+tile*16+flashExchangePerWarp) + 16 + 512*slices + 64*flashClusterBlocksMax
	// Clusters want neighbouring multiprocessors, which the kernel before still has: no more than half of what fits come at once.
	if blocks > flashClusterBlocksMax || 2*tiles*blocks > d.properties.multiprocessors*d.blocksPer(shared) {
		return false, nil
	}
	args.headsPerTile, args.tokensPerTile = int32(headsPerTile), 1
	all := flashClusterArgs{flash: args, blocks: int32(blocks)}
	if d.clusterWrites(a, width) {
		all.write, all.writes = d.ropeKVArgs(a.Write), 1
	} else if err := d.flashWrite(a); err != nil {
		return false, err
	}
	return true, runClusters(d, d.functions[flashName("cluster", width)], grid{tiles * blocks, 1, 1}, blocks, flashThreads, shared, all)
}

// clusterWrites reports whether flash_cluster can write a's keys and values: they follow the queries in one row, whole heads are rotated, and the user
// did not choose another kernel for it.
func (d *Device) clusterWrites(a *gpu.Attention, width int) bool {
	w := a.Write
	if w == nil || w.RoPE == nil || width != a.KPool.Dims[3] || !d.ownFirst(gpu.OpRoPE) || !d.ownFirst(gpu.OpKVWrite) {
		return false
	}
	both := d.ropeKVArgs(w)
	return both.fits() && both.rope.x == d.act(a.Q) && w.RoPE.Column == a.QColumn && w.RoPE.Heads == a.Heads+a.KPool.Dims[1] &&
		both.kv.kPool == d.act(a.KPool) && both.kv.vPool == d.act(a.VPool)
}

// flashDecode serves the sequences with few tokens.
func (d *Device) flashDecode(a *gpu.Attention, args flashArgs, width int, oneEach bool) error {
	group, tile := int(args.heads/args.kvHeads), flashTile(width)
	headsPerTile := min(group, flashDecodeRows)
	tokensPerTile := flashDecodeRows / headsPerTile
	if oneEach {
		tokensPerTile = 1
	}
	groups := ceilDiv(group, headsPerTile)
	args.headsPerTile, args.tokensPerTile = int32(headsPerTile), int32(tokensPerTile)

	// At most; the kernels read how many there are.
	tiles, parts := (int(args.tokens)/tokensPerTile+int(args.sequences))*groups*int(args.kvHeads), ceilDiv(args.contextMax(a), flashTilesOfPart*tile)
	if oneEach {
		tiles = int(args.sequences) * groups * int(args.kvHeads)
	}
	half, numbers := tile*(width+flashPadding)*2, 4*(int(args.sequences)+1)

	streamShared := flashStreamWarps*(flashStages*half/2+4*tile) + 4 + numbers
	streamBlocks := d.properties.multiprocessors * d.blocksPer(streamShared)
	streamWarps := streamBlocks * flashStreamWarps
	stream := streamBlocks > 0 && tiles*parts >= streamWarps
	whole := stream && parts <= flashWholePartsMax && 4*tiles >= 3*streamWarps // not divided: nothing is to merge

	// As many partial results as the step can have, or as there is room for.
	rowBytes := headsPerTile * tokensPerTile * (width + 2) * 4
	capacity := min(tiles*parts, flashPartialBytesMax/rowBytes)
	if whole {
		capacity = 0
	}
	args.capacity = int32(capacity)
	planBytes := (int(args.sequences)*4 + 255) &^ 255
	work, err := d.scratch(int64(planBytes + capacity*rowBytes))
	if err != nil {
		return err
	}
	args.plan, args.partial = work, work+uintptr(planBytes)

	if stream {
		blocks := min(ceilDiv(tiles*parts, flashStreamWarps), streamBlocks)
		err = run(d, d.functions[flashName("stream", width)], grid{blocks, 1, 1}, 32*flashStreamWarps, streamShared, args)
	} else {
		shared := flashTilesOfPart*(half+tile*16+flashExchangePerWarp) + 8 + numbers
		perSM := d.blocksPer(shared)
		if perSM == 0 {
			return fmt.Errorf("%w: attention over %d sequences in a step on %s", gpu.ErrNotSupported, args.sequences, d.description)
		}
		blocks := min(tiles*parts, d.properties.multiprocessors*perSM)
		err = run(d, d.functions[flashName("decode", width)], grid{blocks, 1, 1}, flashThreads, shared, args)
	}
	if err != nil || capacity == 0 {
		return err
	}
	return run(d, d.functions[flashName("combine", width)], grid{int(args.tokens), ceilDiv(int(args.heads), flashCombineHeads), 1}, 32*flashCombineHeads, 0, args)
}

// blocksPer returns how many blocks with so much shared memory a multiprocessor holds.
func (d *Device) blocksPer(shared int) int {
	if shared > d.properties.sharedBytesBlock {
		return 0
	}
	return min(flashBlocksPerSMMax, (d.properties.sharedBytesBlock+reservedSharedBytes)/(shared+reservedSharedBytes))
}

// flashPrefillShared is the shared memory of a block of flash_prefill.
func flashPrefillShared(width int) int {
	tile := flashTile(width)
	return 4*tile*(width+flashPadding)*2 + 2*tile*4 + flashPrefillRows*width*4
}

// flashPrefill serves the sequences with many tokens.
func (d *Device) flashPrefill(args flashArgs, width int) error {
	blocks := args.tiles(flashPrefillRows)
	return run(d, d.functions[flashName("prefill", width)], blocks, flashThreads, flashPrefillShared(width), args)
}

// flashWGMMA does the same with the products of warp groups. As many groups have rows as leave each multiprocessor something to do.
func (d *Device) flashWGMMA(args flashArgs, width int) error {
	const alignment, barriersPerSlot, warpsOfGroup = 1024, 2, 4
	tile := 2 * flashTile(width) * width // bytes of a tile's keys, of its values, of a group's queries
	sums := 4 * wgmmaGroupRows * width
	shared := alignment + wgmmaGroups*(tile+sums) + wgmmaRingBytes + barriersPerSlot*8*(wgmmaRingBytes/tile) + 2*flashTile(width)*4
	var blocks grid
	for groups := 1; groups <= wgmmaGroups; groups++ {
		if blocks = args.tiles(groups * wgmmaGroupRows); blocks.x*blocks.y*blocks.z <= d.properties.multiprocessors {
			break
		}
	}
	return run(d, d.functions[flashName("wgmma", width)], blocks, 32*warpsOfGroup*(wgmmaGroups+1), shared, args)
}

// tiles makes tiles of so many query rows and returns the grid of blocks that has one for each.
func (f *flashArgs) tiles(rows int) grid {
	group := int(f.heads / f.kvHeads)
	heads := min(group, rows)
	tokens := rows / heads
	f.headsPerTile, f.tokensPerTile = int32(heads), int32(tokens)
	// Each sequence's tiles of tokens start at a place of their own; see find_sequence.
	return grid{int(f.kvHeads), int(f.tokens)/tokens + int(f.sequences), ceilDiv(group, heads)}
}
