package conform

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/schemas"
)

// Options of Scheduler.
type Options struct {
	Subject  string        // NAME or a whole subject, as in nats:NAME
	JSON     bool          // ask in JSON
	Limit    time.Duration // for an answer in time
	Random   int           // random queues
	Seed     uint64
	Recorded []*schemas.RankRequest // further queues, of a recording
}

// patience is how long an answer is waited for that is late: to tell a slow policy from a dead one.
const patience = 3 * time.Second

// run is one run of the checks.
type run struct {
	conn   *nats.Conn
	opts   Options
	report *Report
	trips  []time.Duration
	late   []string
}

// Scheduler checks a scheduling policy on a subject. It returns an error only if it could not be asked at all.
func Scheduler(ctx context.Context, conn *nats.Conn, opts Options) (*Report, error) {
	subject, err := scheduler.RankSubject(opts.Subject)
	if err != nil {
		return nil, err
	}
	opts.Subject = subject
	r := &run{conn: conn, opts: opts, report: &Report{Subject: subject}}
	first := queue(rand.New(rand.NewPCG(opts.Seed, 1)), 3)
	first.Number = 1
	if o := r.ask(ctx, first, patience); o.Error != nil && o.Error.Kind == schemas.KindUnavailable {
		return nil, o.Error.WithHint("start the policy, then try again; `nats sub %s` shows whether questions arrive", subject)
	}
	samples := queues(opts.Random, opts.Seed)
	for i, q := range opts.Recorded {
		samples = append(samples, sample{fmt.Sprintf("recorded queue %d", i+1), q})
	}
	orders := r.orders(ctx, samples)
	r.repeats(ctx, samples, orders)
	r.shuffles(ctx, samples, orders)
	r.inTime()
	r.refusals(ctx)
	if err := ctx.Err(); err != nil {
		return nil, schemas.AsError(err, "conform")
	}
	r.percentiles()
	return r.report, nil
}

func (r *run) ask(ctx context.Context, q *schemas.RankRequest, limit time.Duration) *schemas.RankOutcome {
	return scheduler.Ask(ctx, r.conn, &scheduler.Question{Request: q, Subject: r.opts.Subject, JSON: r.opts.JSON, Limit: limit})
}

// order asks for one order and checks it.
func (r *run) order(ctx context.Context, q sample) (schemas.I32, error) {
	o := r.ask(ctx, q.request, patience)
	r.report.Questions++
	trip := time.Duration(o.TripNs)
	r.trips = append(r.trips, trip)
	if trip > r.opts.Limit {
		r.late = append(r.late, fmt.Sprintf("%s (%d rows) took %.1f ms", q.name, len(q.request.Seq), milliseconds(trip)))
	}
	if o.Error != nil {
		return nil, errors.New(o.Error.Detail)
	}
	if err := scheduler.CheckOrder(o.Reply, q.request.Number, len(q.request.Seq)); err != nil {
		return nil, errors.New(err.Detail)
	}
	return o.Reply.Order, nil
}

// check adds a check with its failures; found describes success.
func (r *run) check(name string, failures []string, found, hint string) {
	c := Check{Name: name, Passed: len(failures) == 0, Detail: found}
	if !c.Passed {
		c.Hint = hint
		c.Detail = fmt.Sprintf("%d times; first: %s", len(failures), failures[0])
	}
	r.report.Checks = append(r.report.Checks, c)
}

// orders asks about every sample.
func (r *run) orders(ctx context.Context, samples []sample) (orders []schemas.I32) {
	var failures []string
	for _, s := range samples {
		order, err := r.order(ctx, s)
		if err != nil {
			failures = append(failures, s.name+": "+err.Error())
		}
		orders = append(orders, order)
	}
	r.check("permutation", failures, fmt.Sprintf("%d queues, of 0 to %d rows: each row once, the number repeated", len(samples), schemas.RankRowsMax),
		"answer {number: of the question, order: the indices of all rows}")
	return orders
}

// repeats asks again: the answer must depend on the question alone.
func (r *run) repeats(ctx context.Context, samples []sample, orders []schemas.I32) {
	var failures []string
	for i, s := range samples {
		if orders[i] == nil && len(s.request.Seq) > 0 {
			continue // reported already
		}
		again, err := r.order(ctx, s)
		if err == nil && !slices.Equal(again, orders[i]) {
			failures = append(failures, s.name+": asked again, it answers otherwise")
		}
	}
	r.check("deterministic", failures, "the same question gets the same answer",
		"a policy that learns or draws lots cannot be replayed: derive the order from the question")
}

// shuffles asks about the same sequences in other rows.
func (r *run) shuffles(ctx context.Context, samples []sample, orders []schemas.I32) {
	rng := rand.New(rand.NewPCG(r.opts.Seed, 2))
	var failures []string
	for i, s := range samples {
		if orders[i] == nil {
			continue
		}
		q, from := shuffled(s.request, rng)
		order, err := r.order(ctx, sample{s.name, q})
		if err != nil {
			continue // "permutation" says so for the same rows
		}
		for place, row := range order {
			if from[row] != int(orders[i][place]) {
				failures = append(failures, s.name+": with the rows in another order, other sequences go first")
				break
			}
		}
	}
	r.check("row order", failures, "the order of the rows does not matter", "break ties by the column arrival")
}

func (r *run) inTime() {
	limit := fmt.Sprintf("%.1f ms", milliseconds(r.opts.Limit))
	r.check("in time", r.late, "every answer within "+limit, "the limit is "+limit+" (--limit); an engine falls back when it is over")
}

// refusals sends what is no question.
func (r *run) refusals(ctx context.Context) {
	var failures []string
	names := make([]string, 0, 8)
	payloads := hostile()
	for name := range payloads {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if why := r.refuses(ctx, payloads[name]); why != "" {
			failures = append(failures, name+": "+why)
		}
	}
	r.check("refusals", failures, fmt.Sprintf("%d payloads that are no question get errors", len(names)),
		"answer with the headers Nats-Service-Error-Code: 400 and Nats-Service-Error: what is wrong")
	q := queue(rand.New(rand.NewPCG(r.opts.Seed, 3)), 4)
	q.Number = 4
	var after []string
	if _, err := r.order(ctx, sample{"a question after them", q}); err != nil {
		after = append(after, err.Error())
	}
	r.check("survival", after, "it answers questions after that", "catch what a bad question throws")
}

// refuses says why the answer to a payload is no refusal, or "".
func (r *run) refuses(ctx context.Context, payload []byte) string {
	m := nats.NewMsg(r.opts.Subject)
	m.Header.Set("Content-Type", "application/msgpack")
	if r.opts.JSON {
		m.Header.Set("Content-Type", "application/json")
	}
	m.Data = payload
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	reply, err := r.conn.RequestMsgWithContext(ctx, m)
	r.report.Questions++
	switch {
	case err != nil:
		return strings.TrimPrefix(err.Error(), "nats: ")
	case reply.Header.Get(micro.ErrorCodeHeader) == "":
		return "it answers as if that were a question"
	}
	return ""
}

func (r *run) percentiles() {
	slices.Sort(r.trips)
	at := func(share float64) float64 {
		return milliseconds(r.trips[min(int(share*float64(len(r.trips))), len(r.trips)-1)])
	}
	r.report.TripP50, r.report.TripP99, r.report.TripMax = at(0.5), at(0.99), at(1)
}
