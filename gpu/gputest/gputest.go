package gputest

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

// Run runs the suite; open returns a fresh device, which the suite closes.
func Run(t *testing.T, open func(t *testing.T) gpu.Device) {
	gpu.TraceLeaks(true)
	t.Run("handles", func(t *testing.T) { testHandles(t, open) })
	t.Run("errors", func(t *testing.T) { testErrors(t, open) })
	tests := map[gpu.Op]func(*suite){
		gpu.OpFeedTokens: testFeedTokens,
		gpu.OpEmbed:      testEmbed,
		gpu.OpRMSNorm:    testRMSNorm,
		gpu.OpMatMul:     testProducts,
		gpu.OpRoPETable:  testRoPETable,
		gpu.OpRoPE:       testRoPE,
		gpu.OpKVWrite:    testKVWrites,
		gpu.OpKVCopy:     testKVCopies,
		gpu.OpAttention:  testAttention,
		gpu.OpActMul:     testActMul,
		gpu.OpAdd:        testAdd,
		gpu.OpGatherRows: testGatherRows,
		gpu.OpSoftCap:    testSoftCap,
		gpu.OpMoERoute:   testMoERoute,
		gpu.OpMoEExperts: testMoEExperts,
		gpu.OpEditLogits: testEditLogits,
		gpu.OpSample:     testSample,
		gpu.OpTopTokens:  testTopTokens,
		gpu.OpLogSoftmax: testLogSoftmax,
	}
	for _, op := range gpu.Ops {
		t.Run(string(op), func(t *testing.T) {
			d := open(t)
			implementations := d.Implementations(op)
			mustClose(t, d)
			if len(implementations) == 0 {
				t.Fatalf("no implementation of %q", op)
			}
			for _, im := range implementations {
				t.Run(im.Name, func(t *testing.T) {
					s := newSuite(t, open)
					s.variant = im.BatchVariant
					if err := s.d.Select(op, im.Name); err != nil {
						t.Fatal(err)
					}
					tests[op](s)
					s.close()
				})
			}
		})
	}
}

// suite is one device under test, with helpers that keep a test to inputs, launch and expected.
type suite struct {
	*testing.T
	d       gpu.Device
	compute gpu.DType
	kv      gpu.DType // of pools
	variant bool      // rows may depend on their batch
	rng     *rand.Rand
	live    []gpu.Tensor
}

func newSuite(t *testing.T, open func(t *testing.T) gpu.Device) *suite {
	d := open(t)
	compute := d.Info().Compute
	return &suite{T: t, d: d, compute: compute, kv: compute, rng: rand.New(rand.NewPCG(1, 2))}
}

// free releases what the test allocated so far.
func (s *suite) free() { s.freeFrom(0) }

// freeFrom releases all but the test's first n tensors.
func (s *suite) freeFrom(n int) {
	for _, t := range s.live[n:] {
		s.d.Free(t)
	}
	s.live = s.live[:n]
}

func (s *suite) close() {
	s.free()
	mustClose(s.T, s.d)
}

func mustClose(t *testing.T, d gpu.Device) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

func (s *suite) alloc(dtype gpu.DType, dims ...int) gpu.Tensor {
	s.Helper()
	t, err := s.d.Alloc(dtype, dims...)
	if err != nil {
		s.Fatal(err)
	}
	s.live = append(s.live, t)
	return t
}

// put uploads float32 values as dtype.
func (s *suite) put(dtype gpu.DType, values []float32, dims ...int) gpu.Tensor {
	s.Helper()
	t := s.alloc(dtype, dims...)
	if err := s.d.Upload(t, ref.Encode(dtype, values)); err != nil {
		s.Fatal(err)
	}
	return t
}

// act uploads activations: values in the device's compute type.
func (s *suite) act(values []float32, dims ...int) gpu.Tensor {
	s.Helper()
	return s.put(s.compute, values, dims...)
}

func (s *suite) ints(values []int32, dims ...int) gpu.Tensor {
	s.Helper()
	if len(dims) == 0 {
		dims = []int{len(values)}
	}
	t := s.alloc(gpu.I32, dims...)
	b := make([]byte, 0, 4*len(values))
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	if err := s.d.Upload(t, b); err != nil {
		s.Fatal(err)
	}
	return t
}

// poison returns an output tensor full of NaN, so that what an op fails to write shows.
func (s *suite) poison(dtype gpu.DType, dims ...int) gpu.Tensor {
	s.Helper()
	n := 1
	for _, d := range dims {
		n *= d
	}
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(math.NaN())
	}
	return s.put(dtype, values, dims...)
}

func (s *suite) pack(dtype gpu.DType, w []float32, n, k int) gpu.Tensor {
	s.Helper()
	cut := s.rng.IntN(n+1) * k
	t, err := s.d.PackMatrix("weight", dtype, n, k, ref.Encode(dtype, w[:cut]), ref.Encode(dtype, w[cut:]))
	if err != nil {
		s.Fatal(err)
	}
	s.live = append(s.live, t)
	return t
}

func (s *suite) launch(op gpu.Op, args any) {
	s.Helper()
	if err := s.d.Launch(op, args); err != nil {
		s.Fatalf("Launch(%s): %v", op, err)
	}
}

// get downloads t as float32.
func (s *suite) get(t gpu.Tensor) []float32 {
	s.Helper()
	b := make([]byte, t.Bytes())
	if err := s.d.Download(b, t); err != nil {
		s.Fatal(err)
	}
	return ref.Decode(t.DType, b)
}

func (s *suite) getInts(t gpu.Tensor) []int32 {
	s.Helper()
	b := make([]byte, t.Bytes())
	if err := s.d.Download(b, t); err != nil {
		s.Fatal(err)
	}
	out := make([]int32, len(b)/4)
	for i := range out {
		out[i] = int32(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return out
}

// normal returns n values of the given spread, rounded to dtype.
func (s *suite) normal(dtype gpu.DType, n int, spread float64) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(s.rng.NormFloat64() * spread)
	}
	return ref.Decode(dtype, ref.Encode(dtype, out))
}

// below returns n integers in [0, limit).
func (s *suite) below(n, limit int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(s.rng.IntN(limit))
	}
	return out
}

// near fails unless every element of got is within steps units of want's size, where a unit is
// the compute type's epsilon times max(|want|, scale).
func (s *suite) near(what string, got, want []float32, scale, steps float64) {
	s.Helper()
	if len(got) != len(want) {
		s.Fatalf("%s: %d elements, want %d", what, len(got), len(want))
	}
	for i := range want {
		limit := steps * ref.Epsilon(s.compute) * max(math.Abs(float64(want[i])), scale)
		if diff := math.Abs(float64(got[i]) - float64(want[i])); !(diff <= limit) {
			s.Fatalf("%s: element %d of %d is %v, want %v (off by %.3g, allowed %.3g)",
				what, i, len(want), got[i], want[i], diff, limit)
		}
	}
}

// same fails unless got and want are the same bits.
func (s *suite) same(what string, got, want []float32) {
	s.Helper()
	if len(got) != len(want) {
		s.Fatalf("%s: %d elements, want %d", what, len(got), len(want))
	}
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			s.Fatalf("%s: element %d of %d is %v, want exactly %v", what, i, len(want), got[i], want[i])
		}
	}
}

// sameRows is same for rows that were computed with others before; an implementation may say that it
// rounds such differently, see gpu.Implementation.BatchVariant.
func (s *suite) sameRows(what string, got, want []float32, scale float64) {
	s.Helper()
	if s.variant {
		s.near(what, got, want, scale, s.sumSteps(scale))
		return
	}
	s.same(what, got, want)
}

// tolerates is near by one of the references' tolerances.
func (s *suite) tolerates(what string, got, want []float32, t ref.Tolerance) {
	s.Helper()
	s.near(what, got, want, t.Scale, t.Steps)
}

// sumSteps is ref.SumSteps of the compute type.
func (s *suite) sumSteps(size float64) float64 { return ref.SumSteps(s.compute, size) }

func (s *suite) sameInts(what string, got, want []int32) {
	s.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		s.Fatalf("%s: %v, want %v", what, got, want)
	}
}
