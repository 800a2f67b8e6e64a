package troupe

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/troupe-engine/troupe/actors/compute"
	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/actors/gateway"
	"github.com/troupe-engine/troupe/actors/tokenizer"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/cluster"
	"github.com/troupe-engine/troupe/schemas"
)

// Roles that a node can play; see Options.Actors.
const (
	RoleGateway   = "gateway"   // HTTP and NATS front, with a tokenizer of its own
	RoleTokenizer = "tokenizer" // text to tokens and back, for whoever asks
	RoleReplica   = "replica"   // scheduler, memory and compute
	RoleScheduler = "scheduler" // scheduler and memory, for each compute of another node that has none
	RoleCompute   = "compute"   // compute alone, for a scheduler of another node
)

// Values of Options.Tokenizers.
const (
	TokenizersOwn    = "own"
	TokenizersShared = "shared"
)

// Values of Options.ReplicaPhase.
const (
	PhaseBoth    = "both"
	PhasePrefill = schemas.PhasePrefill
	PhaseDecode  = schemas.PhaseDecode
)

// roles are all of them, in data-path order; rolesDefault those of a node that works alone.
var (
	roles        = []string{RoleGateway, RoleTokenizer, RoleReplica, RoleScheduler, RoleCompute}
	rolesDefault = []string{RoleGateway, RoleTokenizer, RoleReplica}
)

// Plays reports whether an engine with these options has a role.
func (o *Options) Plays(role string) bool { return slices.Contains(splitList(o.Actors), role) }

// needsTokenizer reports whether the node has a tokenizer: for others, or of its gateway's own.
func (o *Options) needsTokenizer() bool {
	return o.Plays(RoleTokenizer) || o.Plays(RoleGateway) && o.Tokenizers == TokenizersOwn
}

// Clustered reports whether the engine works together with others.
func (o *Options) Clustered() bool { return o.Leaf != "" || o.Attach != "" }

// validateCluster names the first option that makes no sense among several nodes.
func (o *Options) validateCluster() error {
	bad := func(key string, value any, want string) error {
		return schemas.Errorf(schemas.KindInvalid, "configuration", "%s is %v; expected %s", key, value, want).WithParam(key)
	}
	actors := splitList(o.Actors)
	if len(actors) == 0 {
		return bad("actors", `""`, strings.Join(roles, ", ")+" or several of them")
	}
	for _, a := range actors {
		if !slices.Contains(roles, a) {
			return bad("actors", a, strings.Join(roles, ", ")+" or several of them")
		}
	}
	switch {
	case o.Tokenizers != TokenizersOwn && o.Tokenizers != TokenizersShared:
		return bad("tokenizers", o.Tokenizers, "own or shared")
	case o.Tokenizers == TokenizersShared && !o.Clustered():
		return bad("tokenizers", o.Tokenizers, "own where the node neither attaches nor lets others join (attach, leaf)")
	case o.Isolate && o.Clustered():
		return bad("isolate", o.Isolate, "false among several nodes (attach, leaf): a node that attaches is a process of its own already")
	case !o.Clustered() && !(o.Plays(RoleGateway) && o.Plays(RoleReplica)):
		return bad("actors", o.Actors, "gateway and replica where the node neither attaches nor lets others join (attach, leaf)")
	case !o.Clustered() && (o.Plays(RoleScheduler) || o.Plays(RoleCompute)):
		return bad("actors", o.Actors, "no part of a replica alone where the node neither attaches nor lets others join (attach, leaf)")
	case o.Plays(RoleCompute) && (o.Plays(RoleReplica) || o.Plays(RoleScheduler)):
		return bad("actors", o.Actors, "replica where scheduler and compute are to run on one node: there they need no messages")
	case o.ReplicaPhase != PhaseBoth && o.ReplicaPhase != PhasePrefill && o.ReplicaPhase != PhaseDecode:
		return bad("replica_phase", o.ReplicaPhase, "both, prefill or decode")
	case o.ReplicaPhase != PhaseBoth && !(o.Clustered() && (o.Plays(RoleReplica) || o.Plays(RoleCompute))):
		return bad("replica_phase", o.ReplicaPhase, "both where no replica or compute works together with others (attach, leaf)")
	case o.ReplicaPhase != PhaseBoth && !o.PrefixCache:
		return bad("replica_phase", o.ReplicaPhase, "both without prefix_cache, in which handed-over KV is found")
	case o.ReplicaSilence < 2*cluster.ReportEvery:
		return bad("replica_silence", o.ReplicaSilence, fmt.Sprintf("at least %s: replicas report every %s", 2*cluster.ReportEvery, cluster.ReportEvery))
	}
	return nil
}

// joinTimeMax is how long a node waits for those it is to join: they may be starting.
const joinTimeMax = 30 * time.Second

// security is how this node and others know each other.
func (e *Engine) security() bus.Security {
	o := &e.opts
	if o.Isolate || e.isolated.seed != "" { // parent and child, over the loopback
		return bus.Security{Insecure: o.InsecureNetwork, SeedText: e.isolated.seed, JoinTimeMax: joinTimeMax}
	}
	return bus.Security{Insecure: o.InsecureNetwork, CA: o.TLSCA, Cert: o.TLSCert, Key: o.TLSKey, Seed: o.Credentials, JoinTimeMax: joinTimeMax}
}

// instance is an actor's name: the usual one, or, on a node that joins others or is one of several hubs, the node's.
func (e *Engine) instance(usual schemas.Instance) schemas.Instance {
	if e.opts.Attach == "" && !e.node.Routed() {
		return usual
	}
	return schemas.Instance(e.node.ID())
}

// join makes the engine a member of its cluster.
func (e *Engine) join() error {
	if !e.clustered() {
		return nil
	}
	cfg := cluster.Config{Roles: splitList(e.opts.Actors), Model: e.model.Name, HTTP: e.HTTPURL(), Log: e.log}
	if e.gateway != nil {
		cfg.Requests = e.gateway.Running
	}
	if e.compute != nil {
		cfg.Device = e.compute
	}
	var err error
	if e.member, err = cluster.Join(e.node, cfg); err != nil {
		return err
	}
	if e.replica != nil {
		r := cluster.ReplicaConfig{Replica: e.instance(replicaInstance), Model: e.model.Name, Phase: e.phase()}
		if r.Numerics, err = numerics(e.model.Files, &e.opts, e.replica.Device().Info()); err != nil {
			return err
		}
		if _, err := e.member.Add(r); err != nil {
			return err
		}
	}
	if e.opts.Plays(RoleScheduler) {
		if err := e.serveDevices(); err != nil {
			return err
		}
	}
	e.followDecisions()
	return nil
}

// phase is what the node's replica, or device, is for: "" for both.
func (e *Engine) phase() string {
	if e.opts.ReplicaPhase == PhaseBoth {
		return ""
	}
	return e.opts.ReplicaPhase
}

// clusterConfig is how the gateway works with others; nil if there are none.
func (e *Engine) clusterConfig() *gateway.Cluster {
	if !e.clustered() {
		return nil
	}
	c := &gateway.Cluster{Routing: e.opts.Routing, SilenceMax: e.opts.ReplicaSilence, MoveWaitMax: e.opts.RestartWaitMax}
	if e.opts.Isolate {
		e.isolateCluster(c)
	}
	return c
}

// tokenBytes is what each token adds to a text, for guides: the tokenizer's, where this node has one.
func (e *Engine) tokenBytes() func() [][]byte {
	load := sync.OnceValues(func() (*tokenizer.Text, error) { return tokenizer.LoadText(e.model.Files) })
	return func() [][]byte {
		if e.tokenizer != nil {
			return e.tokenizer.Text().TokenBytes()
		}
		text, err := load()
		if err != nil {
			e.log.Error().Err(err).Msg("the model's tokenizer cannot be read; guides do not work")
			return nil
		}
		return text.TokenBytes()
	}
}

// generation is what the model's generation_config.json says.
func (e *Engine) generation() (*model.Spec, error) {
	if e.replica != nil {
		return e.replica.Model.Spec(), nil
	}
	return model.ReadSpec(e.model.Files)
}

// handover is how the replica's KV goes to others, or comes from them; nil if it does not.
func (e *Engine) handover(dev gpu.Info) (*compute.Handover, error) {
	o := &e.opts
	if o.ReplicaPhase == PhaseBoth {
		return nil, nil
	}
	security := e.security()
	config, err := security.Peers("replica", "compute", "hub", "admin")
	if err != nil {
		return nil, err
	}
	return &compute.Handover{Phase: o.ReplicaPhase, Listen: o.KVListen, TLS: config, Insecure: o.InsecureNetwork, Way: e.network.kvWay, Identity: func(ctx context.Context) (string, error) {
		name, err := numerics(e.model.Files, o, dev)
		if err != nil || o.RandomWeights != 0 {
			return name, err
		}
		digest, err := e.model.WeightsDigest(ctx)
		return name + " " + digest, err
	}}, nil
}

// numericsBytesMax is how much of each file's beginning is looked at: the header of a weight file and some weights.
const numericsBytesMax = 1 << 20

// numerics names everything that decides which tokens a replica computes: the model's files by size and beginning, the
// types it computes with, and the kind of processor. Replicas with equal names go on where another left off.
func numerics(files fs.FS, o *Options, dev gpu.Info) (string, error) {
	h := sha256.New()
	kind, _, _ := strings.Cut(dev.Name, ":")
	if kind == "cpu" { // "AMD EPYC, 2 threads, avx512": only the kernels count
		kind += dev.Description[strings.LastIndexByte(dev.Description, ' ')+1:]
	} else {
		kind += dev.Description
	}
	fmt.Fprintf(h, "%s %s %s %s %d\n", kind, o.Compute, o.Quant, o.KVDType, o.RandomWeights)
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return "", schemas.Errorf(schemas.KindInvalid, "join", "the model's files: %v", err)
	}
	for _, entry := range entries {
		if ext := path.Ext(entry.Name()); entry.IsDir() || ext != ".safetensors" && ext != ".gguf" && entry.Name() != "config.json" {
			continue
		}
		f, err := files.Open(entry.Name())
		if err != nil {
			return "", schemas.Errorf(schemas.KindInvalid, "join", "the model's files: %v", err)
		}
		info, err := f.Stat()
		if err == nil {
			fmt.Fprintf(h, "%s %d\n", entry.Name(), info.Size())
			_, err = io.Copy(h, io.LimitReader(f, numericsBytesMax))
		}
		_ = f.Close() // only read
		if err != nil {
			return "", schemas.Errorf(schemas.KindInvalid, "join", "%s: %v", entry.Name(), err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

// Clustered reports whether the engine works together with others.
func (e *Engine) Clustered() bool { return e.opts.Clustered() }

// clustered reports whether the gateway works with replicas of other processes.
func (e *Engine) clustered() bool { return e.opts.Clustered() || e.opts.Isolate }

// LeafURL is where other nodes join this one; "" if they cannot.
func (e *Engine) LeafURL() string {
	if e.opts.Isolate {
		return "" // it is for the replica's process alone
	}
	return e.node.LeafURL()
}

// leaveCluster lets what runs for other nodes' gateways end, or move, before this node goes.
func (e *Engine) leaveCluster(ctx context.Context) error {
	if e.member == nil {
		return nil
	}
	err := e.member.Drain(ctx)
	if e.schedulers != nil {
		e.schedulers.Close()
	}
	e.member.Leave()
	return err
}
