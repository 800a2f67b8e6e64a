package cpu

import (
	"encoding/binary"
	"math"
	"unsafe"
)

// The portable twins of the attention kernels; tier and rowKernel say what they compute.

func transposeF32(dst *float32, src, _ *byte, dim int) {
	to, from := unsafe.Slice(dst, pageKeys*dim), unsafe.Slice((*float32)(unsafe.Pointer(src)), pageKeys*dim)
	for key := range pageKeys {
		for i, v := range from[key*dim:][:dim] {
			to[i*pageKeys+key] = v
		}
	}
}

func transposeBF16(dst *float32, src, _ *byte, dim int) {
	to, from := unsafe.Slice(dst, pageKeys*dim), unsafe.Slice((*uint16)(unsafe.Pointer(src)), pageKeys*dim)
	for key := range pageKeys {
		for i, v := range from[key*dim:][:dim] {
			to[i*pageKeys+key] = bf16(v)
		}
	}
}

func transposeI8(dst *float32, src, _ *byte, dim int) {
	to := unsafe.Slice(dst, pageKeys*dim)
	for key := range pageKeys {
		codes, scale := rowI8(src, key, dim)
		for i, q := range codes {
			to[i*pageKeys+key] = float32(q) * scale
		}
	}
}

// rowI8 returns a row of a page.
func rowI8(page *byte, i, dim int) (codes []int8, scale float32) {
	row := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(page), i*(dim+scaleBytes))), dim+scaleBytes)
	return cast[int8](row[:dim]), math.Float32frombits(binary.LittleEndian.Uint32(row[dim:]))
}

// codesOf is tier.codes.
func codesOf(codes []byte, x []float32) (largest float32) {
	most := uint32(0)
	for _, v := range x {
		most = max(most, math.Float32bits(v)&0x7fffffff) // absolute values order like their bits, and NaN is above all
	}
	largest = math.Float32frombits(most)
	factor := 127 / largest
	for i, v := range x {
		codes[i] = byte(int8(math.RoundToEven(float64(v * factor))))
	}
	return largest
}

// scoresRow takes one row, four keys at a time.
func scoresRow(scores, q, keys *float32, pages, dim int, scale float32) {
	to, query, from := unsafe.Slice(scores, pages*pageKeys), unsafe.Slice(q, dim), unsafe.Slice(keys, pages*pageKeys*dim)
	for at := 0; at < len(to); at += 4 {
		column := from[at/pageKeys*pageKeys*dim+at%pageKeys:]
		var s0, s1, s2, s3 float32
		for i, v := range query {
			k := (*[4]float32)(column[i*pageKeys:])
			s0 += v * k[0]
			s1 += v * k[1]
			s2 += v * k[2]
			s3 += v * k[3]
		}
		to[at], to[at+1], to[at+2], to[at+3] = s0*scale, s1*scale, s2*scale, s3*scale
	}
}

func softmaxRows(scores *float32, n int, sums, largestSoFar, correction *float32, rows int) {
	most, change := unsafe.Slice(largestSoFar, rows), unsafe.Slice(correction, rows)
	totals, all := unsafe.Slice(sums, rows*pageKeys), unsafe.Slice(scores, (rows-1)*tileKeys+n)
	for r := range rows {
		row, total := all[r*tileKeys:][:n], totals[r*pageKeys:][:pageKeys]
		best := most[r]
		for _, v := range row {
			best = max(best, v)
		}
		change[r] = exp32(most[r] - best)
		most[r] = best
		for i := range total {
			total[i] *= change[r]
		}
		for i, v := range row {
			row[i] = exp32(v - best)
			total[i%pageKeys] += row[i]
		}
	}
}

func finishRows(out, mixed, sums *float32, dim, rows int) {
	to, from := unsafe.Slice(out, rows*dim), unsafe.Slice(mixed, rows*dim)
	totals := unsafe.Slice((*[16]float32)(unsafe.Pointer(sums)), rows)
	for i, v := range from {
		if i%dim == 0 {
			sumLanes(&totals[i/dim])
		}
		to[i] = v * (1 / totals[i/dim][0])
	}
}

func mixRowF32(sums, correction, weights *float32, pages **byte, first, n, dim int) {
	mixRow(sums, *correction, weights, pages, first, n, dim, func(v float32) float32 { return v })
}

func mixRowBF16(sums, correction, weights *float32, pages **byte, first, n, dim int) {
	mixRow(sums, *correction, weights, pages, first, n, dim, bf16)
}

func mixRowI8(sums, correction, weights *float32, pages **byte, first, n, dim int) {
	sum, weight := unsafe.Slice(sums, dim), unsafe.Slice(weights, first+n)
	page := unsafe.Slice(pages, (first+n+pageKeys-1)/pageKeys)
	for i := range sum {
		sum[i] *= *correction
	}
	for i := first; i < first+n; i++ {
		codes, scale := rowI8(page[i/pageKeys], i%pageKeys, dim)
		for j, q := range codes {
			sum[j] += weight[i] * (float32(q) * scale)
		}
	}
}

func mixRow[E float32 | uint16](sums *float32, correction float32, weights *float32, pages **byte, first, n, dim int, widen func(E) float32) {
	sum, weight := unsafe.Slice(sums, dim), unsafe.Slice(weights, first+n)
	page := unsafe.Slice(pages, (first+n+pageKeys-1)/pageKeys)
	for i := range sum {
		sum[i] *= correction
	}
	for i := first; i < first+n; i++ {
		value := unsafe.Slice((*E)(unsafe.Pointer(page[i/pageKeys])), pageKeys*dim)[i%pageKeys*dim:][:dim]
		for j, v := range value {
			sum[j] += weight[i] * widen(v)
		}
	}
}
