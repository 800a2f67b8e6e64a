package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/schemas"
)

// infoTimeMax is how long the engine may take to describe itself.
const infoTimeMax = 5 * time.Second

func newServeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "serve", Short: "Serve a model over HTTP and NATS until a signal to stop.", Args: cobra.NoArgs,
		Long: "Serve a model over HTTP and NATS until a signal to stop (SIGINT, SIGTERM). Then\n" +
			"running answers may finish within --grace, new requests are refused with 503,\n" +
			"and the exit code is 0. A second signal stops at once.",
		Example: "  troupe serve --model ./my-model --http 0.0.0.0:8000 --api-keys @keys.txt\n" +
			"  TROUPE_KV_BLOCKS=4096 troupe serve --config troupe.yaml"}
	s := addSettings(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print the banner as JSON")
	prompt := cmd.Flags().String("prompt", "", "once serving, send this prompt over NATS and show its answer")
	once := cmd.Flags().Bool("once", false, "stop after the answer to --prompt")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.load(cmd); err != nil {
			return err
		}
		if *once && *prompt == "" {
			return usageError{fmt.Errorf("--once needs a --prompt")}
		}
		return serve(cmd, s, demo{*prompt, *once}, *asJSON)
	}
	return cmd
}

func serve(cmd *cobra.Command, s *settings, d demo, asJSON bool) (err error) {
	if err := addressFree(s.HTTP); err != nil { // a large model takes minutes to load
		return err
	}
	engine, err := s.open(cmd)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := engine.Close(); err == nil {
			err = closeErr
		}
	}()
	var failed error
	shareProcessor()
	b, err := newBanner(engine)
	if err != nil {
		return err
	}
	if err := b.print(cmd.OutOrStdout(), asJSON); err != nil {
		return err
	}
	ctx := cmd.Context()
	if d.prompt != "" {
		if err := d.show(ctx, cmd.OutOrStdout(), engine); err != nil && ctx.Err() == nil {
			return err
		}
	}
	if d.prompt == "" || !d.once {
		select {
		case failed = <-engine.Failed():
		case <-ctx.Done():
		}
		fmt.Fprintln(cmd.ErrOrStderr(), dim(cmd.ErrOrStderr(), fmt.Sprintf("draining for at most %s; a second signal stops at once", s.Grace)))
	}
	drain, cancel := context.WithTimeout(context.Background(), s.Grace)
	defer cancel()
	if err := engine.Drain(drain); err != nil { // what was cut off has been told why; stopping is what was asked for
		printError(cmd.ErrOrStderr(), err)
	}
	return failed
}

// addressFree finds out whether HTTP could be served at an address, by doing so for a moment.
func addressFree(address string) error {
	if address == "none" {
		return nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return schemas.Errorf(schemas.KindInvalid, "listen", "http: %v", err).WithParam("http").
			WithHint("choose another address with --http host:port, or port 0 for any free one")
	}
	return l.Close()
}

// shareProcessor lets the operating system divide a single processor between computing and the clients. Go alone would
// look after the network every 10 ms only, while there is work: refusals at ten times the sustainable rate take 0.4 ms
// with it and 100 ms without, at the same throughput. The device, which is open by now, keeps its one thread.
func shareProcessor() {
	if runtime.GOMAXPROCS(0) == 1 && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2)
	}
}

// banner says what runs and where it is reached.
type banner struct {
	Model  string              `json:"model"`
	Path   string              `json:"path"`
	Bytes  int64               `json:"bytes"`
	Device gpu.Info            `json:"device"`
	HTTP   string              `json:"http,omitempty"`
	NATS   string              `json:"nats,omitempty"`
	Engine *schemas.EngineInfo `json:"engine,omitempty"` // nil without a replica
	Node   string              `json:"node,omitempty"`   // among those that work together
	Leaf   string              `json:"leaf,omitempty"`   // where others join
}

func newBanner(e *troupe.Engine) (*banner, error) {
	ctx, cancel := context.WithTimeout(context.Background(), infoTimeMax)
	defer cancel()
	m := e.Model()
	b := &banner{Model: m.Name, Path: m.Path, Bytes: m.Bytes, HTTP: e.HTTPURL(), NATS: e.NATSURL(), Leaf: e.LeafURL()}
	if e.Clustered() {
		b.Node = string(e.Node().ID())
	}
	if dev := e.Device(); dev != nil {
		b.Device = dev.Info()
	}
	if e.Plays(troupe.RoleReplica) {
		var err error
		if b.Engine, err = e.Info(ctx); err != nil {
			return nil, err
		}
	}
	if b.Device.Name == "" && b.Engine != nil { // in a process of its own
		b.Device.Name, b.Device.Description = b.Engine.Device, "in a process of its own"
	}
	return b, nil
}

func (b *banner) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, b)
	}
	orNot := func(url string) string {
		if url == "" {
			return "not served"
		}
		return url
	}
	rows := [][]string{{"model", shorten(fmt.Sprintf("%s, %s, %s", b.Model, size(b.Bytes), b.Path), columnsMax-11)}}
	if b.Device.Name != "" {
		rows = append(rows, []string{"device", shorten(b.Device.Name+", "+b.Device.Description, columnsMax-11)})
	}
	if b.Engine != nil {
		rows = append(rows, []string{"context", fmt.Sprintf("%d tokens; KV pool %d tokens in %d blocks", b.Engine.ContextMax, b.Engine.Blocks*b.Engine.BlockSize, b.Engine.Blocks)})
	}
	rows = append(rows, []string{"HTTP", orNot(b.HTTP)}, []string{"NATS", orNot(b.NATS)})
	if b.Node != "" {
		rows = append(rows, []string{"node", b.Node})
	}
	if b.Leaf != "" {
		rows = append(rows, []string{"join", "troupe attach " + b.Leaf})
	}
	return table(w, rows)
}
