package main

import (
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe"
)

// newReplicaCommand is how `troupe serve --isolate` runs its replica. It is not for people.
func newReplicaCommand() *cobra.Command {
	return &cobra.Command{Use: troupe.ReplicaCommand, Short: "The replica's process of troupe serve --isolate.", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			shareProcessor()
			err := troupe.ReplicaMain(cmd.InOrStdin(), cmd.OutOrStdout(), func(o troupe.Options) zerolog.Logger {
				s := settings{Options: o}
				return s.logger(cmd.ErrOrStderr()).With().Str("process", troupe.ReplicaCommand).Logger()
			})
			if err != nil {
				return errReported // the parent has heard it
			}
			return nil
		}}
}
