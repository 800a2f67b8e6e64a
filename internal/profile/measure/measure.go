package measure

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/internal/traces"
	"github.com/troupe-engine/troupe/schemas"
)

// Session measures an engine of this process that nobody else uses meanwhile.
type Session struct {
	Progress func(string) // may be nil
	Quantile float64      // of the steps of a shape that is taken for their cost; 0: the mean

	engine   *troupe.Engine
	info     *schemas.EngineInfo
	watcher  *Watcher
	random   *rand.Rand
	sent     int // workloads
	steps    []Step
	requests []lone // as a Sample's
}

// Open begins a session. The seed is that of the loads' lengths.
func Open(ctx context.Context, e *troupe.Engine, seed uint64) (*Session, error) {
	info, err := e.Info(ctx)
	if err != nil {
		return nil, err
	}
	w, err := Watch(e.Node())
	if err != nil {
		return nil, err
	}
	return &Session{engine: e, info: info, watcher: w, random: rand.New(rand.NewPCG(seed, 0x70726f66))}, nil
}

// Close stops watching the engine.
func (s *Session) Close() { s.watcher.Close() }

// Send sends a workload whose prompts are like no others of the session.
func (s *Session) Send(ctx context.Context, t *traces.Trace) ([]Outcome, error) {
	s.sent++
	outcomes, _, err := Send(ctx, s.engine, t, s.sent)
	return outcomes, err
}

// Steps are those that ran since the last call, or the last round.
func (s *Session) Steps() ([]Step, error) { return s.watcher.Take() }

// Sample is what the loads of a part of a round cost.
type Sample struct {
	Part     int
	Steps    []Step
	requests []lone
}

// lone is what came of a request that ran alone.
type lone struct {
	prompt int32   // tokens
	ns     float64 // until the first token, that no step explains: from the client to the first step and back
}

// Round sends every load once. Several rounds make one profile, the better the more.
func (s *Session) Round(ctx context.Context) error {
	sample, err := s.Part(ctx, 0, 1)
	if err == nil {
		s.Keep(sample)
	}
	return err
}

// Part sends one of so many parts of a round's loads, and returns what they cost.
func (s *Session) Part(ctx context.Context, part, parts int) (*Sample, error) {
	if _, err := s.watcher.Take(); err != nil { // what others have sent
		return nil, err
	}
	sample := &Sample{Part: part}
	for i, l := range loads(s.info, s.random) {
		if i%parts != part {
			continue
		}
		if s.Progress != nil {
			s.Progress(l.name)
		}
		if l.single {
			for _, q := range l.trace.Requests {
				outcomes, ran, err := s.send(ctx, l.name, &traces.Trace{Requests: []traces.Request{q}})
				if err != nil {
					return nil, err
				}
				sample.requests = append(sample.requests, lone{q.Input, around(outcomes[0], ran)})
			}
			continue
		}
		_, ran, err := s.send(ctx, l.name, &l.trace)
		if err != nil {
			return nil, err
		}
		sample.Steps = append(sample.Steps, ran...)
	}
	return sample, nil
}

// send sends a load and returns what came of its requests, and the steps that ran.
func (s *Session) send(ctx context.Context, name string, t *traces.Trace) ([]Outcome, []Step, error) {
	outcomes, err := s.Send(ctx, t)
	if err != nil {
		return nil, nil, err
	}
	for i := range outcomes {
		if err := outcomes[i].Err; err != nil {
			return nil, nil, fmt.Errorf("profile: %s: %w", name, err)
		}
	}
	ran, err := s.watcher.Take()
	return outcomes, ran, err
}

// Keep takes a sample into the profile.
func (s *Session) Keep(sample *Sample) {
	s.steps, s.requests = append(s.steps, sample.Steps...), append(s.requests, sample.requests...)
}

// WarmUp sends every load once and forgets what it cost: a device's first steps compile kernels, or touch memory.
func (s *Session) WarmUp(ctx context.Context) error {
	_, err := s.Part(ctx, 0, 1)
	return err
}

// Profile is what all rounds so far say.
func (s *Session) Profile() (*profile.Profile, error) { return s.ProfileOf(s.steps) }

// ProfileOf is what steps of the engine say that ran otherwise; what is around them is the rounds'.
func (s *Session) ProfileOf(steps []Step) (*profile.Profile, error) {
	p, err := Learn(s.info, profile.DeviceText(s.engine.Device().Info()), steps, s.Quantile)
	if err != nil {
		return nil, err
	}
	p.Origin.Threads = runtime.GOMAXPROCS(0)
	p.Serving.RequestNs, p.Serving.PromptNs = servingOf(s.requests)
	return p, nil
}

// Learn makes a profile of steps that ran on an engine.
func Learn(info *schemas.EngineInfo, device string, steps []Step, quantile float64) (*profile.Profile, error) {
	seen := make([]profile.Observation, len(steps))
	for i, step := range steps {
		seen[i] = profile.Observation{Shape: step.Shape, Ns: float64(step.Busy)}
	}
	terms, fit, points, err := profile.LearnQuantile(seen, quantile)
	if err != nil {
		return nil, err
	}
	taken := "means"
	if quantile > 0 {
		taken = fmt.Sprintf("quantile %g", quantile)
	}
	name, _, _ := strings.Cut(device, ":")
	return &profile.Profile{Version: profile.Version, Name: info.Model + " on " + name, Terms: terms, Fit: fit, Points: points, Pace: profile.PaceOf(terms, seen),
		Origin: profile.Origin{Model: info.Model, Device: device, Date: time.Now().UTC().Format(time.RFC3339), BlockSize: int(info.BlockSize),
			SequencesMax: int(info.SequencesMax), TokensStepMax: int(info.TokensStepMax),
			Build: bus.BuildVersion, Method: fmt.Sprintf("learned from %d steps of a live engine (%s of each shape)", len(steps), taken)}}, nil
}

// around is, for a request that ran alone, the time until the first token that no step explains.
func around(o Outcome, steps []Step) float64 {
	busy := time.Duration(0)
	for _, step := range steps {
		busy += step.Busy
		if step.Shape.Sampled > 0 {
			break
		}
	}
	return float64(max(0, o.First-o.Sent-busy))
}

// servingOf is what requests take around their steps: with a short prompt, and more for each token of a long one.
func servingOf(requests []lone) (requestNs, promptNs float64) {
	var short, each []float64
	for _, r := range requests {
		if r.prompt < shortPrompt {
			short = append(short, r.ns)
		}
	}
	requestNs = median(short)
	for _, r := range requests {
		if r.prompt >= shortPrompt {
			each = append(each, (r.ns-requestNs)/float64(r.prompt))
		}
	}
	return requestNs, max(0, median(each))
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// load is a workload that makes steps of certain shapes.
type load struct {
	name   string
	trace  traces.Trace
	single bool // its requests run one at a time
}

// prefillTokensMax bounds the prompts of one load together, so that a slow device is measured in sensible time.
const prefillTokensMax = 1 << 14

// shortPrompt is the length, in tokens, from which on a prompt's own share of the time around its steps is measured.
const shortPrompt = 32

// loads cover decode rows × context, prefill chunks × context, and both together.
func loads(info *schemas.EngineInfo, random *rand.Rand) []load {
	context, rowsMax := info.ContextMax, info.SequencesMax
	var list []load
	single := load{name: "requests one at a time", single: true}
	for range 12 {
		single.trace.Requests = append(single.trace.Requests, traces.Request{Input: 2 + random.Int32N(shortPrompt-2), Output: 2})
	}
	const long = 6
	for i := range int32(long) {
		if input := min(context/2, prefillTokensMax/4) * (i + 1) / long; input >= shortPrompt {
			single.trace.Requests = append(single.trace.Requests, traces.Request{Input: input, Output: 2})
		}
	}
	list = append(list, single)
	for rows := int32(1); rows <= rowsMax; rows *= 2 {
		for _, input := range []int32{16, 192, 640, context - context/16} {
			if input > context-64 || input*rows > prefillTokensMax && input > 16 {
				continue
			}
			l := load{name: fmt.Sprintf("%d at once, %d tokens of context", rows, input)}
			for range rows {
				l.trace.Requests = append(l.trace.Requests, traces.Request{Input: input - random.Int32N(max(1, input/8)), Output: 24 + random.Int32N(16)})
			}
			list = append(list, l)
		}
	}
	chunks := load{name: "prompts of all lengths, one after the other"}
	for n := int32(2); n < context-2 && n < prefillTokensMax; n += 1 + n/2 {
		chunks.trace.Requests = append(chunks.trace.Requests, traces.Request{Input: n, Output: 1})
	}
	list = append(list, chunks)
	const mixed = 40
	longest := float64(min(context/2, 3*prefillTokensMax/mixed))
	for _, m := range []struct{ pace, requests int64 }{{4e6, mixed}, {12e6, mixed}, {30e6, mixed}, {90e6, mixed / 2}} { // the last with pauses
		l := load{name: "mixed lengths, a request every " + time.Duration(m.pace).String()}
		for i := range m.requests {
			input := 1 + int32(longest*random.Float64()*random.Float64())
			l.trace.Requests = append(l.trace.Requests, traces.Request{ArrivalNs: i * m.pace, Input: input, Output: 1 + random.Int32N(min(60, context/4))})
		}
		list = append(list, l)
	}
	return list
}
