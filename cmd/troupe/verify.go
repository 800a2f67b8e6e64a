package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/defaultmodel"
	"github.com/troupe-engine/troupe/internal/verify"
	"github.com/troupe-engine/troupe/schemas"
)

// verified is what was found about one model.
type verified struct {
	Model   string          `json:"model"`
	Tol     float64         `json:"tol"`
	OK      bool            `json:"ok"`
	Results []verify.Result `json:"results"`
}

func newVerifyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "verify [DIR...]", Short: "Compare the engine with a reference's logits and tokens.",
		Long: "Compare the engine with what Hugging Face transformers computes. DIR holds a\n" +
			"model with golden.json and golden.safetensors; without one, the model in the\n" +
			"binary is verified. The prompt runs alone, batched, in chunks, preempted, from\n" +
			"the prefix cache and shared by choices; every way must give the same bits.",
		Example: "  troupe verify\n  troupe verify ./my-model --tol 1e-4"}
	tol := cmd.Flags().Float64("tol", 1e-3, "largest absolute logit error")
	threads := cmd.Flags().Int("threads", 0, "CPU threads that compute; 0 is all")
	asJSON := addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		open := func() (gpu.Device, error) { return troupe.OpenDevice(troupe.Options{Threads: *threads}) }
		out := cmd.OutOrStdout()
		var all []*verified
		passed := true
		for _, s := range subjects(args) {
			v := &verified{Model: s.name, Tol: *tol, OK: true}
			if !*asJSON {
				fmt.Fprintf(out, "%s, tolerance %g\n", shorten(s.name, 60), *tol)
				printResultHeading(out)
			}
			g, err := readGolden(s)
			if err != nil {
				return err
			}
			err = verify.Run(cmd.Context(), s.files, g, open, *tol, func(r verify.Result) {
				v.Results = append(v.Results, r)
				v.OK = v.OK && r.Failure == ""
				if !*asJSON {
					printResult(out, &r)
				}
			})
			if err != nil {
				return schemas.AsError(err, "verify "+s.name)
			}
			if !*asJSON && len(v.Results) > 0 && v.Results[0].RoPEBF16 {
				fmt.Fprintln(out, "  rotary frequencies in bfloat16: the golden's model was cast as a whole")
			}
			all, passed = append(all, v), passed && v.OK
		}
		if *asJSON {
			if err := printJSON(out, all); err != nil {
				return err
			}
		}
		if !passed {
			return errReported
		}
		return nil
	}
	return cmd
}

// subject is a model with its golden.
type subject struct {
	name          string
	files, golden fs.FS
}

func subjects(dirs []string) []subject {
	if len(dirs) == 0 {
		return []subject{{defaultmodel.Name, defaultmodel.Files(), defaultmodel.Golden()}}
	}
	var list []subject
	for _, dir := range dirs {
		list = append(list, subject{filepath.Clean(dir), os.DirFS(dir), os.DirFS(dir)})
	}
	return list
}

func readGolden(s subject) (*verify.Golden, error) {
	g, err := verify.ReadGolden(s.golden)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, schemas.Errorf(schemas.KindNotFound, "verify", "%s: %v", s.name, err).
			WithHint("verify needs golden.json and golden.safetensors beside the model; see docs/verify.md")
	}
	if err != nil {
		return nil, schemas.Errorf(schemas.KindInvalid, "verify", "%s: %v", s.name, err)
	}
	return g, nil
}

func printResultHeading(w io.Writer) {
	fmt.Fprintf(w, "  %-26s %14s  %9s  %s\n", "scenario", "max |Δlogit|", "greedy", "same bits")
}

func printResult(w io.Writer, r *verify.Result) {
	same := "yes"
	if !r.Identical {
		same = "no"
	}
	fmt.Fprintf(w, "  %-26s %14.2e  %9s  %s\n", r.Scenario, r.MaxError, fmt.Sprintf("%d/%d", r.Greedy, r.GreedyOf), same)
	if r.Failure != "" {
		fmt.Fprintf(w, "  FAILED: %s\n", r.Failure)
	}
}
