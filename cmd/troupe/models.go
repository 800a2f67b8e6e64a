package main

import (
	"fmt"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/internal/modelstore"
)

// Columns of the table of models.
const (
	modelNameColumnsMax = 34
	modelColumns        = 2 + len("1023.9 GiB") + 2 + len("FILES") + 2 + len("embedded") + 2 // those besides name and path
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
		name := 0 // the widest; the path gets what is left
		for _, m := range models {
			name = max(name, min(utf8.RuneCountInString(m.Name), modelNameColumnsMax))
		}
		for _, m := range models {
			rows = append(rows, []string{shorten(m.Name, name), size(m.Bytes), fmt.Sprint(m.FileCount), string(m.State), shorten(m.Path, columnsMax-name-modelColumns)})
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
