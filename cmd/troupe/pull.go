package main

import (
	"cmp"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/internal/modelstore"
	"github.com/troupe-engine/troupe/internal/modelstore/hub"
)

func newPullCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "pull ORG/NAME[@REVISION]", Short: "Download a model into the store.", Args: cobra.ExactArgs(1),
		Long: "Download a model from the Hugging Face Hub, or a server like it, into the store.\n" +
			"Every file's checksum is checked. Interrupted, the same command goes on where it\n" +
			"stopped; for a model that is there, it repairs and updates. By default it takes\n" +
			"what an engine needs: safetensors, *.json, *.jinja and the tokenizer's files.\n" +
			"HF_TOKEN is the token for private and gated models. See docs/models.md.",
		Example: "  troupe pull Qwen/Qwen3-0.6B\n  troupe pull org/name@v1.0 --exclude 'model.fp32*'\n  troupe pull org/name --include '*Q4_K_M.gguf'"}
	var o modelstore.PullOptions
	f := cmd.Flags()
	revision := f.String("revision", "", "branch, tag or commit, like @REVISION; neither is main")
	f.StringArrayVar(&o.Include, "include", nil, "take the files that match `PATTERN`, as '*.gguf', instead of the default ones; may be repeated")
	f.StringArrayVar(&o.Exclude, "exclude", nil, "leave out the files that match `PATTERN`; may be repeated")
	f.StringVar(&o.Hub.Endpoint, "endpoint", cmp.Or(os.Getenv("HF_ENDPOINT"), hub.DefaultEndpoint), "the server's `ADDRESS`; HF_ENDPOINT changes the default")
	f.IntVar(&o.Workers, "workers", modelstore.WorkersDefault, "files at once, at most 32")
	asJSON := addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ref, err := modelstore.ParseRef(args[0])
		if err != nil {
			return err
		}
		if *revision != "" {
			if ref.Revision != "" && ref.Revision != *revision {
				return usageError{fmt.Errorf("%s and --revision %s name two revisions", args[0], *revision)}
			}
			if ref, err = modelstore.ParseRef(ref.ID + "@" + *revision); err != nil {
				return err
			}
		}
		show := newPullProgress(cmd.ErrOrStderr(), ref.ID, time.Now)
		o.Hub.Token = os.Getenv("HF_TOKEN")
		o.Notify = show.event
		began := time.Now()
		result, err := modelstore.Pull(cmd.Context(), ref, o)
		show.clear()
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), result)
		}
		return printPulled(cmd, result, time.Since(began))
	}
	return cmd
}

func printPulled(cmd *cobra.Command, r *modelstore.Result, took time.Duration) error {
	what := fmt.Sprintf("%s received in %s", size(r.BytesReceived), took.Round(100*time.Millisecond))
	if r.UpToDate {
		what = "was up to date, all checksums are right"
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%s\n", shorten(r.Name, columnsMax))
	fmt.Fprintf(out, "  commit  %.12s\n", r.Commit)
	fmt.Fprintf(out, "  files   %d, %s; %s\n", r.Files, size(r.Bytes), what)
	fmt.Fprintf(out, "  path    %s\n", shorten(r.Path, columnsMax-10))
	_, err := fmt.Fprintf(out, "  troupe serve --model %s\n", r.Name) // to be copied, so never shortened
	return err
}
