package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/internal/modelstore"
)

func newModelsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "models", Short: "List, verify and remove the models that have a name.", Args: cobra.NoArgs,
		Long: "List the models that have a name: the one in the binary, those that were pulled,\nand folders with a config.json in the store, $TROUPE_MODELS. --model also takes\nany directory."}
	asJSON := addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		models := append(modelstore.List(), modelstore.Unfinished()...)
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), struct {
				Store  string              `json:"store"`
				Models []*modelstore.Model `json:"models"`
			}{modelstore.Dir(), models})
		}
		rows := [][]string{{"NAME", "SIZE", "FILES", "STATE", "PATH"}}
		for _, m := range models {
			rows = append(rows, []string{shorten(m.Name, 28), size(m.Bytes), fmt.Sprint(m.FileCount), string(m.State), shorten(m.Path, 20)})
		}
		if err := table(cmd.OutOrStdout(), rows); err != nil {
			return err
		}
		_, err := fmt.Fprintf(cmd.ErrOrStderr(), "%s\n", dim(cmd.ErrOrStderr(), "store: "+shorten(modelstore.Dir(), columnsMax-7)))
		return err
	}
	cmd.AddCommand(newModelsRemoveCommand(), newModelsVerifyCommand())
	return cmd
}

func newModelsRemoveCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "rm NAME", Short: "Remove a pulled model, or what is there of an unfinished pull.", Args: cobra.ExactArgs(1)}
	asJSON := addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		freed, err := modelstore.Remove(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), struct {
				Name  string `json:"name"`
				Freed int64  `json:"bytes_freed"`
			}{args[0], freed})
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "removed %s, %s are free again\n", shorten(args[0], 40), size(freed))
		return err
	}
	return cmd
}
