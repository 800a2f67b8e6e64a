package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// Config says whom a gateway works with and what it admits. A zero limit becomes its default.
type Config struct {
	Instance  schemas.Instance // of this gateway; default "gateway0"
	Scheduler schemas.Instance // the replica: also the instance of its memory and compute
	Tokenizer schemas.Instance

	ModelName string                 // default: what the engine calls its model
	Aliases   []string               // more names that requests may use
	Defaults  schemas.SamplingParams // from generation_config; a zero TopP means temperature 1, top_p 1

	RequestsMax         int   // requests at once; more get 429. Default 512
	BodyBytesMax        int64 // of an HTTP request; default bus.PayloadBytesMax
	HeaderBytesMax      int   // of an HTTP request; default 64 KiB
	PromptTokensMax     int32 // of one prompt; 0 leaves it to the context
	OutputTokensDefault int32 // max_tokens of requests that name none, if the context leaves as much. Default 1024
	OutputTokensMax     int32 // largest max_tokens a request may name; 0 leaves it to the context
	QueueBytesMax       int   // text waiting for one slow client; beyond it the request is cancelled. Default 256 KiB

	HeaderTimeMax  time.Duration // to send the request headers. Default 10 s
	BodyTimeMax    time.Duration // to send the body. Default 30 s
	WriteTimeMax   time.Duration // for one write to a client that does not read. Default 30 s
	IdleTimeMax    time.Duration // between requests of a connection. Default 2 min
	RequestTimeMax time.Duration // from admission to the last token. Default 30 min
	KeepAliveEvery time.Duration // between comments on a silent event stream. Default 15 s
	StallTimeMax   time.Duration // without a token: the request is submitted again, which is harmless. Default 30 s

	Registry *prometheus.Registry // for the metrics; default: a new one
	Log      zerolog.Logger
	Version  string // shown by /health; default bus.BuildVersion
}

func (c Config) withDefaults() Config {
	orDefault(&c.Instance, "gateway0")
	if c.Defaults.TopP == 0 {
		c.Defaults.Temperature, c.Defaults.TopP = 1, 1
	}
	orDefault(&c.RequestsMax, 512)
	orDefault(&c.BodyBytesMax, bus.PayloadBytesMax)
	orDefault(&c.HeaderBytesMax, 64<<10)
	orDefault(&c.OutputTokensDefault, 1024)
	orDefault(&c.QueueBytesMax, 256<<10)
	orDefault(&c.HeaderTimeMax, 10*time.Second)
	orDefault(&c.BodyTimeMax, 30*time.Second)
	orDefault(&c.WriteTimeMax, 30*time.Second)
	orDefault(&c.IdleTimeMax, 2*time.Minute)
	orDefault(&c.RequestTimeMax, 30*time.Minute)
	orDefault(&c.KeepAliveEvery, 15*time.Second)
	orDefault(&c.StallTimeMax, 30*time.Second)
	orDefault(&c.Version, bus.BuildVersion)
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	return c
}

func orDefault[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// Validate names the first setting that cannot work.
func (c *Config) Validate() *schemas.Error {
	bad := func(param string, value, want any) *schemas.Error {
		return schemas.Errorf(schemas.KindInvalid, "configure gateway", "%s is %v; expected %v", param, value, want).WithParam(param)
	}
	switch {
	case c.Scheduler == "":
		return bad("Scheduler", `""`, "the instance name of a scheduler")
	case c.Tokenizer == "":
		return bad("Tokenizer", `""`, "the instance name of a tokenizer")
	case c.RequestsMax < 0:
		return bad("RequestsMax", c.RequestsMax, "a positive count")
	case c.BodyBytesMax < 0:
		return bad("BodyBytesMax", c.BodyBytesMax, "a positive count of bytes")
	case c.HeaderBytesMax < 0:
		return bad("HeaderBytesMax", c.HeaderBytesMax, "a positive count of bytes")
	case c.PromptTokensMax < 0:
		return bad("PromptTokensMax", c.PromptTokensMax, "0 or a positive count")
	case c.OutputTokensDefault < 0:
		return bad("OutputTokensDefault", c.OutputTokensDefault, "a positive count")
	case c.OutputTokensMax < 0:
		return bad("OutputTokensMax", c.OutputTokensMax, "0 or a positive count")
	case c.QueueBytesMax < 0:
		return bad("QueueBytesMax", c.QueueBytesMax, "a positive count of bytes")
	}
	for name, d := range map[string]time.Duration{"HeaderTimeMax": c.HeaderTimeMax, "BodyTimeMax": c.BodyTimeMax,
		"WriteTimeMax": c.WriteTimeMax, "IdleTimeMax": c.IdleTimeMax, "RequestTimeMax": c.RequestTimeMax,
		"KeepAliveEvery": c.KeepAliveEvery, "StallTimeMax": c.StallTimeMax} {
		if d < 0 {
			return bad(name, d, "a positive duration")
		}
	}
	if c.Defaults.TopP != 0 {
		return c.Defaults.Validate()
	}
	return nil
}
