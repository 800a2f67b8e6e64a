package troupe

import (
	"errors"
	"math"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

func TestOptionsThatMakeNoSenseAreRefusedByName(t *testing.T) {
	good := DefaultOptions()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*Options)
		param  string
	}{
		"no sequences":             {func(o *Options) { o.SequencesMax = 0 }, "sequences_max"},
		"a queue beyond int32":     {func(o *Options) { o.WaitingMax = math.MaxInt32 + 1 }, "waiting_max"},
		"negative blocks":          {func(o *Options) { o.KVBlocks = -1 }, "kv_blocks"},
		"negative bytes":           {func(o *Options) { o.KVBytesMax = -1 }, "kv_bytes_max"},
		"negative cache":           {func(o *Options) { o.WeightsCacheBytesMax = -1 }, "weights_cache_bytes_max"},
		"no pipeline":              {func(o *Options) { o.PipelineDepth = 0 }, "pipeline_depth"},
		"deeper than compute":      {func(o *Options) { o.PipelineDepth = 9 }, "pipeline_depth"},
		"a budget below sequences": {func(o *Options) { o.TokensStepMax = o.SequencesMax - 1 }, "tokens_step_max"},
		"no grace":                 {func(o *Options) { o.Grace = -1 }, "grace"},
		"an unknown device":        {func(o *Options) { o.Device = "abacus" }, "device"},
		"an unknown tool format":   {func(o *Options) { o.ToolFormat = "semaphore" }, "tool_format"},
		"an unknown log level":     {func(o *Options) { o.LogLevel = "loud" }, "log_level"},
		"an unknown log format":    {func(o *Options) { o.LogFormat = "braille" }, "log_format"},
	} {
		o := DefaultOptions()
		c.change(&o)
		var e *schemas.Error
		if err := o.Validate(); !errors.As(err, &e) || e.Param != c.param {
			t.Errorf("%s: %v; want an error naming %s", name, err, c.param)
		}
	}
}
