package simulate

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/internal/traces"
	"github.com/troupe-engine/troupe/schemas"
)

// setters change one setting of a configuration, by the names of the engine's options.
var setters = map[string]func(c *Config, t *traces.Trace, value string) error{
	"replicas":        number(func(c *Config) *int { return &c.Replicas }),
	"sequences-max":   number(func(c *Config) *int { return &c.SequencesMax }),
	"waiting-max":     number(func(c *Config) *int { return &c.WaitingMax }),
	"tokens-step-max": number(func(c *Config) *int { return &c.TokensStepMax }),
	"context-max":     number(func(c *Config) *int { return &c.ContextMax }),
	"block-size":      number(func(c *Config) *int { return &c.BlockSize }),
	"pipeline-depth":  number(func(c *Config) *int { return &c.PipelineDepth }),
	"max-concurrency": number(func(c *Config) *int { return &c.MaxConcurrency }),
	"routing":         func(c *Config, _ *traces.Trace, v string) error { c.Routing = v; return nil },
	"policy":          func(c *Config, _ *traces.Trace, v string) error { c.Policy = v; return nil },
	"eviction":        func(c *Config, _ *traces.Trace, v string) error { c.Eviction = v; return nil },
	"kv-blocks":       setBlocks,
	"prefix-cache": func(c *Config, _ *traces.Trace, v string) error {
		on, err := strconv.ParseBool(v)
		c.PrefixCacheOff = !on
		return err
	},
	"speed": func(c *Config, _ *traces.Trace, v string) (err error) {
		c.Speed, err = strconv.ParseFloat(v, 64)
		return err
	},
	"policy-time": func(c *Config, _ *traces.Trace, v string) (err error) {
		if c.PolicyTime = 0; v != Measured {
			c.PolicyTime, err = time.ParseDuration(v)
		}
		return err
	},
	"profile": func(c *Config, _ *traces.Trace, v string) (err error) {
		c.Profile, err = profile.Named(v)
		return err
	},
}

func number(field func(*Config) *int) func(*Config, *traces.Trace, string) error {
	return func(c *Config, _ *traces.Trace, v string) (err error) {
		*field(c), err = strconv.Atoi(v)
		return err
	}
}

// Unlimited is the value of kv-blocks that never makes memory the limit.
const Unlimited = "unlimited"

// Measured is the value of policy-time that lets answers take as long as they really do.
const Measured = "measured"

// setBlocks takes a number, Unlimited, or a part of the workload's working set as in 30%.
func setBlocks(c *Config, t *traces.Trace, v string) error {
	if v == Unlimited || v == "0" {
		c.KVBlocks = 0
		return nil
	}
	if text, percent := strings.CutSuffix(v, "%"); percent {
		part, err := strconv.ParseFloat(text, 64)
		if err != nil || !(part > 0 && part <= 1e4) {
			return fmt.Errorf("expected a part of the working set as in 30%%")
		}
		c.KVBlocks = max(1, int(part/100*float64(WorkingSet(t, c.BlockSize))))
		return nil
	}
	var err error
	c.KVBlocks, err = strconv.Atoi(v)
	return err
}

// Settings lists the names of what Set can change, sorted.
func Settings() []string {
	names := make([]string, 0, len(setters))
	for name := range setters {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Set changes a setting by its name. kv-blocks may be "unlimited", or a percentage of the trace's working set; it
// depends on block-size, which goes first.
func (c *Config) Set(t *traces.Trace, name, value string) error {
	set := setters[name]
	if set == nil {
		return schemas.Errorf(schemas.KindInvalid, "simulate", "no setting %.40q", name).WithParam("sweep").
			WithHint("there are %s", strings.Join(Settings(), ", "))
	}
	if err := set(c, t, value); err != nil {
		return schemas.Errorf(schemas.KindInvalid, "simulate", "%s is %.60q: %v", name, value, err).WithParam(name)
	}
	return nil
}

// Sweep is one setting and the values it is to have.
type Sweep struct {
	Name   string   `json:"name"`
	Values []string `json:"values"`
}

// ParseSweep reads name=value,value,….
func ParseSweep(text string) (Sweep, error) {
	name, list, ok := strings.Cut(text, "=")
	s := Sweep{Name: strings.ReplaceAll(strings.TrimSpace(name), "_", "-")}
	if !ok || setters[s.Name] == nil {
		return s, schemas.Errorf(schemas.KindInvalid, "simulate", "sweep %.60q: expected a setting and its values, as in policy=fcfs,priority", text).WithParam("sweep").
			WithHint("the settings are %s", strings.Join(Settings(), ", "))
	}
	for _, v := range strings.Split(list, ",") {
		if v = strings.TrimSpace(v); v == "" {
			return s, schemas.Errorf(schemas.KindInvalid, "simulate", "sweep %.60q has an empty value", text).WithParam("sweep")
		}
		s.Values = append(s.Values, v)
	}
	return s, nil
}

// RunsMax bounds the combinations of one sweep.
const RunsMax = 256

// Outcome is one combination of a sweep's values and what came of it.
type Outcome struct {
	Values []string `json:"values"` // in the order of the sweeps
	Report *Report  `json:"report"`
}

// RunAll simulates every combination of the sweeps' values. Progress, which may be nil, hears of each before it runs.
func RunAll(ctx context.Context, base Config, t *traces.Trace, sweeps []Sweep, progress func(values []string)) ([]Outcome, error) {
	combinations := [][]string{nil}
	for _, s := range sweeps {
		var next [][]string
		for _, c := range combinations {
			for _, v := range s.Values {
				next = append(next, append(slices.Clone(c), v))
			}
		}
		if combinations = next; len(combinations) > RunsMax {
			return nil, schemas.Errorf(schemas.KindInvalid, "simulate", "the sweeps have %d combinations and more; at most %d are run", len(combinations), RunsMax).WithParam("sweep")
		}
	}
	var outcomes []Outcome
	for _, values := range combinations {
		if progress != nil {
			progress(values)
		}
		r, err := runOne(ctx, base, t, sweeps, values)
		if err != nil {
			return nil, err
		}
		outcomes = append(outcomes, Outcome{values, r})
	}
	return outcomes, nil
}

func runOne(ctx context.Context, cfg Config, t *traces.Trace, sweeps []Sweep, values []string) (*Report, error) {
	for _, first := range []bool{true, false} { // kv-blocks may depend on block-size
		for i, s := range sweeps {
			if (s.Name == "block-size") == first {
				if err := cfg.Set(t, s.Name, values[i]); err != nil {
					return nil, err
				}
			}
		}
	}
	return Run(ctx, cfg, t)
}
