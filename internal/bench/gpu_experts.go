package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"

	"github.com/troupe-engine/troupe/gpu"
)

// GPUExperts is a layer of experts: gates, up and down projections of those that its tokens chose, at random.
type GPUExperts struct {
	Shape  string  `json:"shape"`
	Name   string  `json:"implementation"`
	Tokens int     `json:"tokens"`
	Active float64 `json:"active"` // experts that some token chose, on average
	Us     float64 `json:"us"`
	FloorU float64 `json:"floor_us"`
	Share  float64 `json:"share_of_floor"`
}

// expertShape is a layer of a well-known model.
type expertShape struct {
	name                         string
	hidden, width, experts, topK int
}

var expertShapes = []expertShape{
	{"qwen3-30b-a3b", 2048, 768, 128, 8},
	{"mixtral-8x7b", 4096, 14336, 8, 2},
}

// routings of a measurement: no two launches in a row choose the same experts, whose weights a cache might hold.
const expertRoutings = 8

// expertLayer is a layer on the device.
type expertLayer struct {
	*gpuBench
	expertShape
	gateUp, down []gpu.Tensor
	live         []gpu.Tensor
	err          error // the first
}

// expertLayers measures a layer of each shape, if the device takes experts of the weights' type.
func (b *gpuBench) expertLayers(ctx context.Context) error {
	if w := b.cfg.Weights; w.Quantized() && !slices.Contains(b.dev.Info().Experts, w) {
		b.note("experts of %v are not measured: the device does not take them", w)
		return nil
	}
	for _, shape := range expertShapes {
		if err := b.expertLayer(ctx, shape); err != nil {
			return err
		}
		b.note("experts of %s measured", shape.name)
	}
	return nil
}

func (b *gpuBench) expertLayer(ctx context.Context, shape expertShape) error {
	l := &expertLayer{gpuBench: b, expertShape: shape}
	defer l.free(0)
	for range l.experts {
		l.gateUp = append(l.gateUp, l.keep(b.random(true, 2*l.width, l.hidden)))
		l.down = append(l.down, l.keep(b.random(true, l.hidden, l.width)))
	}
	counts := []int{1, 4, 16, 64, 256, 2048}
	if b.dev.Info().Compute == gpu.F32 {
		counts = counts[:3] // without tensor cores more would take minutes
	}
	for _, tokens := range counts {
		if err := errors.Join(ctx.Err(), l.err, l.measure(tokens)); err != nil {
			return err
		}
	}
	return nil
}

// keep remembers a tensor to be freed, and an error.
func (l *expertLayer) keep(t gpu.Tensor, err error) gpu.Tensor {
	if err == nil {
		l.live = append(l.live, t)
	}
	l.err = errors.Join(l.err, err)
	return t
}

// free frees what was kept after the first so many tensors.
func (l *expertLayer) free(from int) {
	for _, t := range l.live[from:] {
		l.dev.Free(t)
	}
	l.live = l.live[:from]
}

// measure measures so many tokens with every implementation, but many tokens without the last, the portable one, if it is not active.
func (l *expertLayer) measure(tokens int) (err error) {
	const fewTokens = 16
	defer l.free(len(l.live))
	launches, active := l.launches(tokens)
	if l.err != nil {
		return l.err
	}
	matrices := 3 * float64(l.hidden) * float64(l.width)
	pairs := float64(tokens * l.topK)
	bytes := elementBytes(l.cfg.Weights)*matrices*active + 2*2*float64(tokens*l.hidden)
	floor := max(bytes/l.r.CopyRate/1e3, 2*pairs*matrices/l.r.ProductRate/1e6)
	all := l.dev.Implementations(gpu.OpMoEExperts)
	for i, im := range all {
		if im.Active {
			defer func() { err = errors.Join(err, l.dev.Select(gpu.OpMoEExperts, im.Name)) }()
		} else if tokens > fewTokens && i == len(all)-1 {
			continue
		}
		if err := l.dev.Select(gpu.OpMoEExperts, im.Name); err != nil {
			return err
		}
		us, err := l.launched(len(launches), func() error {
			for i := range launches {
				if err := l.dev.Launch(gpu.OpMoEExperts, &launches[i]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		l.r.Experts = append(l.r.Experts, GPUExperts{Shape: l.name, Name: im.Name, Tokens: tokens, Active: active, Us: us, FloorU: floor, Share: floor / us})
	}
	return nil
}

// launches are of tokens that choose experts at random, and how many of them they choose together.
func (l *expertLayer) launches(tokens int) (list []gpu.MoEExperts, active float64) {
	compute, pairs, rng := l.dev.Info().Compute, tokens*l.topK, rand.New(rand.NewPCG(4, uint64(tokens)))
	alloc := func(dtype gpu.DType, rows, cols int) gpu.Tensor { return l.keep(l.dev.Alloc(dtype, rows, cols)) }
	a := gpu.MoEExperts{Out: alloc(compute, tokens, l.hidden), X: l.keep(l.random(false, tokens, l.hidden)), GateUp: l.gateUp, Down: l.down,
		Weights: alloc(gpu.F32, tokens, l.topK), Hidden: alloc(compute, pairs, 2*l.width), Scratch: alloc(compute, pairs, l.width)}
	for range expertRoutings {
		a.Experts = alloc(gpu.I32, tokens, l.topK)
		chosen, used := make([]byte, 0, 4*pairs), map[int]bool{}
		for range tokens {
			for _, e := range rng.Perm(l.experts)[:l.topK] {
				chosen = binary.LittleEndian.AppendUint32(chosen, uint32(e))
				used[e] = true
			}
		}
		if l.err == nil {
			l.err = l.dev.Upload(a.Experts, chosen)
		}
		active += float64(len(used)) / expertRoutings
		list = append(list, a)
	}
	return list, active
}
