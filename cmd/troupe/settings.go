package main

import (
	"io"
	"os"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/internal/config"
	"github.com/troupe-engine/troupe/schemas"
)

// otherVariables are environment variables that are no options of an engine.
var otherVariables = []string{"TROUPE_CONFIG", "TROUPE_MODELS", "TROUPE_CPU_TIER", "TROUPE_CACHE", "TROUPE_NATS", "TROUPE_KEYS"}

// settings are an engine's options with the flags that set them.
type settings struct {
	troupe.Options
	set  *config.Set
	file string
}

// addSettings gives cmd a flag for every option. Those in hidden make no sense for it.
func addSettings(cmd *cobra.Command, hidden ...string) *settings {
	return addSettingsOf(cmd, troupe.DefaultOptions(), hidden...)
}

// addSettingsOf is addSettings with other defaults.
func addSettingsOf(cmd *cobra.Command, defaults troupe.Options, hidden ...string) *settings {
	s := &settings{Options: defaults}
	s.set = config.Bind(cmd.Flags(), &s.Options)
	cmd.Flags().StringVar(&s.file, "config", os.Getenv("TROUPE_CONFIG"), "a YAML file of options, as kv_blocks: 4096 for --kv-blocks")
	for _, name := range hidden {
		cmd.Flags().Lookup(name).Hidden = true
	}
	return s
}

// load reads the file and the environment beneath the flags.
func (s *settings) load(cmd *cobra.Command) error {
	unknown, err := s.set.Load(s.file, os.Environ(), otherVariables)
	if err != nil {
		return err
	}
	if err := s.Validate(); err != nil {
		return err
	}
	if len(unknown) > 0 {
		log := s.logger(cmd.ErrOrStderr())
		log.Warn().Str("names", strings.Join(unknown, " ")).Msg("environment variables that are not options")
	}
	return nil
}

// logger writes what the options ask for to w.
func (s *settings) logger(w io.Writer) zerolog.Logger {
	level, err := zerolog.ParseLevel(s.LogLevel)
	if err != nil {
		level = zerolog.InfoLevel // Validate has refused anything else
	}
	if s.LogFormat == "console" {
		w = zerolog.ConsoleWriter{Out: w, NoColor: !isTerminal(w), TimeFormat: time.TimeOnly}
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}

// open starts an engine. A signal to stop ends the wait for a model that is still loading.
func (s *settings) open(cmd *cobra.Command) (*troupe.Engine, error) {
	type opened struct {
		engine *troupe.Engine
		err    error
	}
	done := make(chan opened, 1)
	w := cmd.ErrOrStderr()
	go func() {
		e, err := troupe.Open(cmd.Context(), s.Options, s.logger(w), progress(w, s.Model))
		done <- opened{e, err}
	}()
	select {
	case o := <-done:
		return o.engine, o.err
	case <-cmd.Context().Done():
		// The process ends now, so what is half open needs no closing.
		return nil, schemas.Errorf(schemas.KindCanceled, "start", "stopped by a signal before the engine was ready")
	}
}
