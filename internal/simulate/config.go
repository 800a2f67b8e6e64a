package simulate

import (
	"math"
	"strings"
	"time"

	"github.com/troupe-engine/troupe/actors/memory"
	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/internal/replica"
	"github.com/troupe-engine/troupe/internal/routing"
	"github.com/troupe-engine/troupe/internal/traces"
	"github.com/troupe-engine/troupe/schemas"
)

// Config is what serves the workload. Names and defaults are those of the engine's options; limits that an engine
// has for its own protection are off.
type Config struct {
	Profile *profile.Profile `json:"-"`

	Replicas       int    `json:"replicas"`
	Routing        string `json:"routing"` // a policy of internal/routing
	Policy         string `json:"policy"`  // of the scheduler
	Eviction       string `json:"eviction"`
	SequencesMax   int    `json:"sequences_max"`
	WaitingMax     int    `json:"waiting_max"` // 0: no limit
	TokensStepMax  int    `json:"tokens_step_max"`
	ContextMax     int    `json:"context_max"` // 0: what the workload needs
	BlockSize      int    `json:"block_size"`
	KVBlocks       int    `json:"kv_blocks"` // per replica; 0: as many as the workload could ever fill
	PipelineDepth  int    `json:"pipeline_depth"`
	PrefixCacheOff bool   `json:"prefix_cache_off,omitempty"`

	MaxConcurrency int     `json:"max_concurrency,omitempty"` // requests at once; more wait at the client; 0: no limit
	Speed          float64 `json:"speed"`                     // the workload's pace: 2 lets requests come twice as fast
	Goodput        Limits  `json:"goodput"`
	Seed           uint64  `json:"seed"`

	// Pace is the devices'; nil is that of the profile: its mean, always, or, with RecordedPace, as uneven as it was when it was
	// measured.
	Pace         Pace `json:"-"`
	RecordedPace bool `json:"recorded_pace,omitempty"`

	// Ask puts questions to a policy in another process ("nats:…"); nil: there are no such. PolicyTime is how long each answer
	// takes in virtual time, however long it really takes; 0: as long as that.
	Ask        Asker         `json:"-"`
	AskRoute   RouteAsker    `json:"-"` // likewise to a routing policy
	PolicyTime time.Duration `json:"policy_time_ns,omitempty"`
}

// Pace is how fast devices are over time: those of a machine that others use, too, are not always as fast as their
// profile.
type Pace interface {
	// Done is when a step that begins at a time, in nanoseconds since the workload began, and takes ns at the
	// profile's pace is done.
	Done(begin, ns int64) int64
}

// Limits are what a good request may take, in milliseconds; 0: any time.
type Limits struct {
	TTFT float64 `json:"ttft_ms,omitempty"`
	TPOT float64 `json:"tpot_ms,omitempty"`
	E2EL float64 `json:"e2el_ms,omitempty"`
}

func (l Limits) any() bool { return l != Limits{} }

// DefaultConfig is one replica as the engine configures it, with unlimited memory.
func DefaultConfig() Config {
	return Config{Replicas: 1, Routing: routing.PolicyDefault, Policy: replica.PolicyDefault, Eviction: "lru", SequencesMax: replica.SequencesDefault,
		TokensStepMax: replica.TokensStepDefault, BlockSize: replica.BlockSizeDefault, PipelineDepth: replica.DepthDefault, Speed: 1,
		PolicyTime: PolicyTimeDefault}
}

// replicasMax bounds the replicas of one simulation.
const replicasMax = 1024

// Validate names the first field that makes no sense; what the cores refuse is found by Run.
func (c *Config) Validate() error {
	bad := func(param string, value any, want string) error {
		return schemas.Errorf(schemas.KindInvalid, "simulate", "%s is %v; expected %s", param, value, want).WithParam(param)
	}
	for _, f := range []struct {
		name              string
		value, low, limit int
	}{{"replicas", c.Replicas, 1, replicasMax}, {"sequences_max", c.SequencesMax, 1, math.MaxInt32}, {"waiting_max", c.WaitingMax, 0, math.MaxInt32},
		{"tokens_step_max", c.TokensStepMax, 1, math.MaxInt32}, {"context_max", c.ContextMax, 0, math.MaxInt32},
		{"block_size", c.BlockSize, 1, traces.TokensMax}, {"kv_blocks", c.KVBlocks, 0, math.MaxInt32},
		{"pipeline_depth", c.PipelineDepth, 1, replica.DepthMax}, {"max_concurrency", c.MaxConcurrency, 0, math.MaxInt32}} {
		if f.value < f.low || f.value > f.limit {
			return bad(f.name, f.value, "a number from "+itoa(f.low)+" to "+itoa(f.limit))
		}
	}
	switch {
	case c.Profile == nil:
		return bad("profile", "missing", "what steps cost")
	case !(c.Speed > 0 && c.Speed <= 1e9):
		return bad("speed", c.Speed, "a positive factor")
	case c.External() && c.Ask == nil:
		return bad("policy", c.Policy, "one of "+strings.Join(scheduler.Policies(), ", ")+": nobody is there to ask another process")
	case c.PolicyTime < 0:
		return bad("policy-time", c.PolicyTime, "a duration, or 0 for what an answer really takes")
	case c.Eviction == belady && c.Replicas > 1:
		return bad("eviction", c.Eviction, "another policy for several replicas: it is not known which of them will get a request")
	case c.ExternalRouting() && c.AskRoute == nil:
		return bad("routing", c.Routing, "one of "+strings.Join(routing.Policies(), ", ")+": nobody is there to ask another process")
	}
	_, err := routing.NewPolicy(c.Routing, c.Seed)
	return err
}

// ExternalRouting says whether the routing policy is in another process.
func (c *Config) ExternalRouting() bool { return strings.HasPrefix(c.Routing, routing.ExternalPrefix) }

// External says whether the policy is in another process.
func (c *Config) External() bool { return strings.HasPrefix(c.Policy, scheduler.ExternalPrefix) }

// blocks is the size of a replica's pool: what was asked for, or enough for the whole workload without any reuse.
func (c *Config) blocks(t *traces.Trace) (int32, error) {
	if c.KVBlocks > 0 {
		return int32(c.KVBlocks), nil
	}
	size := int64(c.BlockSize)
	need := int64(0)
	for i := range t.Requests {
		q := &t.Requests[i]
		need += (int64(q.Input)+int64(q.Output)+size-1)/size + 1
	}
	if need*size > math.MaxInt32 {
		return 0, schemas.Errorf(schemas.KindInvalid, "simulate", "kv_blocks: the workload fills %d blocks of %d tokens; the cores can name %d tokens", need, size, math.MaxInt32).
			WithParam("kv_blocks").WithHint("give a number of blocks, or simulate less of the workload")
	}
	return int32(need), nil
}

// contextMax is the longest request of the workload and one more, unless the configuration says otherwise.
func (c *Config) contextMax(t *traces.Trace) int32 {
	if c.ContextMax > 0 {
		return int32(c.ContextMax)
	}
	longest := int64(1)
	for i := range t.Requests {
		longest = max(longest, int64(t.Requests[i].Input)+int64(t.Requests[i].Output))
	}
	return int32(min(longest+1, math.MaxInt32))
}

// vocabulary makes accidental repetitions in made-up text as good as impossible.
const vocabulary = math.MaxInt32

func (c *Config) scheduler(name schemas.Instance, context, blocks int32) scheduler.Config {
	waiting := c.WaitingMax
	if waiting == 0 {
		waiting = math.MaxInt32
	}
	return scheduler.Config{Model: c.Profile.Origin.Model, Replica: name, Device: c.Profile.Origin.Device, VocabSize: vocabulary, ContextMax: context,
		SequencesMax: int32(c.SequencesMax), WaitingMax: int32(waiting), TokensStepMax: int32(c.TokensStepMax), BlockSize: int32(c.BlockSize),
		Blocks: blocks, PipelineDepth: int32(c.PipelineDepth), Policy: c.Policy, PrefixCacheOff: c.PrefixCacheOff}
}

// belady is the eviction policy that knows the future of one replica.
const belady = "belady"

func (c *Config) memory(blocks int32, future memory.Future) memory.Config {
	return memory.Config{Blocks: blocks, BlockSize: int32(c.BlockSize), PrefixCacheOff: c.PrefixCacheOff, Eviction: c.Eviction, Future: future}
}
