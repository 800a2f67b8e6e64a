package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/internal/modelstore"
)

func newModelsVerifyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "verify [NAME...]", Short: "Check the files of models: sizes, checksums and headers.",
		Long: "Read models again and compare every file with the size and checksum that it was\n" +
			"pulled with, and open the headers of all safetensors files. Without a name, all\n" +
			"models. The exit code is 1 if something is wrong. (`troupe verify` is another\n" +
			"thing: it compares the engine's results with a reference.)"}
	asJSON := addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		models := modelstore.List()
		if len(args) > 0 {
			models = nil
			for _, name := range args {
				m, err := modelstore.Find(name)
				if err != nil {
					return err
				}
				models = append(models, m)
			}
		}
		out, reports, wrong := cmd.OutOrStdout(), []*modelstore.Report{}, false
		for _, m := range models {
			done := int64(0)
			tell := progress(cmd.ErrOrStderr(), m.Name)
			r, err := modelstore.Verify(cmd.Context(), m, func(n int64) {
				if done += n; tell != nil {
					tell(done, m.Bytes)
				}
			})
			if err != nil {
				return err
			}
			reports, wrong = append(reports, r), wrong || len(r.Problems) > 0
			if !*asJSON {
				printVerified(out, r)
			}
		}
		if *asJSON {
			if err := printJSON(out, reports); err != nil {
				return err
			}
		}
		if wrong {
			return errReported
		}
		return nil
	}
	return cmd
}

func printVerified(w io.Writer, r *modelstore.Report) {
	if len(r.Problems) == 0 {
		what := "checksums and headers are right"
		if !r.Manifest {
			what = "headers are right; not pulled, so without checksums"
		}
		fmt.Fprintf(w, "ok       %s\n         %s, %s: %s\n", shorten(r.Name, columnsMax-9), count(r.Files, "file"), size(r.Bytes), what)
		return
	}
	fmt.Fprintf(w, "PROBLEM  %s\n", shorten(r.Name, columnsMax-9))
	for _, p := range r.Problems {
		fmt.Fprintf(w, "  %s\n", shorten(printable(p.File), columnsMax-2))
		for _, l := range [][2]string{{"expected", p.Expected}, {"found", p.Found}} {
			for i, text := range wrap(printable(l[1]), columnsMax-14) {
				if i > 0 {
					l[0] = ""
				}
				fmt.Fprintf(w, "    %-8s  %s\n", l[0], shorten(text, columnsMax-14))
			}
		}
	}
	if r.Manifest {
		fmt.Fprintf(w, "  hint: download again what is wrong:\n    troupe pull %s\n", r.Name)
	} else {
		fmt.Fprintln(w, "  hint: copy the files again from where they came from")
	}
}
