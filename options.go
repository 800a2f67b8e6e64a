package troupe

import (
	"fmt"
	"math"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/actors/memory"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/replica"
	"github.com/troupe-engine/troupe/internal/routing"
	"github.com/troupe-engine/troupe/internal/toolcalls"
	"github.com/troupe-engine/troupe/schemas"
)

// Options configure an engine. The same names, in this order of precedence, are flags (--kv-blocks),
// environment variables (TROUPE_KV_BLOCKS) and keys of a YAML file (kv_blocks: 4096).
type Options struct {
	Model string `yaml:"model" doc:"a model's name or directory; see troupe models"`

	HTTP       string `yaml:"http" doc:"address of the HTTP API, host:port; port 0 picks a free one, none serves no HTTP"`
	NATSListen string `yaml:"nats_listen" doc:"address of the embedded NATS server, host:port; port 0 picks a free one, none accepts no connections; default from nats.conf"`
	NATSConfig string `yaml:"nats_config" doc:"a nats.conf for the embedded server instead of the built-in one"`

	Leaf            string        `yaml:"leaf" doc:"address at which other nodes may join this one, host:port; see troupe attach"`
	Attach          string        `yaml:"attach" doc:"join the nodes at this address, as nats-leaf://host:7422; several are separated by commas"`
	Actors          string        `yaml:"actors" doc:"which actors run here, separated by commas: gateway, tokenizer, replica, or a replica's parts on nodes of their own: scheduler (with memory) and compute"`
	Tokenizers      string        `yaml:"tokenizers" doc:"whose tokenizers a gateway uses: own, or shared, those of nodes that play tokenizer"`
	Node            string        `yaml:"node" doc:"name of this node among those that work together; default: a random one"`
	ReplicaPhase    string        `yaml:"replica_phase" doc:"what requests a replica is for: both; prefill computes prompts, and hands their KV over to replicas with decode, which go on from there"`
	KVListen        string        `yaml:"kv_listen" doc:"address at which a replica with replica_phase prefill hands KV over to other machines, host:port; none: through shared memory on this one alone"`
	Routing         string        `yaml:"routing" doc:"how gateways choose between replicas: prefix, least-loaded, two-choices, round-robin, one of your own, or nats:NAME for one in another process"`
	Credentials     string        `yaml:"credentials" doc:"file with the nkey seed to join other nodes with; see troupe keys"`
	TLSCA           string        `yaml:"tls_ca" doc:"PEM file with the authority that other nodes' certificates must be of"`
	TLSCert         string        `yaml:"tls_cert" doc:"PEM file with this node's certificate, for other nodes"`
	TLSKey          string        `yaml:"tls_key" doc:"PEM file with the key to tls_cert"`
	InsecureNetwork bool          `yaml:"insecure_network" doc:"DANGER: let NATS and other nodes in from beyond this machine without TLS and credentials; whoever reaches the port controls the engine"`
	InsecureHTTP    bool          `yaml:"insecure_http" doc:"DANGER: serve HTTP beyond this machine without API keys; whoever reaches the port may use and debug the engine"`
	Isolate         bool          `yaml:"isolate" doc:"run the replica in a process of its own, which is started again when it or its device fails; requests wait and go on. For a GPU in production"`
	RestartWaitMax  time.Duration `yaml:"restart_wait_max" doc:"how long a request waits for another replica, or one that is started again, when its own is lost; 0 is 10s in a cluster and 2m with isolate"`
	ReplicaSilence  time.Duration `yaml:"replica_silence" doc:"a replica that has not reported for so long is given up, and its requests go on elsewhere"`
	Store           string        `yaml:"store" doc:"directory in which the embedded NATS server keeps streams (JetStream), for troupe record --stream; empty has none"`

	Device               string `yaml:"device" doc:"auto, cpu or cuda; auto is cuda if such a device opens, otherwise cpu"`
	Compute              string `yaml:"compute" doc:"f32, or bf16: on CUDA activations, keys and values are bf16, which is several times as fast; on the CPU products with bf16 weights round activations to it, which is up to twice as fast"`
	Quant                string `yaml:"quant" doc:"quantize weights while they load: off, q8 or q4 (blocks of 32 with 8 or 4 bits), or fp8 (8-bit floats, on CUDA with --compute bf16); ones that are quantized already stay as they are"`
	KVDType              string `yaml:"kv_dtype" doc:"type of keys and values: auto is the checkpoint's own where the device has it, otherwise that of compute; f32 is what goldens are held to, int8 (CPU) takes a quarter of its memory"`
	WeightsCache         string `yaml:"weights_cache" doc:"directory with packed weights that processes on this machine share, Linux only: off, auto (in the user's cache directory) or a path; who can write to it decides what models answer"`
	WeightsCacheBytesMax int64  `yaml:"weights_cache_bytes_max" doc:"bytes that weights_cache keeps: beyond them, what was used last longest ago goes; 0 is no bound"`
	RandomWeights        int64  `yaml:"random_weights" doc:"draw the weights at random from this seed, to measure a shape: the model's directory then needs a config.json and a tokenizer alone; 0 reads them"`
	Threads              int    `yaml:"threads" doc:"CPU threads that compute; 0 is all"`

	ContextMax    int    `yaml:"context_max" doc:"tokens of prompt and output together; 0 is the model's limit"`
	SequencesMax  int    `yaml:"sequences_max" doc:"sequences running at once"`
	WaitingMax    int    `yaml:"waiting_max" doc:"sequences queued; more are refused with 429"`
	TokensStepMax int    `yaml:"tokens_step_max" doc:"token budget of one step (chunked prefill)"`
	BlockSize     int    `yaml:"block_size" doc:"tokens per KV block"`
	KVBlocks      int    `yaml:"kv_blocks" doc:"KV blocks; 0 sizes the pool from memory"`
	KVBytesMax    int64  `yaml:"kv_bytes_max" doc:"bytes of KV blocks when kv_blocks is 0; 0 is nine tenths of what the weights leave free on a GPU, elsewhere a quarter of it and at most 4 GiB"`
	PrefixCache   bool   `yaml:"prefix_cache" doc:"reuse the KV blocks of common prefixes"`
	Eviction      string `yaml:"eviction" doc:"which cached KV blocks go first when memory is short: lru, lfu, fifo or priority"`
	Policy        string `yaml:"policy" doc:"scheduling policy: fcfs, priority, shortest, fair, deadline, prefix, one of your own, or nats:NAME for one in another process"`
	StepCosts     string `yaml:"step_costs" doc:"what policies that foretell times (deadline, shortest) expect steps to take: the name or file of a profile (troupe profile), bucket for this device's and model's in the JetStream bucket, or empty to learn from answers only"`
	Shadow        string `yaml:"shadow" doc:"a second policy that sees every decision and changes none; troupe policy shadow shows what it would have done"`
	PipelineDepth int    `yaml:"pipeline_depth" doc:"steps planned or running at once; 2 hides the host's work"`

	RequestsMax         int           `yaml:"requests_max" doc:"requests at once; more are refused with 429"`
	WaitMax             time.Duration `yaml:"wait_max" doc:"how long a new request may expect to wait for its turn, as measured; one that would wait longer is refused with 429; 0 is no limit"`
	OutputTokensDefault int           `yaml:"output_tokens_default" doc:"max_tokens of requests that name none"`
	OutputTokensMax     int           `yaml:"output_tokens_max" doc:"largest max_tokens a request may name; 0 leaves it to the context"`
	PromptTokensMax     int           `yaml:"prompt_tokens_max" doc:"tokens of one prompt; 0 leaves it to the context"`
	BodyBytesMax        int64         `yaml:"body_bytes_max" doc:"bytes of an HTTP request's body; 0 is what a NATS message holds"`
	ConnectionsMax      int           `yaml:"connections_max" doc:"TCP connections of the HTTP API at once"`
	APIKeys             string        `yaml:"api_keys" doc:"API keys, separated by commas, or @ and a file with one per line; without any, everybody may use the API"`
	AdminKeys           string        `yaml:"admin_keys" doc:"API keys that moreover allow what enable_kernel_submit offers over HTTP; like api_keys"`
	KeylessPaths        string        `yaml:"keyless_paths" doc:"HTTP paths that need no API key, separated by commas"`
	KeyRequestsMax      int           `yaml:"key_requests_max" doc:"requests at once with one API key; more are refused with 429; 0 is no limit"`
	CORSOrigins         string        `yaml:"cors_origins" doc:"origins whose web pages may use the API, separated by commas; * is all"`
	Grace               time.Duration `yaml:"grace" doc:"how long running answers may take after a signal to stop"`

	ToolFormat string `yaml:"tool_format" doc:"how the model writes calls of functions: auto (as its chat template says), hermes, llama3, mistral or mistral-args"`

	EnableFaults       bool `yaml:"enable_faults" doc:"DANGER: let whoever may use /debug or the bus lose, delay, repeat and refuse the actors' messages (troupe faults); requests fail on purpose then"`
	EnableKernelSubmit bool `yaml:"enable_kernel_submit" doc:"DANGER: let whoever may use the bus, or /debug with an admin key, run CUDA code of theirs on the GPU (troupe kernels submit): it can read all of the engine's device memory, answer wrongly, and end the device"`

	LogLevel  string `yaml:"log_level" doc:"trace, debug, info, warn or error"`
	LogFormat string `yaml:"log_format" doc:"console or json"`
}

// quants are the values of Options.Quant.
var quants = map[string]string{"off": model.QuantizeOff, "q8": model.QuantizeQ8, "q4": model.QuantizeQ4, "fp8": model.QuantizeFP8}

// kvTypes are the values of Options.KVDType.
var kvTypes = map[string]gpu.DType{"auto": 0, "f32": gpu.F32, "bf16": gpu.BF16, "int8": gpu.I8}

// DefaultOptions serve the model that ships with the binary on this machine only.
func DefaultOptions() Options {
	return Options{HTTP: "127.0.0.1:8000", Actors: strings.Join(rolesDefault, ","), Tokenizers: TokenizersOwn, ReplicaPhase: PhaseBoth, KVListen: "127.0.0.1:0", Routing: routing.PolicyDefault, ReplicaSilence: 1500 * time.Millisecond, Device: "auto", Compute: "f32", Quant: "off", KVDType: "auto", WeightsCache: "off", WeightsCacheBytesMax: 64 << 30, SequencesMax: replica.SequencesDefault, WaitingMax: replica.WaitingDefault,
		TokensStepMax: replica.TokensStepDefault, BlockSize: replica.BlockSizeDefault, PrefixCache: true, Eviction: "lru", Policy: replica.PolicyDefault,
		PipelineDepth: replica.DepthDefault, RequestsMax: 512, WaitMax: 10 * time.Second, OutputTokensDefault: 256, ConnectionsMax: 16384,
		KeylessPaths: "/health,/metrics", Grace: 30 * time.Second, ToolFormat: "auto", LogLevel: "info", LogFormat: "console"}
}

// Validate names the first option that makes no sense by itself; what depends on the model or the machine
// is found by Open.
func (o *Options) Validate() error {
	bad := func(key string, value any, want string) error {
		return schemas.Errorf(schemas.KindInvalid, "configuration", "%s is %v; expected %s", key, value, want).WithParam(key)
	}
	for _, f := range []struct {
		key           string
		value, lowest int
	}{{"threads", o.Threads, 0}, {"context_max", o.ContextMax, 0}, {"kv_blocks", o.KVBlocks, 0}, {"sequences_max", o.SequencesMax, 1},
		{"waiting_max", o.WaitingMax, 1}, {"tokens_step_max", o.TokensStepMax, 1}, {"block_size", o.BlockSize, 1},
		{"pipeline_depth", o.PipelineDepth, 1}, {"requests_max", o.RequestsMax, 1}, {"output_tokens_default", o.OutputTokensDefault, 1},
		{"output_tokens_max", o.OutputTokensMax, 0}, {"prompt_tokens_max", o.PromptTokensMax, 0}, {"key_requests_max", o.KeyRequestsMax, 0},
		{"connections_max", o.ConnectionsMax, 1}} {
		if f.value < f.lowest || f.value > math.MaxInt32 { // counts travel as int32
			return bad(f.key, f.value, fmt.Sprintf("%d to %d", f.lowest, math.MaxInt32))
		}
	}
	_, quantKnown := quants[o.Quant]
	_, kvKnown := kvTypes[o.KVDType]
	switch {
	case !slices.Contains(memory.Evictions(), o.Eviction):
		return bad("eviction", o.Eviction, "one of "+strings.Join(memory.Evictions(), ", "))
	case o.PipelineDepth > replica.DepthMax:
		return bad("pipeline_depth", o.PipelineDepth, fmt.Sprintf("1 to %d", replica.DepthMax))
	case o.RandomWeights < 0:
		return bad("random_weights", o.RandomWeights, "a seed above 0, or 0 to read the weights")
	case o.KVBytesMax < 0:
		return bad("kv_bytes_max", o.KVBytesMax, "0 or more bytes")
	case o.WeightsCacheBytesMax < 0:
		return bad("weights_cache_bytes_max", o.WeightsCacheBytesMax, "0 or more bytes")
	case o.TokensStepMax < o.SequencesMax:
		return bad("tokens_step_max", o.TokensStepMax, "at least sequences_max, so that every running sequence can decode in a step")
	case o.BodyBytesMax < 0:
		return bad("body_bytes_max", o.BodyBytesMax, "0 or more bytes")
	case o.RestartWaitMax < 0:
		return bad("restart_wait_max", o.RestartWaitMax, "0, for the default, or a positive duration such as 1m")
	case o.WaitMax < 0:
		return bad("wait_max", o.WaitMax, "0, for no limit, or a positive duration such as 2s")
	case o.Grace < 0:
		return bad("grace", o.Grace, "a positive duration such as 30s")
	case !slices.Contains([]string{"auto", "cpu", "cuda"}, o.Device):
		return bad("device", o.Device, "auto, cpu or cuda")
	case o.Compute != "f32" && o.Compute != "bf16":
		return bad("compute", o.Compute, "f32 or bf16")
	case !quantKnown:
		return bad("quant", o.Quant, "off, q8, q4 or fp8")
	case !kvKnown:
		return bad("kv_dtype", o.KVDType, "auto, f32, bf16 or int8")
	case o.ToolFormat != "auto" && !slices.Contains(toolcalls.Formats(), toolcalls.Format(o.ToolFormat)):
		return bad("tool_format", o.ToolFormat, "auto, hermes, llama3, mistral or mistral-args")
	case o.LogFormat != "console" && o.LogFormat != "json":
		return bad("log_format", o.LogFormat, "console or json")
	}
	if err := o.validateHTTP(); err != nil {
		return err
	}
	if err := o.validateCluster(); err != nil {
		return err
	}
	if !slices.Contains([]string{"trace", "debug", "info", "warn", "error"}, o.LogLevel) {
		return bad("log_level", o.LogLevel, "trace, debug, info, warn or error")
	}
	return nil
}

// validateHTTP refuses to serve everybody on the network unless that was asked for.
func (o *Options) validateHTTP() error {
	host, _, err := net.SplitHostPort(o.HTTP)
	if err != nil || o.HTTP == "none" || o.APIKeys+o.AdminKeys != "" || o.InsecureHTTP || !o.Plays(RoleGateway) {
		return nil //nolint:nilerr // a wrong address is told by whoever listens
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return schemas.Errorf(schemas.KindInvalid, "configuration", "http is %s, which other machines reach, and there are no API keys", o.HTTP).WithParam("http").
		WithHint("set api_keys (--api-keys); --insecure-http serves all the same, and then whoever reaches the port may use and debug the engine")
}

// ReadNATSConfig returns the text of the embedded server's configuration.
func (o *Options) ReadNATSConfig() (string, error) {
	if o.NATSConfig == "" {
		return NATSConfig, nil
	}
	raw, err := os.ReadFile(o.NATSConfig)
	if err != nil {
		return "", schemas.Errorf(schemas.KindInvalid, "configuration", "nats_config: %v", err).WithParam("nats_config")
	}
	return string(raw), nil
}
