package cuda

import (
	"fmt"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

type attentionArgs struct {
	out, q, kPool, vPool, tables, slots, queryStart, positions             uintptr
	sequences, stride, qColumn, heads, kvHeads, blockSize, dim, tableWidth int32
	tableRows, blocks, window, headsPerBlock                               int32
	scale, softCap                                                         float32
}

// Limits and sizes shared with attention.cu.
const (
	attentionTile    = 32 // keys
	attentionRows    = 16 // query rows per block
	attentionThreads = 128
	headDimMax       = 256
	// Up to this width a tile of keys is copied while another is used.
	attentionTwoStages = 4
)

// attentionWidths are the compiled kernels, in units of 32 dimensions.
var attentionWidths = []int{1, 2, 3, 4, 6, 8}

// attentionModules are the kernels of attention.
func attentionModules(compute gpu.DType) (list []module) {
	if compute == gpu.BF16 {
		return flashModules()
	}
	for _, width := range attentionWidths {
		list = append(list, module{file: "attention.cu", define: fmt.Sprintf("WIDTH %d", width), only: gpu.F32, kernels: []string{attentionName(width)}})
	}
	return list
}

// registerAttention registers the kernels of the device's compute type.
func (d *Device) registerAttention() error {
	if d.compute == gpu.BF16 {
		return d.registerFlash()
	}
	register(d, gpu.OpAttention, "tiled", "float32, online softmax over tiles of 32 keys, 16 query rows per block", (*Device).attention)
	return d.prepareAttention()
}

func attentionName(width int) string { return fmt.Sprintf("attention_%d", width) }

// attentionKernel returns the narrowest kernel that has room for a head, and its shared memory.
func attentionKernel(headDim int) (name string, sharedBytes int) {
	for _, w := range attentionWidths {
		if headDim <= 32*w {
			padded, stages := (headDim+3)&^3, 1
			if w <= attentionTwoStages {
				stages = 2
			}
			return attentionName(w), 4 * (attentionRows*padded + stages*attentionTile*(padded+4+32*w))
		}
	}
	return "", 0
}

// allowShared lets a kernel have more shared memory than the 48 KB that need no asking.
func (d *Device) allowShared(name string, bytes int) error {
	const maxDynamicSharedSize = 8 // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
	status := call(d.driver.cuFuncSetAttribute, d.functions[name].handle, maxDynamicSharedSize, uintptr(bytes))
	return d.check("cuFuncSetAttribute of "+name, status)
}

// prepareAttention lets the kernels of wide heads have the shared memory that they need.
func (d *Device) prepareAttention() error {
	for _, w := range attentionWidths {
		name, bytes := attentionKernel(32 * w)
		if bytes > d.properties.sharedBytesBlock {
			continue // attention refuses such heads on this GPU
		}
		if err := d.allowShared(name, bytes); err != nil {
			return err
		}
	}
	return nil
}

// attentionShape checks the shapes of a's tensors against one another.
func attentionShape(a *gpu.Attention) (tokens, sequences, kvHeads, dim int) {
	tokens, sequences = a.Positions.Len(), a.Slots.Len()
	kvHeads, dim = a.KPool.Dims[1], a.KPool.Dims[3]
	mustShape(gpu.OpAttention, "Out", a.Out, tokens, a.Heads*dim)
	mustShape(gpu.OpAttention, "Q", a.Q, tokens, a.Q.Dims[1])
	mustShape(gpu.OpAttention, "VPool", a.VPool, a.KPool.Dims[:]...)
	mustShape(gpu.OpAttention, "BlockTables", a.BlockTables, a.BlockTables.Dims[0], a.BlockTables.Dims[1])
	mustLen(gpu.OpAttention, "QueryStart", a.QueryStart, sequences+1)
	if kvHeads == 0 || a.Heads%kvHeads != 0 || a.QColumn < 0 || a.QColumn+a.Heads*dim > a.Q.Dims[1] {
		panic(fmt.Sprintf("cuda: attention: %d query heads at column %d of %v over %d KV heads of %d", a.Heads, a.QColumn, a.Q, kvHeads, dim))
	}
	return tokens, sequences, kvHeads, dim
}

func (d *Device) attention(a *gpu.Attention) error {
	tokens, sequences, kvHeads, dim := attentionShape(a)
	blocks, blockSize := a.KPool.Dims[0], a.KPool.Dims[2]
	if tokens == 0 || sequences == 0 {
		return nil
	}
	name, sharedBytes := attentionKernel(dim)
	if name == "" || sharedBytes > d.properties.sharedBytesBlock {
		return fmt.Errorf("%w: attention with heads of %d on %s; it takes up to %d, given the shared memory", gpu.ErrNotSupported, dim, d.description, headDimMax)
	}
	group := a.Heads / kvHeads
	headsPerBlock := 1
	for headsPerBlock < group && headsPerBlock < attentionRows {
		headsPerBlock *= 2
	}
	perBlock := attentionRows / headsPerBlock
	args := attentionArgs{out: d.f32(a.Out), q: d.f32(a.Q), kPool: d.f32(a.KPool), vPool: d.f32(a.VPool),
		tables: d.i32(a.BlockTables), slots: d.i32(a.Slots), queryStart: d.i32(a.QueryStart), positions: d.i32(a.Positions),
		sequences: int32(sequences), stride: int32(a.Q.Dims[1]), qColumn: int32(a.QColumn), heads: int32(a.Heads), kvHeads: int32(kvHeads),
		blockSize: int32(blockSize), dim: int32(dim), tableWidth: int32(a.BlockTables.Dims[1]), tableRows: int32(a.BlockTables.Dims[0]),
		blocks: int32(blocks), window: int32(a.Window), headsPerBlock: int32(headsPerBlock), scale: a.Scale, softCap: a.SoftCap}
	if dim%4 == 0 && (args.kPool|args.vPool)%unsafe.Sizeof([4]float32{}) != 0 {
		panic(fmt.Sprintf("cuda: attention: %v or %v does not start at a multiple of 16 bytes", a.KPool, a.VPool))
	}
	// Each sequence's tiles of tokens start at a place of their own; see find_sequence.
	return run(d, d.functions[name], grid{tokens/perBlock + sequences, kvHeads, ceilDiv(group, headsPerBlock)}, attentionThreads, sharedBytes, args)
}
