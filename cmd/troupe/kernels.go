package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/schemas"
)

// kernelsCommand is what the commands about kernels share.
type kernelsCommand struct {
	nats    *engineAddress
	replica string
	json    *bool
}

func newKernelsCommand() *cobra.Command {
	c := &kernelsCommand{}
	cmd := &cobra.Command{Use: "kernels", Short: "List, choose or submit the kernels of a running engine.", Args: cobra.NoArgs,
		Long: "List the ways in which a running engine's device can execute each operation,\nchoose one from the next step on, or submit one of your own. See\ndocs/kernels.md.",
		Example: "  troupe kernels\n  troupe kernels list matmul\n  troupe kernels choose matmul rows\n" +
			"  troupe kernels submit rmsnorm mine.cu --entry my_rmsnorm --threads 256"}
	c.nats = addNATS(cmd.PersistentFlags(), natsURLDefault, natsDoc)
	cmd.PersistentFlags().StringVar(&c.replica, "replica", "", "the replica, as replica0; default: any")
	c.json = cmd.PersistentFlags().Bool("json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return c.ask(cmd, &schemas.KernelsRequest{}) }
	list := &cobra.Command{Use: "list [OP]", Short: "List the implementations of all operations, or of one.", Args: cobra.MaximumNArgs(1)}
	list.RunE = func(cmd *cobra.Command, args []string) error {
		return c.ask(cmd, &schemas.KernelsRequest{Op: strings.Join(args, "")})
	}
	choose := &cobra.Command{Use: "choose OP NAME", Short: "Choose the implementation that runs from the next step on.", Args: cobra.ExactArgs(2)}
	choose.RunE = func(cmd *cobra.Command, args []string) error {
		return c.ask(cmd, &schemas.KernelsRequest{Op: args[0], Select: args[1]})
	}
	cmd.AddCommand(list, choose, newKernelsSubmitCommand(c))
	return cmd
}

func (c *kernelsCommand) ask(cmd *cobra.Command, request *schemas.KernelsRequest) error {
	reply, err := askActor[schemas.KernelsReply](cmd.Context(), c.nats, "kernels", schemas.Kernels.Subject(schemas.Instance(c.replica)), request)
	if err != nil {
		return err
	}
	if *c.json {
		return printJSON(cmd.OutOrStdout(), reply)
	}
	return printKernels(cmd.OutOrStdout(), reply.Kernels)
}

// printKernels lists implementations by operation, the active one of each with a star.
func printKernels(w io.Writer, list []schemas.KernelInfo) error {
	op := ""
	for _, k := range list {
		if k.Op != op {
			op = k.Op
			fmt.Fprintln(w, printable(op))
		}
		mark, doc := " ", k.Doc
		if k.Active {
			mark = "*"
		}
		if k.BatchVariant {
			doc = "[batch-variant] " + doc
		}
		name := fmt.Sprintf("%-12s", shorten(printable(k.Name), 30))
		if _, err := fmt.Fprintf(w, "  %s %s  %s\n", mark, name, shorten(printable(doc), columnsMax-6-len([]rune(name)))); err != nil {
			return err
		}
	}
	return nil
}

func newKernelsSubmitCommand(c *kernelsCommand) *cobra.Command {
	cmd := &cobra.Command{Use: "submit OP FILE", Short: "Submit a kernel in CUDA C++.", Args: cobra.ExactArgs(2),
		Long: "Submit an implementation of an operation: a kernel in CUDA C++, from a file or,\nwith -, from standard input. The engine compiles it and holds it to the\n" +
			"operation's reference in a process of its own, times it against the kernel in\nuse, and then activates or refuses it, with the numbers. It must have been\n" +
			"started with --enable-kernel-submit. docs/kernels.md says what kernels of\nrmsnorm, act_mul, rope and matmul are given.",
		Example: "  troupe kernels submit rmsnorm examples/kernel/rmsnorm.cu --name registers \\\n    --entry rmsnorm_registers --threads 256 --overlap \\\n    --cols-min 512 --cols-max 8192 --cols-multiple 8"}
	req := &schemas.SubmitKernelRequest{}
	f := cmd.Flags()
	f.StringVar(&req.Name, "name", "", "of the implementation, a new one; default: that of the kernel")
	f.StringVar(&req.Entry, "entry", "", "the kernel in the file")
	f.Int32Var(&req.Threads, "threads", 256, "threads of a block")
	f.Int32Var(&req.PerBlock, "per-block", 1, "units that a block takes: rows, elements, pairs or outputs, by the operation")
	f.Int32Var(&req.SharedBytes, "shared-bytes", 0, "dynamic shared memory of a block")
	f.BoolVar(&req.Overlap, "overlap", false, "start it before the kernel ahead ends: it calls pdl_wait or pdl_begin")
	f.Int32Var(&req.RowsMax, "rows-max", 0, "most rows that it takes; 0 is no bound")
	f.Int32Var(&req.ColsMin, "cols-min", 0, "fewest columns that it takes")
	f.Int32Var(&req.ColsMax, "cols-max", 0, "most columns that it takes; 0 is no bound")
	f.Int32Var(&req.ColsMultiple, "cols-multiple", 0, "the columns that it takes are a multiple of it")
	f.BoolVar(&req.EvenIfSlower, "even-if-slower", false, "activate it also if it is slower than the one in use")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		source, err := readSource(cmd.InOrStdin(), args[1])
		if err != nil {
			return err
		}
		req.Op, req.Source = args[0], source
		if req.Name == "" {
			req.Name = req.Entry
		}
		reply, err := askActorFor[schemas.SubmitKernelReply](cmd.Context(), schemas.SubmitKernel.Timeout, c.nats, "kernels", schemas.SubmitKernel.Subject(schemas.Instance(c.replica)), req)
		if err != nil {
			return err
		}
		if *c.json {
			err = printJSON(cmd.OutOrStdout(), reply)
		} else {
			err = printSubmitted(cmd.OutOrStdout(), reply)
		}
		if err == nil && reply.Verdict != schemas.KernelActivated {
			return errReported
		}
		return err
	}
	return cmd
}

func readSource(stdin io.Reader, path string) (string, error) {
	from := stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return "", usageError{err}
		}
		defer file.Close()
		from = file
	}
	raw, err := io.ReadAll(io.LimitReader(from, gpu.KernelSourceBytesMax+1))
	if err != nil {
		return "", err
	}
	if len(raw) > gpu.KernelSourceBytesMax {
		return "", usageError{errors.New("the source is longer than " + size(gpu.KernelSourceBytesMax))}
	}
	return string(raw), nil
}

// faultsListed is how many of a kernel's faults are printed.
const faultsListed = 5

func printSubmitted(w io.Writer, r *schemas.SubmitKernelReply) error {
	fmt.Fprintf(w, "%s %s: %s\n", printable(r.Op), shorten(printable(r.Name), 40), printable(string(r.Verdict)))
	for _, line := range wrap(printable(r.Reason), columnsMax-2) {
		fmt.Fprintf(w, "  %s\n", line)
	}
	if r.Log != "" {
		_, err := fmt.Fprintf(w, "%s\n", strings.TrimRight(printable(r.Log), "\n")) // as the compiler has it
		return err
	}
	if len(r.Cases) > 0 {
		fmt.Fprintf(w, "  cases: %d, greatest error: %.3g of %.3g allowed\n", len(r.Cases), r.ErrorMax, r.Cases[0].Allowed)
		if r.BatchVariant {
			fmt.Fprintln(w, "  the bits of a row depend on the rows that it is computed with")
		}
	}
	rows := [][]string{{"rows", "cols", "error", "us", "against", "ratio"}}
	wrong := 0
	for i := range r.Cases {
		k := &r.Cases[i]
		if k.Fault != "" {
			if wrong++; wrong <= faultsListed {
				fmt.Fprintf(w, "  %d rows of %d: %s\n", k.Rows, k.Cols, shorten(printable(k.Fault), columnsMax-26))
			}
		}
		if k.TimeUs > 0 && k.AgainstUs > 0 {
			rows = append(rows, []string{fmt.Sprint(k.Rows), fmt.Sprint(k.Cols), fmt.Sprintf("%.3g", k.Error), fmt.Sprintf("%.2f", k.TimeUs),
				fmt.Sprintf("%.2f", k.AgainstUs), fmt.Sprintf("%.3f", k.TimeUs/k.AgainstUs)})
		}
	}
	if len(rows) == 1 {
		return nil
	}
	return table(w, rows)
}
