package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/schemas"
)

// sampling are the flags of a request.
type sampling struct {
	maxTokens, topK         int64
	temperature, topP, minP float64
	seed                    int64
	stop                    []string
}

func addSampling(cmd *cobra.Command) *sampling {
	s, f := &sampling{}, cmd.Flags()
	f.Int64Var(&s.maxTokens, "max-tokens", 0, "end the answer after so many tokens")
	f.Float64Var(&s.temperature, "temperature", 0, "0 always takes the likeliest token (default: the model's)")
	f.Float64Var(&s.topP, "top-p", 0, "sample from the likeliest tokens that add up to this probability")
	f.Int64Var(&s.topK, "top-k", 0, "sample from this many likeliest tokens")
	f.Float64Var(&s.minP, "min-p", 0, "sample from tokens at least this likely, relative to the likeliest")
	f.Int64Var(&s.seed, "seed", 0, "the same seed gives the same answer")
	f.StringArrayVar(&s.stop, "stop", nil, "end the answer before this text; may be repeated")
	return s
}

// params are those flags that were given: the engine knows the defaults.
func (s *sampling) params(cmd *cobra.Command, model string) schemas.GenerationParams {
	p := schemas.GenerationParams{Model: model, Stop: s.stop}
	for name, set := range map[string]func(){
		"max-tokens":  func() { p.MaxTokens = &s.maxTokens },
		"temperature": func() { p.Temperature = &s.temperature },
		"top-p":       func() { p.TopP = &s.topP },
		"top-k":       func() { p.TopK = &s.topK },
		"min-p":       func() { p.MinP = &s.minP },
		"seed":        func() { seed := schemas.Seed(s.seed); p.Seed = &seed },
	} {
		if cmd.Flags().Changed(name) {
			set()
		}
	}
	return p
}

func newRunCommand() *cobra.Command {
	cmd := &cobra.Command{Use: `run "PROMPT"`, Short: "Answer one prompt on the terminal.", Args: onePrompt,
		Long: "Answer one prompt on the terminal: with an engine of its own, or over NATS with\none that runs already.",
		Example: "  troupe run \"Once upon a time\" --max-tokens 50\n" +
			"  troupe run --chat \"Who are you?\" --temperature 0\n" +
			"  troupe run --nats nats://127.0.0.1:4222 \"Once upon a time\""}
	s := addSettings(cmd, "http", "nats-listen", "nats-config", "requests-max", "waiting-max", "grace")
	params, asJSON := addSampling(cmd), addJSON(cmd)
	address := addNATS(cmd.Flags(), os.Getenv("TROUPE_NATS"), natsRemoteDoc)
	chat := cmd.Flags().Bool("chat", false, "the prompt is a user's message, not a text to continue")
	system := cmd.Flags().String("system", "", "the system's message; implies --chat")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.load(cmd); err != nil {
			return err
		}
		r := troupe.GenerateRequest{Prompt: args[0]}
		if *chat || *system != "" {
			r = troupe.GenerateRequest{Messages: []troupe.Message{{Role: "user", Content: args[0]}}}
			if *system != "" {
				r.Messages = append([]troupe.Message{{Role: "system", Content: *system}}, r.Messages...)
			}
		}
		if address.url != "" {
			r.GenerationParams = params.params(cmd, s.Model)
			return runRemote(cmd, address, r, *asJSON)
		}
		r.GenerationParams = params.params(cmd, "")
		return runHere(cmd, s, r, *asJSON)
	}
	return cmd
}

func onePrompt(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("there are %d arguments; expected one prompt, in quotes", len(args))
	}
	return nil
}

// runRemote uses an engine that runs already.
func runRemote(cmd *cobra.Command, address *engineAddress, r troupe.GenerateRequest, asJSON bool) error {
	conn, err := address.connect("run")
	if err != nil {
		return err
	}
	defer conn.Close()
	return answerPrompt(cmd, troupe.NewClient(conn), r, asJSON)
}

// runHere starts an engine for one answer. Nobody else can reach it.
func runHere(cmd *cobra.Command, s *settings, r troupe.GenerateRequest, asJSON bool) (err error) {
	s.HTTP, s.NATSListen = "none", "none"
	if !cmd.Flags().Changed("log-level") {
		s.LogLevel = "warn"
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
	return answerPrompt(cmd, engine.Client(), r, asJSON)
}

func answerPrompt(cmd *cobra.Command, client *troupe.Client, r troupe.GenerateRequest, asJSON bool) error {
	out, errOut := cmd.OutOrStdout(), cmd.ErrOrStderr()
	if asJSON {
		a, err := stream(cmd.Context(), client, r, nil)
		if err != nil {
			return err
		}
		return printJSON(out, a)
	}
	if isTerminal(out) && r.Messages == nil {
		fmt.Fprint(out, dim(out, r.Prompt)) // what the answer continues
	}
	a, err := stream(cmd.Context(), client, r, out)
	fmt.Fprintln(out)
	if cmd.Context().Err() != nil {
		fmt.Fprintln(errOut, dim(errOut, "cancelled"))
		return errReported
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(errOut, dim(errOut, a.summary()))
	return nil
}
