package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/internal/routing"
	"github.com/troupe-engine/troupe/internal/simulate"
	"github.com/troupe-engine/troupe/internal/traces"
	"github.com/troupe-engine/troupe/schemas"
)

// simulateCommand is what the flags say.
type simulateCommand struct {
	trace, format string
	synthetic     traces.Synthetic
	input, output string
	prefix        string
	limit         int

	profile  string
	settings map[string]*string // by name, see simulate.Settings
	nats     *engineAddress     // of policies in other processes
	sweeps   []string
	goodput  []string
	seed     uint64

	json   *bool
	csv    bool
	html   string
	png    string
	series bool
	uneven bool
	quiet  bool
	live   against
}

func newSimulateCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "simulate [flags]", Short: "Run a workload through the real cores in virtual time.", Args: cobra.NoArgs,
		Long: "Simulate serves a workload with the engine's own scheduler and memory in virtual\n" +
			"time: steps take what a profile says. The workload is a trace (Azure, BurstGPT,\n" +
			"Mooncake, ShareGPT) or, without --trace, drawn. --sweep runs all combinations.\n\n" +
			"docs/simulate.md says more.",
		Example: "  troupe simulate --trace conv.csv --kv-blocks 4096\n" +
			"  troupe simulate --trace mooncake.jsonl --kv-blocks unlimited --json\n" +
			"  troupe simulate --request-rate 20 --input-len lognormal:300,400 \\\n" +
			"    --sweep policy=fcfs,priority --sweep kv-blocks=500,1000 --html report.html"}
	s := &simulateCommand{json: addJSON(cmd), settings: map[string]*string{}}
	s.addFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return s.run(cmd) }
	return cmd
}

func (s *simulateCommand) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.trace, "trace", "", "a workload's file; without one, requests are drawn")
	f.StringVar(&s.format, "format", "", "its format: azure, burstgpt, mooncake or sharegpt; default: what it looks like")
	f.IntVar(&s.limit, "num-prompts", 0, "requests to read or draw; 0 is all of a trace, or 1000")
	f.Float64Var(&s.synthetic.Rate, "request-rate", math.Inf(1), "drawn requests per second, or those of a trace without times; inf is all at once")
	f.Float64Var(&s.synthetic.Burstiness, "burstiness", 1, "shape of the gamma distribution of intervals; 1 is a Poisson process, less is burstier")
	f.StringVar(&s.input, "input-len", "lognormal:512,512", "drawn prompts' tokens: 512, uniform:a,b, normal:mean,sd, lognormal:mean,sd or exponential:mean")
	f.StringVar(&s.output, "output-len", "exponential:128", "drawn answers' tokens, likewise")
	f.IntVar(&s.synthetic.Prefixes, "prefixes", 0, "different prefixes that drawn prompts share")
	f.StringVar(&s.prefix, "prefix-len", "256", "tokens of such a prefix, as a distribution")
	f.Uint64Var(&s.seed, "seed", 0, "of what is drawn, and of routing")

	base := simulate.DefaultConfig()
	f.StringVar(&s.profile, "profile", "", "what steps cost: a file of troupe profile, or a built-in one: "+strings.Join(profile.Builtins(), ", "))
	for name, v := range map[string]struct{ value, doc string }{
		"replicas":        {strconv.Itoa(base.Replicas), "engines that share the requests"},
		"routing":         {base.Routing, "how they share them: round-robin, least-loaded, two-choices or prefix; nats:NAME as with --policy"},
		"policy":          {base.Policy, "scheduling policy; nats:NAME is in another process, which answers on the server at --nats"},
		"policy-time":     {base.PolicyTime.String(), "virtual time that an answer of such a policy takes, or measured: what it really takes, and then runs differ"},
		"eviction":        {base.Eviction, "which cached blocks go first: lru, lfu, fifo, priority, or belady, which knows the future"},
		"sequences-max":   {strconv.Itoa(base.SequencesMax), "sequences running at once, per engine"},
		"waiting-max":     {"0", "sequences queued; more are refused; 0 is no limit"},
		"tokens-step-max": {strconv.Itoa(base.TokensStepMax), "token budget of one step (chunked prefill)"},
		"context-max":     {"0", "tokens of prompt and output together; 0 is what the workload needs"},
		"block-size":      {strconv.Itoa(base.BlockSize), "tokens per KV block"},
		"kv-blocks":       {simulate.Unlimited, "KV blocks per engine, a part of the workload's working set as 30%, or unlimited"},
		"pipeline-depth":  {strconv.Itoa(base.PipelineDepth), "steps planned or running at once"},
		"prefix-cache":    {"true", "reuse the KV blocks of common prefixes"},
		"max-concurrency": {"0", "requests at once; more wait at the client; 0 is no limit"},
		"speed":           {"1", "pace of the workload: 2 sends it twice as fast"},
	} {
		s.settings[name] = f.String(name, v.value, v.doc)
	}
	f.StringArrayVar(&s.sweeps, "sweep", nil, "run with each of several values, as policy=fcfs,priority; may be repeated")
	f.StringSliceVar(&s.goodput, "goodput", nil, "what a good request may take in ms, as ttft:200,tpot:50,e2el:5000")
	f.BoolVar(&s.csv, "csv", false, "print CSV, a line per run")
	f.StringVar(&s.html, "html", "", "write a report with plots to this file")
	f.StringVar(&s.png, "png", "", "write the plots as one picture to this file")
	f.BoolVar(&s.series, "series", false, "with --json, how queue, memory and hits developed")
	f.BoolVar(&s.uneven, "recorded-pace", false, "steps take as unevenly long as when the profile was measured, from a place that --seed chooses, not the mean")
	f.BoolVar(&s.quiet, "quiet", false, "no progress on standard error")
	s.nats = addNATS(f, natsURLDefault, "with a policy in another process, the NATS server at which it answers: an engine's, or any")
	s.live.addFlags(f)
}

func (s *simulateCommand) run(cmd *cobra.Command) error {
	if s.live.on {
		return s.live.run(cmd, s)
	}
	t, err := s.workload(cmd)
	if err != nil {
		return err
	}
	cfg, sweeps, err := s.configure(cmd, t)
	if err != nil {
		return err
	}
	if asksOthers(cfg, sweeps) {
		conn, err := s.nats.connect("simulate", nats.MaxReconnects(-1))
		if err != nil {
			return err
		}
		defer conn.Close()
		cfg.Ask = askOver(conn)
		cfg.AskRoute = func(ctx context.Context, q *routing.Question) *routing.Answer { return routing.Ask(ctx, conn, q) }
	}
	began := time.Now()
	outcomes, err := simulate.RunAll(cmd.Context(), cfg, t, sweeps, func(values []string) {
		if len(sweeps) > 0 {
			s.say(cmd, strings.Join(values, " "))
		}
	})
	if err != nil {
		return err
	}
	s.say(cmd, fmt.Sprintf("%d requests simulated %d times in %.1f s", len(t.Requests), len(outcomes), time.Since(began).Seconds()))
	if err := s.files(sweeps, outcomes); err != nil {
		return err
	}
	return s.print(cmd.OutOrStdout(), sweeps, outcomes)
}

func (s *simulateCommand) say(cmd *cobra.Command, line string) {
	if !s.quiet {
		fmt.Fprintln(cmd.ErrOrStderr(), dim(cmd.ErrOrStderr(), line))
	}
}

// workload reads or draws the requests.
func (s *simulateCommand) workload(cmd *cobra.Command) (*traces.Trace, error) {
	s.synthetic.Seed = s.seed
	if s.trace != "" {
		t, err := traces.Load(s.trace, traces.Options{Format: s.format, Max: s.limit})
		if err == nil && cmd.Flags().Changed("request-rate") {
			err = t.Pace(s.synthetic.Rate, s.synthetic.Burstiness, s.seed)
		}
		return t, err
	}
	if s.synthetic.Requests = s.limit; s.limit == 0 {
		s.synthetic.Requests = 1000
	}
	for _, d := range []struct {
		flag, text string
		to         *traces.Lengths
	}{{"input-len", s.input, &s.synthetic.Input}, {"output-len", s.output, &s.synthetic.Output}, {"prefix-len", s.prefix, &s.synthetic.Prefix}} {
		lengths, err := traces.ParseLengths(d.text)
		if err != nil {
			return nil, usageError{fmt.Errorf("--%s: %w", d.flag, err)}
		}
		*d.to = lengths
	}
	return s.synthetic.Trace()
}

func (s *simulateCommand) configure(cmd *cobra.Command, t *traces.Trace) (cfg simulate.Config, sweeps []simulate.Sweep, err error) {
	cfg = simulate.DefaultConfig()
	cfg.Seed, cfg.RecordedPace = s.seed, s.uneven
	if s.profile == "" {
		s.profile = profile.Default
		s.say(cmd, "without --profile, steps cost what they do for "+profile.Default)
	}
	if cfg.Profile, err = profile.Named(s.profile); err != nil {
		return cfg, nil, err
	}
	if err := cfg.Set(t, "block-size", *s.settings["block-size"]); err != nil { // others depend on it
		return cfg, nil, err
	}
	for _, name := range simulate.Settings() {
		if v := s.settings[name]; v != nil {
			if err := cfg.Set(t, name, *v); err != nil {
				return cfg, nil, err
			}
		}
	}
	for _, text := range s.sweeps {
		sweep, err := simulate.ParseSweep(text)
		if err != nil {
			return cfg, nil, err
		}
		sweeps = append(sweeps, sweep)
	}
	for _, g := range s.goodput {
		metric, limit, _ := strings.Cut(g, ":")
		to := map[string]*float64{"ttft": &cfg.Goodput.TTFT, "tpot": &cfg.Goodput.TPOT, "e2el": &cfg.Goodput.E2EL}[metric]
		value, err := strconv.ParseFloat(limit, 64)
		if err != nil || to == nil || !(value > 0) {
			return cfg, nil, usageError{fmt.Errorf("--goodput %s: expected ttft, tpot or e2el and milliseconds, as in ttft:200", g)}
		}
		*to = value
	}
	return cfg, sweeps, nil
}

// asksOthers says whether a policy in another process is simulated.
func asksOthers(cfg simulate.Config, sweeps []simulate.Sweep) bool {
	policies, routings := []string{cfg.Policy}, []string{cfg.Routing}
	for _, s := range sweeps {
		switch s.Name {
		case "policy":
			policies = s.Values
		case "routing":
			routings = s.Values
		}
	}
	for _, cfg.Policy = range policies {
		for _, cfg.Routing = range routings {
			if cfg.External() || cfg.ExternalRouting() {
				return true
			}
		}
	}
	return false
}

// askOver asks policies in other processes over a connection.
func askOver(conn *nats.Conn) simulate.Asker {
	return func(ctx context.Context, q *scheduler.Question) *schemas.RankOutcome {
		return scheduler.Ask(ctx, conn, q)
	}
}

// files writes what goes to files.
func (s *simulateCommand) files(sweeps []simulate.Sweep, outcomes []simulate.Outcome) error {
	for _, f := range []struct {
		path  string
		write func(io.Writer, []simulate.Sweep, []simulate.Outcome) error
	}{{s.html, simulate.WriteHTML}, {s.png, simulate.WritePNG}} {
		if f.path == "" {
			continue
		}
		file, err := os.Create(f.path)
		if err != nil {
			return err
		}
		if err := f.write(file, sweeps, outcomes); err != nil {
			file.Close()
			return err
		}
		if err := file.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (s *simulateCommand) print(w io.Writer, sweeps []simulate.Sweep, outcomes []simulate.Outcome) error {
	if !s.series {
		for _, o := range outcomes {
			o.Report.Series = nil
		}
	}
	switch {
	case *s.json && len(sweeps) == 0:
		return printJSON(w, outcomes[0].Report)
	case *s.json:
		return printJSON(w, map[string]any{"sweeps": sweeps, "outcomes": outcomes})
	case s.csv:
		return simulate.WriteCSV(w, sweeps, outcomes)
	case len(sweeps) == 0:
		return outcomes[0].Report.WriteText(w)
	}
	return simulate.WriteTable(w, sweeps, outcomes)
}
