package gateway

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/toolcalls"
	"github.com/troupe-engine/troupe/schemas"
)

// Config says whom a gateway works with and what it admits. A zero limit becomes its default.
type Config struct {
	Instance  schemas.Instance // of this gateway; default "gateway0"
	Scheduler schemas.Instance // the replica: also the instance of its memory and compute
	Tokenizer schemas.Instance // its own, for its own model; "" uses those of a pool, nodes of the cluster with tokenizers, as for other models

	ModelName  string                 // its own, which requests get that name none; default: what the engine calls its model
	Aliases    []string               // more names that requests may use
	ToolFormat toolcalls.Format       // how the model writes calls; default: what its chat template speaks of, or else Hermes
	Defaults   schemas.SamplingParams // from generation_config; a zero TopP means temperature 1, top_p 1

	Cluster *Cluster // route to all replicas that report, and go on elsewhere when one is lost; nil: work with Scheduler alone

	APIKeys      []string // over HTTP every request must carry one of them; none lets everybody in
	AdminKeys    []string // are API keys, and moreover allow what others do not: submitting kernels
	KeylessPaths []string // need no key, nor do the paths below them. Default /health and /metrics
	CORSOrigins  []string // whose pages may use the API: "https://example.org", or "*" for all

	RequestsMax         int   // requests at once; more get 429. Default 512
	KeyRequestsMax      int   // of them with one API key; 0 is no limit
	ConnectionsMax      int   // TCP connections at once; more are closed. Default 16384
	ReadBytesMax        int64 // bodies being read at once; more get 429. Default 256 MiB
	BodyBytesMax        int64 // of an HTTP request; default bus.PayloadBytesMax
	HeaderBytesMax      int   // of an HTTP request; default 64 KiB
	PromptTokensMax     int32 // of one prompt; 0 leaves it to the context
	OutputTokensDefault int32 // max_tokens of requests that name none, if the context leaves as much. Default 1024
	OutputTokensMax     int32 // largest max_tokens a request may name; 0 leaves it to the context
	QueueBytesMax       int   // text waiting for one slow client; beyond it the request is cancelled. Default 256 KiB

	WaitMax        time.Duration // for its turn, that a new request may expect; longer gets 429. 0 is no limit
	HeaderTimeMax  time.Duration // to send the request headers. Default 10 s
	BodyTimeMax    time.Duration // to send the body. Default 30 s
	WriteTimeMax   time.Duration // for one write to a client that does not read. Default 30 s
	IdleTimeMax    time.Duration // between requests of a connection. Default 2 min
	RequestTimeMax time.Duration // from admission to the last token. Default 30 min
	KeepAliveEvery time.Duration // between comments on a silent event stream. Default 15 s
	StallTimeMax   time.Duration // without a token: the request is submitted again, which is harmless. Default 30 s

	// Health says why the process should be replaced, nil while it need not: /health tells. nil: it never should.
	Health func() *schemas.Error

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
	orDefault(&c.ConnectionsMax, 16384)
	if c.KeylessPaths == nil {
		c.KeylessPaths = []string{"/health", "/metrics"}
	}
	orDefault(&c.BodyBytesMax, bus.PayloadBytesMax)
	orDefault(&c.ReadBytesMax, max(256<<20, c.BodyBytesMax))
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
	case c.Cluster != nil && c.ModelName == "":
		return bad("ModelName", `""`, "a name, by which replicas are known")
	case c.Tokenizer == "" && c.Cluster == nil:
		return bad("Tokenizer", `""`, "the instance name of a tokenizer, or a Cluster whose tokenizers to use")
	}
	for _, f := range []struct {
		param string
		value int64
		want  string
	}{{"RequestsMax", int64(c.RequestsMax), "a positive count"}, {"KeyRequestsMax", int64(c.KeyRequestsMax), "0 or a positive count"},
		{"ConnectionsMax", int64(c.ConnectionsMax), "a positive count"}, {"ReadBytesMax", c.ReadBytesMax, "a positive count of bytes"},
		{"BodyBytesMax", c.BodyBytesMax, "a positive count of bytes"}, {"HeaderBytesMax", int64(c.HeaderBytesMax), "a positive count of bytes"},
		{"PromptTokensMax", int64(c.PromptTokensMax), "0 or a positive count"}, {"OutputTokensDefault", int64(c.OutputTokensDefault), "a positive count"},
		{"OutputTokensMax", int64(c.OutputTokensMax), "0 or a positive count"}, {"QueueBytesMax", int64(c.QueueBytesMax), "a positive count of bytes"}} {
		if f.value < 0 {
			return bad(f.param, f.value, f.want)
		}
	}
	if c.ToolFormat != "" && !slices.Contains(toolcalls.Formats(), c.ToolFormat) {
		return bad("ToolFormat", c.ToolFormat, toolcalls.Formats())
	}
	for i, path := range c.KeylessPaths {
		if !strings.HasPrefix(path, "/") || len(path) > 1 && strings.HasSuffix(path, "/") {
			return bad(fmt.Sprintf("KeylessPaths[%d]", i), path, "a path such as /metrics")
		}
	}
	for i, origin := range c.CORSOrigins {
		if u, err := url.Parse(origin); origin != "*" && (err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != origin) {
			return bad(fmt.Sprintf("CORSOrigins[%d]", i), origin, "* or an origin such as https://example.org")
		}
	}
	if err := checkKeys(slices.Concat(c.APIKeys, c.AdminKeys)); err != nil {
		return schemas.AsError(err, "configure gateway")
	}
	for name, d := range map[string]time.Duration{"WaitMax": c.WaitMax, "HeaderTimeMax": c.HeaderTimeMax, "BodyTimeMax": c.BodyTimeMax,
		"WriteTimeMax": c.WriteTimeMax, "IdleTimeMax": c.IdleTimeMax, "RequestTimeMax": c.RequestTimeMax,
		"KeepAliveEvery": c.KeepAliveEvery, "StallTimeMax": c.StallTimeMax} {
		if d < 0 {
			return bad(name, d, "0 or a positive duration")
		}
	}
	if c.Defaults.TopP != 0 {
		return c.Defaults.Validate()
	}
	return nil
}
