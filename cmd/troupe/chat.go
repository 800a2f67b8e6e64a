package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/troupe-engine/troupe/actors/gateway"
	"github.com/troupe-engine/troupe/internal/chat"
	"github.com/troupe-engine/troupe/schemas"
)

// chatCommand are the flags of `troupe chat`.
type chatCommand struct {
	engine         *settings
	sampling       *sampling
	server, system string
	nats           *engineAddress
	apiKey         string
}

func newChatCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "chat", Short: "Talk with a model on the terminal.", Args: cobra.NoArgs,
		Long: "Talk with a model on the terminal: with an engine of its own, or with one that\n" +
			"runs already. /help lists the commands. Ctrl-C stops an answer, a second one\n" +
			"leaves. If the input or the output is no terminal, every line is a message and\n" +
			"only answers are printed; the exit code is 1 if one failed.",
		Example: "  troupe chat --system \"You are a poet.\" --temperature 0.7\n" +
			"  troupe chat --server http://10.0.0.7:8000\n" +
			"  echo \"Tell me a story.\" | troupe chat"}
	c := &chatCommand{engine: addSettings(cmd, append(servingFlags, "waiting-max")...),
		sampling: addSampling(cmd)}
	f := cmd.Flags()
	f.StringVar(&c.server, "server", "", "use the engine at this HTTP URL, as http://127.0.0.1:8000")
	c.nats = addNATS(f, "", natsRemoteDoc)
	f.StringVar(&c.apiKey, "api-key", "", "API key for --server, or @ and a file that holds it")
	f.StringVar(&c.system, "system", "", "the system's message")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return c.run(cmd) }
	return cmd
}

func (c *chatCommand) run(cmd *cobra.Command) error {
	if c.server != "" && c.nats.url != "" {
		return usageError{fmt.Errorf("--server and --nats are both given; expected one of them")}
	}
	if !cmd.Flags().Changed("log-level") {
		c.engine.LogLevel = "warn"
	}
	if err := c.engine.load(cmd); err != nil {
		return err
	}
	model := ""
	if c.server != "" || c.nats.url != "" {
		model = c.engine.Model
	}
	conversation := chat.Conversation{System: c.system, Params: c.sampling.params(cmd, model)}
	if err := conversation.Check(); err != nil {
		return err
	}
	client, closeEngine, err := c.connect(cmd, model)
	if err != nil {
		return err
	}
	err = talk(cmd, client, conversation)
	if closeErr := closeEngine(); err == nil {
		err = closeErr
	}
	if errors.Is(err, chat.ErrFailed) || cmd.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return errReported
	}
	return err
}

// connect returns the way to the engine, which it starts if none is named.
func (c *chatCommand) connect(cmd *cobra.Command, model string) (chat.Client, func() error, error) {
	switch {
	case c.server != "":
		key, err := readAPIKey(c.apiKey)
		if err != nil {
			return nil, nil, err
		}
		client, err := chat.NewHTTPClient(c.server, model, key)
		return client, func() error { return nil }, err
	case c.nats.url != "":
		conn, err := c.nats.connect("chat", nats.MaxReconnects(nats.DefaultMaxReconnect))
		if err != nil {
			return nil, nil, err
		}
		return chat.NewEngineClient(conn), func() error { conn.Close(); return nil }, nil
	}
	conn, closeEngine, err := c.engine.openPrivate(cmd, "chat")
	if err != nil {
		return nil, nil, err
	}
	return chat.NewEngineClient(conn), closeEngine, nil
}

// servingFlags are options of an engine that others can reach.
var servingFlags = []string{"http", "insecure-http", "nats-listen", "nats-config", "requests-max", "body-bytes-max", "connections-max", "api-keys",
	"key-requests-max", "keyless-paths", "cors-origins", "grace"}

// readAPIKey reads the flag --api-key: a key, or @ and the name of a file that holds one.
func readAPIKey(flag string) (string, error) {
	keys, err := gateway.ParseAPIKeys(flag)
	switch {
	case err != nil:
		return "", err
	case len(keys) > 1:
		return "", schemas.Errorf(schemas.KindInvalid, "configuration", "api-key has %d keys; expected one", len(keys)).WithParam("api-key")
	case len(keys) == 0:
		return "", nil
	}
	return keys[0], nil
}

// leaveTimeMax is how long an engine may take to notice that its only client has left.
const leaveTimeMax = time.Second

// openPrivate starts an engine that nobody else can reach, and a connection to it. What runs when it is closed is
// cancelled.
func (s *settings) openPrivate(cmd *cobra.Command, name string) (*nats.Conn, func() error, error) {
	s.HTTP, s.NATSListen = "none", "none"
	engine, err := s.open(cmd)
	if err != nil {
		return nil, nil, err
	}
	conn, err := engine.Node().Connection(name)
	if err != nil {
		return nil, nil, errors.Join(err, engine.Close())
	}
	return conn, func() error {
		conn.Close() // whoever waits for an answer is gone
		ctx, cancel := context.WithTimeout(context.Background(), leaveTimeMax)
		defer cancel()
		_ = engine.Drain(ctx) // what did not notice is cut off
		return engine.Close()
	}, nil
}

// talk uses the terminal if there is one, both ways.
func talk(cmd *cobra.Command, client chat.Client, c chat.Conversation) error {
	in, out := cmd.InOrStdin(), cmd.OutOrStdout()
	streams := chat.Streams{In: in, Out: out, Err: cmd.ErrOrStderr(), Clean: func(s string) string { return s }}
	if isTerminal(out) {
		streams.Clean = printable
	}
	if !isTerminal(in) || !isTerminal(out) {
		return chat.RunStreams(cmd.Context(), client, c, streams)
	}
	return talkOnTerminal(cmd.Context(), client, c, streams)
}

// talkOnTerminal gives the terminal back as it was, however the conversation ends.
func talkOnTerminal(ctx context.Context, client chat.Client, c chat.Conversation, streams chat.Streams) error {
	in, out := int(streams.In.(*os.File).Fd()), streams.Out
	before, err := term.MakeRaw(in)
	if err != nil {
		return fmt.Errorf("the terminal: %w", err)
	}
	defer func() {
		_ = term.Restore(in, before) // there is nothing else to try
		_, _ = io.WriteString(out, "\n")
	}()
	return chat.RunScreen(ctx, client, c, chat.Screen{Streams: streams,
		Size: func() (int, int, error) { return term.GetSize(int(out.(*os.File).Fd())) },
		Dim:  func(text string) string { return dim(out, text) }})
}
