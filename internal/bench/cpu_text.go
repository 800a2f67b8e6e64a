package bench

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// WriteText prints the report for people, within 80 columns.
func (r *CPUReport) WriteText(w io.Writer) error {
	p := &printer{w: w}
	p.line("%s; keys and values in %s", r.Device, r.KV)
	p.line("%s", r.Machine)
	if len(r.Kernels) > 0 {
		p.line("")
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "product\ttokens\trate\tceiling\t\tshare\t")
		for _, k := range r.Kernels {
			fmt.Fprintf(t, "%s [%d, %d]\t%d\t%.1f\t%.1f\t%s\t%.2f\t\n", k.Type, k.N, k.K, k.Tokens, k.Rate, k.Ceiling, k.Unit, k.Share)
		}
		flush(t, p)
		p.line("One token: GB/s of weights, and of a loop that only reads them. Several: GOP/s, and")
		p.line("GFLOP/s of a loop of float32 multiply-adds, which integer products may outrun.")
	}
	if len(r.Tests) > 0 {
		p.line("")
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		peer := ""
		if r.Peer != "" {
			peer = "peer\tratio\tspread\t"
		}
		fmt.Fprintf(t, "model\ttest\ttok/s\tspread\t%s\n", peer)
		for i := range r.Tests {
			c := &r.Tests[i]
			fmt.Fprintf(t, "%s\t%s\t%.1f\t%.0f–%.0f\t", c.Model, c.what(), c.Rate, slices.Min(c.Rates), slices.Max(c.Rates))
			if c.Ratio > 0 {
				fmt.Fprintf(t, "%.1f\t%.2f\t%.2f–%.2f\t", c.PeerRate, c.Ratio, c.RatioMin, c.RatioMax)
			}
			fmt.Fprintln(t)
		}
		flush(t, p)
		p.line("Medians of %d rounds, least and most.", r.Rounds)
		r.writeLedgers(p)
		for i := range r.Tests {
			r.Tests[i].writeShare(p)
		}
		if share := r.others(); share > othersMax {
			p.line("Others used up to %.0f %% of the processors meanwhile: the figures say little.", 100*share)
		}
	}
	if r.Peer != "" {
		p.line("Ratios are ours over those of %s, run in turn.", r.Peer)
	}
	return p.err
}

// writeLedgers shows where the mean step's time went.
func (r *CPUReport) writeLedgers(p *printer) {
	t := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "µs per step\tsteps\twall\tdevice\tupload\tidle\t")
	for i := range r.Tests {
		c := &r.Tests[i]
		l, n := &c.Ledger, float64(max(c.Ledger.Steps, 1))
		fmt.Fprintf(t, "%s, %s\t%d\t%.0f\t%.0f\t%.1f\t%.1f\t\n", c.Model, c.what(), l.Steps, c.WallUs/n, float64(l.Device)/1e3/n, float64(l.Upload)/1e3/n, float64(l.Idle)/1e3/n)
	}
	flush(t, p)
}

// writeShare says what part of the rate at which weights can be read a decode has.
func (t *CPUTest) writeShare(p *printer) {
	if t.Share == 0 {
		return
	}
	p.line("%s: its %d MB of weights are read at %.1f GB/s at best; decode has %.2f of it.", t.Model, t.WeightBytes/1e6, median(t.Reads), t.Share)
	if t.PeerShare > 0 {
		p.line("  The peer has %.2f: at most %.2f times its rate is possible.", t.PeerShare, 1/t.PeerShare)
	}
}

// what says which test it is.
func (t *CPUTest) what() string {
	switch {
	case t.Kind == "prefill":
		return fmt.Sprintf("prefill %d", t.Tokens)
	case t.Sequences > 1:
		return fmt.Sprintf("decode, %d at once", t.Sequences)
	case t.Depth > 0:
		return fmt.Sprintf("decode after %d", t.Depth)
	}
	return "decode"
}

func (t *CPUTest) line() string {
	text := fmt.Sprintf("%s: %.1f tok/s", t.what(), t.Rate)
	if t.Ratio > 0 {
		text += fmt.Sprintf(", %.2f times the peer's", t.Ratio)
	}
	return text
}

// others is the largest share of the processors that others used during a round.
func (r *CPUReport) others() float64 {
	share := 0.0
	for i := range r.Tests {
		share = max(share, slices.Max(r.Tests[i].Others))
	}
	return share
}
