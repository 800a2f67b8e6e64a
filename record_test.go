package troupe

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/defaultmodel"
	"github.com/troupe-engine/troupe/internal/recording"
	"github.com/troupe-engine/troupe/internal/replay"
	"github.com/troupe-engine/troupe/internal/soak"
	"github.com/troupe-engine/troupe/schemas"
)

var recordDuration = flag.Duration("record.duration", 3*time.Second, "how long TestRecordAndReplay records mixed load")

// recordLoad loads an engine with everything: streams, aborts, bad requests, bursts, n > 1, preemption. It records the second
// half of the time, so that the recording begins while requests run.
func recordLoad(t *testing.T, path string, opts recording.Options, changes ...func(*Options)) {
	t.Helper()
	e := openOn(t, network{}, func(o *Options) {
		o.BlockSize, o.KVBlocks, o.SequencesMax, o.TokensStepMax = 8, 64, 12, 64
		o.RequestsMax, o.WaitingMax = 32, 24
		for _, change := range changes {
			change(o)
		}
	})
	c := clientOf(t, e)
	ctx, cancel := context.WithTimeout(context.Background(), *recordDuration+time.Minute)
	defer cancel()
	loaded := make(chan *soak.Report, 1)
	go func() {
		loaded <- soak.Run(ctx, c, soak.Config{Duration: *recordDuration, Round: *recordDuration / 3, Seed: 3, Burst: 96, Log: t.Logf, Process: func() soak.Process { return soak.Process{} }})
	}()
	time.Sleep(*recordDuration / 3)
	opts.Warn = func(err error) { t.Error(err) }
	r, _, err := recording.Start(ctx, c.Conn, path, opts)
	if err != nil {
		t.Fatal(err)
	}
	report := <-loaded
	for _, f := range report.Failures {
		t.Error(f)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if s := r.Stats(); s.Lost > 0 || s.Entries == 0 {
		t.Errorf("recorded %+v", s)
	}
}

// feed gives the entries of a recording to the takers.
func feed(t *testing.T, path string, takers ...func(*recording.Entry) error) *recording.Reader {
	t.Helper()
	r, err := recording.Open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	for {
		e, err := r.Next()
		if err == io.EOF {
			return r
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, take := range takers {
			if err := take(e); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestRecordAndReplay: what is recorded of a loaded engine runs again with the same decisions and the same tokens; another
// policy decides differently, and the replay says where.
func TestRecordAndReplay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "load.troupe")
	recordLoad(t, path, recording.Options{Source: "test"})
	name := "scheduler." + string(replicaInstance)
	same, other := &replay.Scheduler{}, &replay.Scheduler{Change: func(c *scheduler.Config) { c.Policy = "shortest" }}
	same.Report.Actor, other.Report.Actor = name, name
	memory := &replay.Memory{Scheduler: name}
	engine := replayEngine(name)
	feed(t, path, same.Take, other.Take, memory.Take, engine.Take)
	if err := engine.Close(); err != nil {
		t.Error(err)
	}

	t.Logf("scheduler: %d events; memory: %d; engine: %d steps, %d tokens", same.Report.Events, memory.Report.Events, engine.Report.Steps, engine.Report.Tokens)
	for _, d := range append(append(same.Report.Divergences, memory.Report.Divergences...), engine.Report.Divergences...) {
		t.Errorf("nothing was changed, but %+v", d)
	}
	if same.Report.Runs != 1 || same.Report.Events < 100 || memory.Report.Events < 30 || engine.Report.Tokens < 30 {
		t.Error("too little was replayed")
	}
	if len(other.Report.Divergences) != 1 || other.Report.Divergences[0].Why == "" {
		t.Errorf("another policy: %+v", other.Report.Divergences)
	} else {
		d := other.Report.Divergences[0]
		t.Logf("another policy differs first at step %d: %s; %s; because %s", d.Step, d.Recorded, d.Replayed, d.Why)
	}
}

// replayEngine computes again what the default model did, with keys and values as they were.
func replayEngine(scheduler string) *replay.Engine {
	return &replay.Engine{Scheduler: scheduler, Open: func(p *schemas.SchedulerCheckpoint, m *recording.Manifest) (replay.Compute, error) {
		dev, err := OpenDevice(Options{Device: "cpu"})
		if err != nil {
			return nil, err
		}
		return replay.OpenCompute(dev, defaultmodel.Name, defaultmodel.Files(), p, gpu.DTypeByName(m.Schedulers[0].Compute.KV[0].DType), "", zerolog.Nop())
	}}
}

// TestRecordAndReplayInt8: with keys and values of 8 bits, which preemption computes anew, prefixes share and forks copy,
// the same tokens come again.
func TestRecordAndReplayInt8(t *testing.T) {
	path := filepath.Join(t.TempDir(), "int8.troupe")
	recordLoad(t, path, recording.Options{Source: "test"}, func(o *Options) { o.KVDType = "int8" })
	engine := replayEngine("scheduler." + string(replicaInstance))
	feed(t, path, engine.Take)
	if err := engine.Close(); err != nil {
		t.Error(err)
	}
	for _, d := range engine.Report.Divergences {
		t.Errorf("nothing was changed, but %+v", d)
	}
	if engine.Report.Tokens < 30 {
		t.Error("too little was replayed")
	}
}

// TestRecordedFaultsAreReplayed: a recording of an engine under faults says which message suffered what, and with that the
// decisions replay without a difference.
func TestRecordedFaultsAreReplayed(t *testing.T) {
	qs := questions(t, 16)
	e := openOn(t, network{attemptTimeMax: 40 * time.Millisecond, stepTimeMax: 2 * time.Second}, func(o *Options) {
		o.BlockSize, o.KVBlocks, o.SequencesMax, o.TokensStepMax, o.EnableFaults = 8, 64, 12, 64, true
	})
	c := clientOf(t, e)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	path := filepath.Join(t.TempDir(), "faults.troupe")
	r, _, err := recording.Start(ctx, c.Conn, path, recording.Options{Source: "test", Warn: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	postFaults(t, e, `{"plan":{"seed":3,"rules":[{"kind":"out_of_blocks","subject":"inf.v1.memory.>","probability":0.2},
		{"kind":"slow_device","subject":"inf.v1.compute.execute.*","probability":0.2,"delay_us":3000},
		{"kind":"duplicate","subject":"inf.v1.memory.reserve.*","probability":0.2},
		{"kind":"drop","subject":"inf.v1.*.*.replica0.reply","probability":0.03}]}}`)
	wrong, _ := askAll(ctx, t, c, qs, 1, func(*soak.Ending) bool { return false })
	for _, w := range wrong {
		t.Error(w)
	}
	happened := e.node.FaultsState()
	if _, err := c.WaitQuiet(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	name := "scheduler." + string(replicaInstance)
	scheduler, memory, recorded, story := &replay.Scheduler{}, &replay.Memory{Scheduler: name}, map[int32]uint64{}, recording.Story{}
	scheduler.Report.Actor = name
	var told []string
	feed(t, path, scheduler.Take, memory.Take, func(e *recording.Entry) error {
		if e.Fault != nil {
			recorded[e.Fault.Rule]++
			for _, line := range story.Tell(e) {
				told = append(told, line.Actor+": "+line.Text)
			}
		}
		return nil
	})
	for _, d := range append(scheduler.Report.Divergences, memory.Report.Divergences...) {
		t.Errorf("nothing was changed, but %+v", d)
	}
	for rule, st := range happened.Rules {
		if recorded[int32(rule)] < st.Faults || st.Faults == 0 {
			t.Errorf("%s: %d faults, %d recorded", st.Rule, st.Faults, recorded[int32(rule)])
		}
	}
	if all := strings.Join(told, "\n"); !strings.Contains(all, "memory.replica0: fault: out_of_blocks of inf.v1.memory.reserve.replica0, its message ") {
		t.Errorf("the story of the faults: %.2000s", all)
	}
	if memory.Report.Events < 30 {
		t.Errorf("%d answers of memory were compared: too few", memory.Report.Events)
	}
}

// TestRedactedRecording: no text and no token of it is in the file, and it still replays.
func TestRedactedRecording(t *testing.T) {
	path := filepath.Join(t.TempDir(), "redacted.troupe")
	recordLoad(t, path, recording.Options{Source: "test", Redact: true})
	name := "scheduler." + string(replicaInstance)
	s := &replay.Scheduler{}
	s.Report.Actor = name
	r := feed(t, path, s.Take, func(e *recording.Entry) error {
		if e.Request != nil && e.Request.Body != "" || e.Delivery != nil && len(e.Delivery.Message) > 0 {
			return errors.New("a text is recorded")
		}
		if e.Scheduler != nil && e.Scheduler.Submit != nil {
			small := 0
			for _, id := range e.Scheduler.Submit.Tokens {
				if id < 4096 {
					small++
				}
			}
			if n := len(e.Scheduler.Submit.Tokens); n > 20 && small > n/4 {
				return errors.New("tokens are recorded as they are")
			}
		}
		return nil
	})
	if m := r.Manifests()[0]; !m.Redacted || m.Partial {
		t.Errorf("manifest %+v", m)
	}
	for _, d := range s.Report.Divergences {
		t.Errorf("nothing was changed, but %+v", d)
	}
	if s.Report.Events < 100 {
		t.Errorf("only %d events were replayed", s.Report.Events)
	}
}

// TestFilteredRecording has only what it was asked for, and refuses to be what it is not.
func TestFilteredRecording(t *testing.T) {
	path := filepath.Join(t.TempDir(), "few.troupe")
	recordLoad(t, path, recording.Options{Source: "test", Filter: recording.Filter{Sample: 0.1}})
	all, about := map[schemas.RequestID]bool{}, 0
	r := feed(t, path, func(e *recording.Entry) error {
		if ids := recording.RequestsOf(&e.JournalEntry); len(ids) == 0 {
			return errors.New("an entry about no request")
		}
		if e.Request != nil {
			all[e.Request.Request] = true
		}
		about++
		return nil
	})
	if m := r.Manifests()[0]; !m.Partial || !strings.Contains(m.Filter, "0.1 of the requests") {
		t.Errorf("manifest %+v", m)
	}
	if len(r.Gaps()) != 0 || about == 0 {
		t.Errorf("%d entries, gaps %v", about, r.Gaps())
	}
	t.Logf("%d requests, %d entries", len(all), about)
}

// TestRecordContinues: a second recorder adds a part to the file, and refuses a file of another kind.
func TestRecordContinues(t *testing.T) {
	e := openOn(t, network{}, nil)
	c := clientOf(t, e)
	path := filepath.Join(t.TempDir(), "two.troupe")
	for range 2 {
		r, _, err := recording.Start(context.Background(), c.Conn, path, recording.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := complete(t, e, `{"prompt":"Once","max_tokens":4,"temperature":0}`); got == "" {
			t.Error("no answer")
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := &replay.Scheduler{}
	s.Report.Actor = "scheduler." + string(replicaInstance)
	r := feed(t, path, s.Take)
	for _, m := range r.Manifests() {
		if len(m.Schedulers) != 1 || m.Schedulers[0].Compute == nil || !strings.HasPrefix(m.Schedulers[0].Compute.Weights, "sha256:") {
			t.Errorf("the manifest does not name the weights: %+v", m.Schedulers)
		}
	}
	if len(r.Manifests()) != 2 || s.Report.Runs != 2 || len(s.Report.Divergences) != 0 || len(r.Gaps()) != 0 {
		t.Errorf("%d parts, %+v, gaps %v", len(r.Manifests()), s.Report, r.Gaps())
	}
	if err := os.WriteFile(path, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := recording.Start(context.Background(), c.Conn, path, recording.Options{}); err == nil || !strings.Contains(err.Error(), "not a recording") {
		t.Error(err)
	}
}

// TestAStreamWithLimitsKeepsACheckpoint: what is left of a stream that forgets its oldest entries, also after the engine was
// started again, can be run from.
func TestAStreamWithLimitsKeepsACheckpoint(t *testing.T) {
	store := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	warn := func(err error) { t.Error(err) }
	for start := range 2 {
		e := openOn(t, network{}, func(o *Options) { o.Store = store })
		c := clientOf(t, e)
		if start == 0 {
			if err := recording.RecordStream(ctx, c.Conn, "small", recording.StreamLimits{Bytes: 64 << 10}, warn); err != nil {
				t.Fatal(err)
			}
		}
		for range 12 {
			complete(t, e, `{"prompt":"Once upon a time","max_tokens":120,"temperature":0}`)
			time.Sleep(100 * time.Millisecond) // the scheduler looks at it as time goes by
		}
		path := filepath.Join(t.TempDir(), "rest.troupe")
		if _, err := recording.Export(ctx, c.Conn, "small", path, warn, nil); err != nil {
			t.Fatal(err)
		}
		checkpoints := 0
		s := &replay.Scheduler{}
		s.Report.Actor = "scheduler." + string(replicaInstance)
		feed(t, path, s.Take, func(r *recording.Entry) error {
			if r.Number == 1 && start == 0 {
				t.Error("nothing was forgotten: the test is too short")
			}
			if r.Scheduler != nil && r.Scheduler.Checkpoint != nil {
				checkpoints++
			}
			return nil
		})
		if checkpoints == 0 || s.Report.Runs == 0 || len(s.Report.Divergences) > 0 {
			t.Errorf("start %d: %d checkpoints, %+v", start, checkpoints, s.Report)
		}
		e.Close()
	}
}
