package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// WriteText prints the report for people, within 80 columns.
func (r *GPUReport) WriteText(w io.Writer) error {
	p := &printer{w: w}
	p.line("%s, computing in %s with weights of %s", r.Description, r.Compute, r.Weights)
	p.line("%s", r.Host)
	p.line("Ceilings: copy %.0f GB/s (read + written), matrix products %.0f TFLOP/s.", r.CopyRate, r.ProductRate)
	p.line("Medians; a share is of the floor that these give.")
	if len(r.Kernels) > 0 {
		p.line("")
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "product\timplementation\ttokens\tµs\tfloor\tshare\t")
		for _, k := range r.Kernels {
			fmt.Fprintf(t, "[%d, %d]\t%s\t%d\t%.1f\t%.1f\t%.0f %%\t\n", k.N, k.K, k.Name, k.Tokens, k.Us, k.FloorU, 100*k.Share)
		}
		flush(t, p)
	}
	if len(r.Experts) > 0 {
		p.line("")
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "experts\timplementation\ttokens\tactive\tµs\tfloor\tshare\t")
		for _, e := range r.Experts {
			fmt.Fprintf(t, "%s\t%s\t%d\t%.0f\t%.1f\t%.1f\t%.0f %%\t\n", e.Shape, e.Name, e.Tokens, e.Active, e.Us, e.FloorU, 100*e.Share)
		}
		flush(t, p)
	}
	r.steps(w, p, "decode", r.Decode)
	r.steps(w, p, "prefill", r.Prefill)
	for _, l := range r.Loads {
		p.line("%s: %.2f billion parameters drawn in %.1f s", l.Shape, float64(l.Parameters)/1e9, l.Seconds)
	}
	return p.err
}

func (r *GPUReport) steps(w io.Writer, p *printer, what string, list []GPUStep) {
	if len(list) == 0 {
		return
	}
	p.line("")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%s\tseqs\tcontext\tms\tp10–p90\tfloor\tshare\ttok/s\t\n", what)
	for _, s := range list {
		context := s.Context
		if context == 0 {
			context = s.Tokens
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%.2f\t%.2f–%.2f\t%.2f\t%.0f %%\t%.0f\t\n", s.Shape, s.Sequences, context, s.Ms, s.P10Ms, s.P90Ms, s.FloorMs, 100*s.Share, s.TokensPerSecond)
	}
	flush(t, p)
	p.line("")
	for _, s := range list {
		if h := s.Parts; h != nil {
			p.line("%s, %d sequences, µs of a step: input %.0f, launches %.0f, fetch %.0f,\nwaiting for the device %.0f; together %.0f", s.Shape, s.Sequences, h.Prepare, h.Launch, h.Fetch, h.Wait, h.Wall)
			p.line("")
		}
		if len(s.Ledger) > 0 {
			p.line("%s, %d sequences: launches by kind, µs of a step", s.Shape, s.Sequences)
			t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
			for _, l := range s.Ledger {
				times := ""
				if l.Launches > 0 {
					times = fmt.Sprintf("%d ×", l.Launches)
				}
				fmt.Fprintf(t, "%s\t%s\t%.0f\t\n", times, l.Kind, l.Us)
			}
			flush(t, p)
			p.line("")
		}
	}
}
