package cpu

import "unsafe"

// workspace is scratch memory that operations reuse, so that a steady state allocates nothing.
// Tasks live here because a pointer to one inside the device can be handed to the pool without
// a heap allocation per launch.
type workspace struct {
	workers []workerSpace

	queries []queryRun // attention: division of the tokens into runs
	packed  []float32  // matmul: activations in tiles
	tiles   []tileRun  // matmul: division of the tokens into tiles

	narrowed []float32 // matmul: activations in bfloat16, two in the place of one

	quantRuns []quantRun // the same for quantized weights

	gathered, products, sums []float32 // experts: [n, H], [n, H], [T, H]
	rows                     []expertRow

	matmul    matmulTask
	pack      packTask
	narrow    narrowTask
	quant     quantTask
	quantPack quantPackTask
	attention attentionTask
	actMul    actMulTask
	masks     maskTask
	sample    sampleTask
	top       topTask
	norm      normTask
	ropeTable ropeTableTask
	rope      ropeTask
	kvWrite   kvWriteTask
	softCap   softCapTask
	exps      []float32 // log_softmax: a chunk of exponentials
}

// workerSpace is the scratch of one worker. The padding keeps two workers' headers off one
// cache line.
type workerSpace struct {
	sums      []float32 // matmul: a tile's accumulators
	attention attentionSpace
	quant     quantSpace
	draw      drawSpace
	_         [64]byte
}

// grow returns s with length n, reallocating only when its capacity is too small. Contents are
// unspecified. The start is 64-byte aligned.
func grow(s []float32, n int) []float32 {
	if cap(s) >= n {
		return s[:n]
	}
	const line = 64 / 4
	fresh := make([]float32, n+n/4+line)
	skip := 0
	if over := uintptr(unsafe.Pointer(unsafe.SliceData(fresh))) % 64; over != 0 {
		skip = int(64-over) / 4
	}
	return fresh[skip:][:n]
}
