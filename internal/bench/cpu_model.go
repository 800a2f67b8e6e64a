package bench

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/gguf/checkpoint"
	"github.com/troupe-engine/troupe/internal/machine"
	"github.com/troupe-engine/troupe/schemas"
)

// cpuModel measures one file, driven as the engine drives it.
type cpuModel struct {
	*cpuBench
	gpuModel
	path  string
	tests []CPUTest

	ledger schemas.Ledger // of the steps of the run
	free   time.Time      // when the device was done with the last of them
}

// model measures the GGUF file at path: every test once in a round, each followed by the peer's.
func (b *cpuBench) model(ctx context.Context, path string) (err error) {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	files := checkpoint.NewDir(path)
	spec, err := model.ReadSpec(files)
	if err != nil {
		return err
	}
	d := &cpuModel{cpuBench: b, path: path}
	o := d.plan(label(path), info.Size())
	if o.ContextMax > spec.ContextMax {
		return errors.New("bench: depth and tokens exceed the model's context")
	}
	o.KV = b.cfg.KV
	m, err := model.Load(b.dev, files, o, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	d.gpuModel = gpuModel{gpuBench: &gpuBench{dev: b.dev}, m: m}
	for round := range b.cfg.Rounds {
		for i := range d.tests {
			if err := d.round(ctx, &d.tests[i]); err != nil {
				return err
			}
		}
		d.cpuBench.note("%s: round %d of %d", label(path), round+1, b.cfg.Rounds)
	}
	for i := range d.tests {
		t := &d.tests[i]
		t.summarize()
		d.cpuBench.note("%s: %s", t.Model, t.line())
	}
	b.r.Tests = append(b.r.Tests, d.tests...)
	return nil
}

// plan lists the tests and returns how large a model they need.
func (d *cpuModel) plan(name string, bytes int64) model.Options {
	c := &d.cpuBench.cfg
	add := func(kind string, sequences, depth, tokens int) {
		d.tests = append(d.tests, CPUTest{Model: name, Bytes: bytes, Kind: kind, Sequences: sequences, Depth: depth, Tokens: tokens})
	}
	if c.Prompt > 0 {
		add("prefill", 1, 0, c.Prompt)
	}
	for _, batch := range c.Batches {
		if batch > 1 {
			add("decode", batch, batchContext, c.Tokens)
			continue
		}
		for _, depth := range c.Depths {
			add("decode", 1, depth, c.Tokens)
		}
	}
	o := model.Options{SequencesMax: 1, TokensPerStepMax: cpuStepTokens, BlockSize: gpuBlockSize}
	for _, t := range d.tests {
		length := t.Depth + t.Tokens + 1
		o.SequencesMax = max(o.SequencesMax, t.Sequences)
		o.TokensPerStepMax = max(o.TokensPerStepMax, t.Sequences)
		o.ContextMax = max(o.ContextMax, length)
		o.KVBlocks = max(o.KVBlocks, t.Sequences*blocksOf(length))
	}
	return o
}

// othersMax is the share of the processors that others may use beside a measurement.
const othersMax = 0.05

// attempt is one run of a test, here and at the peer, and the larger share that others used meanwhile.
type attempt struct {
	rate, peer, others, cpu, read float64
	ledger                        schemas.Ledger
	wall                          time.Duration
}

// round adds an attempt that others disturbed little or, if there is none, the one they disturbed least.
func (d *cpuModel) round(ctx context.Context, t *CPUTest) error {
	best := attempt{others: 2}
	for try := 0; try <= d.cpuBench.cfg.Retries && best.others > othersMax; try++ {
		a, err := d.try(ctx, t)
		if err != nil {
			return err
		}
		if a.others < best.others {
			best = a
		}
	}
	t.Rates, t.Others, t.CPU = append(t.Rates, best.rate), append(t.Others, best.others), append(t.CPU, best.cpu)
	t.Ledger.Add(best.ledger)
	t.WallUs += float64(best.wall.Nanoseconds()) / 1e3
	if best.read > 0 {
		t.Reads = append(t.Reads, best.read)
	}
	if best.peer > 0 {
		t.PeerRates = append(t.PeerRates, best.peer)
	}
	return nil
}

// try runs a test here and then at the peer.
func (d *cpuModel) try(ctx context.Context, t *CPUTest) (a attempt, err error) {
	if err := ctx.Err(); err != nil {
		return a, err
	}
	w, own := machine.Begin(), machine.CPUTime()
	took, err := d.run(t)
	if err != nil {
		return a, err
	}
	tokens := float64(t.Sequences * t.Tokens)
	a.ledger, a.wall = d.ledger, took.wall
	a.rate, a.cpu, a.others = tokens/took.wall.Seconds(), 1e3*took.cpu.Seconds()/tokens, w.Others(machine.CPUTime()-own)
	if a.read, err = d.readRate(t); err != nil {
		return a, err
	}
	if d.peer == nil {
		return a, nil
	}
	w, own = machine.Begin(), machine.CPUTime()
	var used time.Duration
	if a.peer, used, err = d.peer.run(ctx, d.path, t); err != nil {
		return a, err
	}
	a.others = max(a.others, w.Others(used+machine.CPUTime()-own))
	return a, nil
}

// readTime is how long the weights are read for a rate.
const readTime = 250 * time.Millisecond

// readRate returns the GB/s of a loop that reads what a step of a test has read, or 0 where that is more than weights or
// the device has no such loop.
func (d *cpuModel) readRate(t *CPUTest) (float64, error) {
	if t.Kind != "decode" || t.Sequences > 1 || t.Depth > 0 {
		return 0, nil
	}
	ceilings, err := d.cpuBench.dev.Ceilings()
	if errors.Is(err, gpu.ErrNotSupported) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	began, read := time.Now(), int64(0)
	for time.Since(began) < readTime {
		t.WeightBytes = 0
		for _, args := range d.m.Launches() {
			switch a := args.(type) {
			case *gpu.MatMul:
				t.WeightBytes += int64(ceilings.Read(a.W))
			case *gpu.MoEExperts: // which ones a token goes through is not known here
				return 0, nil
			}
		}
		read += t.WeightBytes
	}
	return float64(read) / time.Since(began).Seconds() / 1e9, nil
}

// taken is how long something took, and the processor time.
type taken struct{ wall, cpu time.Duration }

// run returns what a test takes, without what comes before its tokens.
func (d *cpuModel) run(t *CPUTest) (taken, error) {
	if err := d.own(t.Sequences, t.Depth+t.Tokens+1); err != nil {
		return taken{}, err
	}
	rng := rand.New(rand.NewPCG(3, uint64(t.Depth)))
	depth := t.Depth
	if t.Kind == "decode" {
		depth = max(1, depth) // there must be a token to begin with
	}
	for s := range t.Sequences {
		if t.Kind == "prefill" {
			break
		}
		if err := d.feed(s, 0, depth, rng); err != nil {
			return taken{}, err
		}
	}
	if err := d.dev.Sync(); err != nil {
		return taken{}, err
	}
	began, cpu := time.Now(), machine.CPUTime()
	d.ledger, d.free = schemas.Ledger{}, began
	if t.Kind == "prefill" {
		err := errors.Join(d.feed(0, 0, t.Tokens, rng), d.dev.Sync())
		return taken{time.Since(began), machine.CPUTime() - cpu}, err
	}
	for i := range t.Tokens {
		if err := d.timed(func() {
			for s := range t.Sequences {
				d.add(s, depth+i, 1, nil)
			}
		}); err != nil {
			return taken{}, err
		}
	}
	err := d.dev.Sync()
	return taken{time.Since(began), machine.CPUTime() - cpu}, err
}

// timed runs a step of the rows that fill adds. Its time goes to the ledger: that of making the batch is upload, that of the
// model and the sampler the device's, which is done when the launch returns.
func (d *cpuModel) timed(fill func()) error {
	began := time.Now()
	d.begin()
	fill()
	ready := time.Now()
	_, err := d.step()
	idle := began.Sub(d.free)
	d.free = time.Now()
	d.ledger.Add(schemas.Ledger{Idle: idle.Nanoseconds(), Upload: ready.Sub(began).Nanoseconds(), Device: d.free.Sub(ready).Nanoseconds(), Steps: 1})
	return err
}

// feed runs count tokens of a sequence from a position on, in steps of at most cpuStepTokens.
func (d *cpuModel) feed(sequence, from, count int, rng *rand.Rand) error {
	for end := from + count; from < end; from += cpuStepTokens {
		if err := d.timed(func() { d.add(sequence, from, min(cpuStepTokens, end-from), rng) }); err != nil {
			return err
		}
	}
	return nil
}

// summarize fills in what follows from the rounds.
func (t *CPUTest) summarize() {
	t.Rate, t.PeerRate = median(t.Rates), median(t.PeerRates)
	var shares, peers []float64
	for i, read := range t.Reads {
		step := float64(t.WeightBytes) / 1e9 / read // seconds, at least
		shares = append(shares, t.Rates[i]*step)
		if len(t.PeerRates) > 0 {
			peers = append(peers, t.PeerRates[i]*step)
		}
	}
	t.Share, t.PeerShare = median(shares), median(peers)
	var ratios []float64
	for i, p := range t.PeerRates { // of every round, or of none
		ratios = append(ratios, t.Rates[i]/p)
	}
	if len(ratios) > 0 {
		t.Ratio, t.RatioMin, t.RatioMax = median(ratios), slices.Min(ratios), slices.Max(ratios)
	}
}
