package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/schemas"
)

// policyAskMax is how long a scheduler may take to answer.
const policyAskMax = 5 * time.Second

// policyCommand is what the policy commands share.
type policyCommand struct {
	nats    *engineAddress
	replica string
	json    *bool
}

func newPolicyCommand() *cobra.Command {
	p := &policyCommand{}
	cmd := &cobra.Command{Use: "policy [NAME]", Short: "Show, switch or try the scheduling policy of a running engine.", Args: cobra.MaximumNArgs(1),
		Long:    "Show the scheduling policy of a running engine or, with a name, switch it: no\nrequest is lost. nats:NAME is a policy in another process, which answers on\ninf.v1.policy.rank.NAME; see docs/policies.md.",
		Example: "  troupe policy\n  troupe policy shortest\n  troupe policy deadline --costs tiny.json\n  troupe policy 'nats:my-sjf?limit=10ms&fallback=fair'\n  troupe policy shadow fair"}
	p.nats = addNATS(cmd.PersistentFlags(), natsURLDefault, natsDoc)
	cmd.PersistentFlags().StringVar(&p.replica, "replica", "", "the scheduler's instance, as replica0; default: any")
	p.json = cmd.PersistentFlags().Bool("json", false, "print JSON")
	costs := cmd.Flags().String("costs", "", "what policies expect steps to take from now on: a profile's file, name or key in the bucket")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := &schemas.PolicyRequest{Name: strings.Join(args, "")}
		if *costs != "" {
			found, err := findProfile(cmd, p.nats, *costs)
			if err != nil {
				return err
			}
			req.Costs = found.StepCosts()
		}
		reply, err := ask[schemas.PolicyReply](cmd.Context(), p, schemas.Policy.Subject(schemas.Instance(p.replica)), req)
		if err != nil {
			return err
		}
		if *p.json {
			return printJSON(cmd.OutOrStdout(), reply)
		}
		return printPolicy(cmd.OutOrStdout(), reply)
	}
	cmd.AddCommand(newShadowCommand(p))
	return cmd
}

func newShadowCommand(p *policyCommand) *cobra.Command {
	cmd := &cobra.Command{Use: "shadow [NAME]", Short: "Show what another policy would do, or choose it.", Args: cobra.MaximumNArgs(1),
		Long:    "Show what the shadow policy would have done differently or, with a name, begin\nto watch with that one. A shadow sees every decision and changes none.",
		Example: "  troupe policy shadow shortest\n  troupe policy shadow\n  troupe policy shadow --off"}
	off := cmd.Flags().Bool("off", false, "end it, with a last report")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *off && len(args) > 0 {
			return usageError{errors.New("--off takes no name")}
		}
		report, err := ask[schemas.ShadowReport](cmd.Context(), p, schemas.Shadow.Subject(schemas.Instance(p.replica)), &schemas.ShadowRequest{Policy: strings.Join(args, ""), Off: *off})
		if err != nil {
			return err
		}
		if *p.json {
			return printJSON(cmd.OutOrStdout(), report)
		}
		return printShadow(cmd.OutOrStdout(), report)
	}
	return cmd
}

// ask sends a request to an actor in JSON and reads the reply.
func ask[Reply any](ctx context.Context, p *policyCommand, subject string, request any) (*Reply, error) {
	return askActor[Reply](ctx, p.nats, "policy", subject, request)
}

// askActor sends a request to an actor of a running engine in JSON and reads the reply.
func askActor[Reply any](ctx context.Context, address *engineAddress, command, subject string, request any) (*Reply, error) {
	return askActorFor[Reply](ctx, policyAskMax, address, command, subject, request)
}

// askActorFor is askActor for what may take longer.
func askActorFor[Reply any](ctx context.Context, limit time.Duration, address *engineAddress, command, subject string, request any) (*Reply, error) {
	conn, err := address.connect(command)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	m := nats.NewMsg(subject)
	m.Header.Set("Content-Type", "application/json")
	if m.Data, err = json.Marshal(request); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answer, err := conn.RequestMsgWithContext(ctx, m)
	if err != nil {
		return nil, schemas.Errorf(schemas.KindUnavailable, command, "%s: %v", subject, err).WithHint("is an engine running there? `troupe nodes` lists what is")
	}
	if answer.Header.Get(micro.ErrorCodeHeader) != "" {
		e := &schemas.Error{}
		if json.Unmarshal(answer.Data, e) == nil && e.Kind != "" {
			return nil, e
		}
		return nil, schemas.Errorf(schemas.KindInternal, command, "%s", answer.Header.Get(micro.ErrorHeader))
	}
	reply := new(Reply)
	if err := json.Unmarshal(answer.Data, reply); err != nil {
		return nil, schemas.Errorf(schemas.KindInternal, command, "the reply cannot be read: %v", err).WithHint("do both run the same version?")
	}
	return reply, nil
}

func printPolicy(w io.Writer, r *schemas.PolicyReply) error {
	fmt.Fprintf(w, "%s decides; there are:\n", shorten(printable(r.Active), 56))
	line := " "
	for _, name := range append(r.Policies, "nats:NAME") {
		if name = printable(name); len(line)+1+len(name) > columnsMax {
			fmt.Fprintln(w, line)
			line = " "
		}
		line += " " + name
	}
	fmt.Fprintln(w, line)
	if r.Costs != "" {
		fmt.Fprintf(w, "steps are expected to take what %s says\n", shorten(printable(r.Costs), 40))
	}
	if r.Rank == nil {
		return nil
	}
	return printRank(w, r.Rank)
}

// printRank says how a policy in another process does, and what that costs.
func printRank(w io.Writer, s *schemas.RankState) error {
	state := "its order is used"
	if !s.Active {
		state = s.Fallback + " stands in for it"
	}
	micro := func(ns int64, n uint64) string { return fmt.Sprintf("%.1f µs", float64(ns)/1e3/float64(max(n, 1))) }
	steps := s.Ranked + s.Unranked
	fmt.Fprintf(w, "%s: %s\n", shorten(printable(s.Subject), 45), state)
	if !s.Active {
		fmt.Fprintf(w, "  because: %s\n", shorten(printable(s.Reason), columnsMax-11))
	}
	return table(w, [][]string{
		{"  questions", fmt.Sprintf("%d asked, %d answered", s.Asked, s.Answered)},
		{"  failures", fmt.Sprintf("%d late, %d without a listener, %d invalid", s.Late, s.Absent, s.Invalid)},
		{"  fallback", fmt.Sprintf("took over %d times, gave back %d times", s.Fell, s.Returned)},
		{"  steps", fmt.Sprintf("%d in its order, %d in the fallback's", s.Ranked, s.Unranked)},
		{"  answer", fmt.Sprintf("after %s, at most %s; limit %s", micro(s.TripNs, s.Answered), micro(s.TripMax, 1), time.Duration(s.Limit))},
		{"  tax per step", fmt.Sprintf("%s: asks %s, answers %s, waits %s", micro(s.AskNs+s.ApplyNs+s.WaitNs, steps), micro(s.AskNs, steps), micro(s.ApplyNs, steps), micro(s.WaitNs, steps))},
	})
}

func printShadow(w io.Writer, r *schemas.ShadowReport) error {
	if r.Policy == "" {
		_, err := fmt.Fprintf(w, "%s decides\nthere is no shadow; troupe policy shadow NAME begins one\n", shorten(printable(r.Live), 70))
		return err
	}
	fmt.Fprintf(w, "%s watches %s since %s\n", shorten(printable(r.Policy), 20), shorten(printable(r.Live), 20), time.UnixMilli(r.SinceMs).Format(time.DateTime))
	if r.Failed != "" {
		fmt.Fprintf(w, "it was ended: %s\n", shorten(printable(r.Failed), 64))
	}
	share := func(n uint64) string {
		return fmt.Sprintf("%d (%.1f %%)", n, 100*float64(n)/float64(max(r.Decisions, 1)))
	}
	if err := table(w, [][]string{
		{"  decisions", fmt.Sprint(r.Decisions)},
		{"  same order", share(r.Agreed)},
		{"  others first to start", share(r.Started)},
		{"  another first to yield", share(r.Yielded)},
		{"  work ahead of a request", fmt.Sprintf("%.0f tokens, with the shadow %.0f", r.AheadLive, r.AheadShadow)},
		{"  predicted mean wait", fmt.Sprintf("%+.1f %%", 100*r.Change)},
		{"  cost", fmt.Sprintf("%.1f µs per decision, %.1f at most", float64(r.CostNs)/1e3/float64(max(r.Decisions, 1)), float64(r.CostMaxNs)/1e3)},
	}); err != nil {
		return err
	}
	if r.Rank != nil {
		if err := printRank(w, r.Rank); err != nil {
			return err
		}
	}
	for i := len(r.Examples) - 1; i >= max(0, len(r.Examples)-3); i-- {
		x := &r.Examples[i]
		fmt.Fprintf(w, "step %d, %d run, %d wait; from place %d of the order on:\n  %-10s %s\n  %-10s %s\n", x.Step, x.Running, x.Waiting, x.From+1,
			shorten(printable(r.Live), 10), ids(x.LiveFirst), shorten(printable(r.Policy), 10), ids(x.ShadowFirst))
	}
	return nil
}

// ids shows the first sequences of an order.
func ids(seq schemas.U64) string {
	var parts []string
	for _, s := range seq[:min(len(seq), 3)] {
		parts = append(parts, schemas.SeqID(s).String())
	}
	return strings.Join(parts, " ")
}
