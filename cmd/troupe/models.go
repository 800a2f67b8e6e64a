package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/internal/modelstore"
)

func newModelsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "models", Short: "List the models that have a name.", Args: cobra.NoArgs,
		Long: "List the models that have a name: the one in the binary, and folders with a\nconfig.json in the store, $TROUPE_MODELS. --model also takes any directory."}
	asJSON := addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		models := modelstore.List()
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), struct {
				Store  string              `json:"store"`
				Models []*modelstore.Model `json:"models"`
			}{modelstore.Dir(), models})
		}
		rows := [][]string{{"NAME", "SIZE", "PATH"}}
		for _, m := range models {
			rows = append(rows, []string{shorten(m.Name, 28), size(m.Bytes), shorten(m.Path, 38)})
		}
		if err := table(cmd.OutOrStdout(), rows); err != nil {
			return err
		}
		_, err := fmt.Fprintf(cmd.ErrOrStderr(), "%s\n", dim(cmd.ErrOrStderr(), "store: "+shorten(modelstore.Dir(), columnsMax-7)))
		return err
	}
	return cmd
}
