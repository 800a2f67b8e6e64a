package profile

import (
	"cmp"
	"math"
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// Observation is one step that ran.
type Observation struct {
	Shape Shape
	Ns    float64
}

// pointsMin is how many different shapes it takes to fit the terms.
const pointsMin = 8

// Learn fits terms to steps that ran. Steps of about the same shape become one point, their mean without the slowest
// fiftieth: what a step costs on average, but not what happened to it once. The fit is least squares of relative
// errors with no term below zero.
func Learn(steps []Observation) (Terms, Fit, []Point, error) { return LearnQuantile(steps, 0) }

// LearnQuantile is Learn with a quantile of the steps of a shape instead of their mean, 0 < q < 1: a low one comes near to
// what steps cost on an idle machine, though others used it.
func LearnQuantile(steps []Observation, q float64) (Terms, Fit, []Point, error) {
	if q < 0 || q >= 1 {
		return Terms{}, Fit{}, nil, schemas.Errorf(schemas.KindInvalid, "profile", "quantile is %g; expected more than 0 and less than 1, or 0 for the mean", q).WithParam("quantile")
	}
	points := gather(steps, q)
	if len(points) < pointsMin {
		return Terms{}, Fit{}, nil, schemas.Errorf(schemas.KindInvalid, "profile", "%d different shapes of steps were measured; a fit needs %d", len(points), pointsMin)
	}
	terms := fitTerms(points)
	f := errorsOf(points, func(int) Terms { return terms })
	f.HeldOut = heldOut(points)
	for _, p := range points {
		l := &f.Largest
		l.Rows, l.Tokens, l.Sampled = max(l.Rows, p.Shape.Rows), max(l.Tokens, p.Shape.Tokens), max(l.Sampled, p.Shape.Sampled)
		l.DecodeContext, l.PrefillPairs = max(l.DecodeContext, p.Shape.DecodeContext), max(l.PrefillPairs, p.Shape.PrefillPairs)
	}
	return terms, f, points, nil
}

// gather makes points of steps: means, or quantiles if q is not 0.
func gather(steps []Observation, q float64) []Point {
	type key struct {
		rows, tokens, sampled, decode, prefill int
		resumed                                bool
	}
	groups := map[key][]Observation{}
	for _, s := range steps {
		k := key{class(int64(s.Shape.Rows)), class(int64(s.Shape.Tokens)), class(int64(s.Shape.Sampled)), class(s.Shape.DecodeContext), class(s.Shape.PrefillPairs), s.Shape.Resumed}
		groups[k] = append(groups[k], s)
	}
	points := make([]Point, 0, len(groups))
	for _, g := range groups {
		points = append(points, pointOf(g, q))
	}
	slices.SortFunc(points, func(a, b Point) int {
		return cmp.Or(cmp.Compare(a.Shape.Tokens, b.Shape.Tokens), cmp.Compare(a.Shape.Rows, b.Shape.Rows), cmp.Compare(a.Shape.Sampled, b.Shape.Sampled),
			cmp.Compare(a.Shape.DecodeContext, b.Shape.DecodeContext), cmp.Compare(a.Shape.PrefillPairs, b.Shape.PrefillPairs),
			cmp.Compare(flag(a.Shape.Resumed), flag(b.Shape.Resumed)))
	})
	return points
}

func flag(set bool) float64 {
	if set {
		return 1
	}
	return 0
}

// class puts numbers that differ by less than a fifth together.
func class(n int64) int {
	if n <= 8 {
		return int(n)
	}
	return 8 + int(math.Log(float64(n)/8)*5)
}

func pointOf(group []Observation, q float64) Point {
	slices.SortFunc(group, func(a, b Observation) int { return cmp.Compare(a.Ns, b.Ns) })
	kept := group[:len(group)-len(group)/50]
	p := Point{Steps: len(group)}
	n, sum := float64(len(kept)), [5]float64{}
	for _, o := range kept {
		p.Ns += o.Ns / n
		for i, v := range []float64{float64(o.Shape.Rows), float64(o.Shape.Tokens), float64(o.Shape.Sampled), float64(o.Shape.DecodeContext), float64(o.Shape.PrefillPairs)} {
			sum[i] += v / n
		}
	}
	if q > 0 {
		p.Ns = group[int(q*float64(len(group)))].Ns
	}
	for _, o := range group {
		p.Spread += math.Abs(o.Ns-p.Ns) / p.Ns / float64(len(group))
	}
	p.Shape = Shape{Rows: int32(math.Round(sum[0])), Tokens: int32(math.Round(sum[1])), Sampled: int32(math.Round(sum[2])),
		DecodeContext: int64(math.Round(sum[3])), PrefillPairs: int64(math.Round(sum[4])), Resumed: group[0].Shape.Resumed}
	return p
}

// knots are 1, 2, 4, … up to the largest value and no further.
func knots(points []Point, of func(Shape) int32) []float64 {
	largest := int32(1)
	for _, p := range points {
		largest = max(largest, of(p.Shape))
	}
	list := []float64{1}
	for next := 2.0; next < float64(largest); next *= 2 {
		list = append(list, next)
	}
	if last := float64(largest); last > 1 {
		list = append(list, last)
	}
	return list
}

// fitRounds is how often the weights follow the fit.
const fitRounds = 6

// fitTerms minimizes the squares of relative errors. They are relative to what the fit says, not to what was measured:
// the latter would favour points that came out too low.
func fitTerms(points []Point) Terms {
	tokens := Curve{X: knots(points, func(s Shape) int32 { return s.Tokens })}
	sampled := Curve{X: knots(points, func(s Shape) int32 { return s.Sampled })}
	rows, expected := make([][]float64, len(points)), make([]float64, len(points))
	for i, p := range points {
		rows[i], expected[i] = features(p.Shape, &tokens, &sampled), p.Ns
	}
	var t Terms
	for range fitRounds {
		x := weightedFit(points, rows, expected)
		t = Terms{Tokens: Curve{tokens.X, x[:len(tokens.X)]}, Sampled: Curve{sampled.X, x[len(tokens.X) : len(x)-4]},
			RowNs: x[len(x)-4], DecodeNs: x[len(x)-3], PrefillNs: x[len(x)-2], ResumeNs: x[len(x)-1]}
		for i, p := range points {
			expected[i] = max(float64((&Profile{Terms: t}).StepNs(p.Shape)), p.Ns/100, 1)
		}
	}
	return t
}

// weightedFit finds the factors of the features that come closest to the points, none below zero. Errors count in
// relation to expected, and more for shapes that were seen often.
func weightedFit(points []Point, rows [][]float64, expected []float64) []float64 {
	n := len(rows[0])
	scale, right, gram := make([]float64, n), make([]float64, n), make([][]float64, n)
	for j := range gram {
		gram[j] = make([]float64, n)
		for i := range rows {
			scale[j] = max(scale[j], rows[i][j])
		}
		scale[j] = max(scale[j], 1)
	}
	row := make([]float64, n)
	for i, p := range points {
		weight := math.Sqrt(float64(min(p.Steps, 32))) / expected[i]
		for j := range row {
			row[j] = rows[i][j] / scale[j] * weight
		}
		for j, v := range row {
			for k, u := range row {
				gram[j][k] += v * u
			}
			right[j] += v * weight * p.Ns
		}
	}
	x := nonNegative(gram, right)
	for j := range x {
		x[j] /= scale[j]
	}
	return x
}

// features are the coefficients of the unknowns: the curves' values at their knots, and the four factors.
func features(s Shape, tokens, sampled *Curve) []float64 {
	list := hats(tokens.X, float64(s.Tokens))
	if s.Sampled > 0 {
		list = append(list, hats(sampled.X, float64(s.Sampled))...)
	} else {
		list = append(list, make([]float64, len(sampled.X))...)
	}
	return append(list, float64(s.Rows), float64(s.DecodeContext), float64(s.PrefillPairs), flag(s.Resumed))
}

// hats are the weights of the knots in a piecewise linear curve's value at v.
func hats(knots []float64, v float64) []float64 {
	list := make([]float64, len(knots))
	v = min(max(v, knots[0]), knots[len(knots)-1])
	for i := range knots {
		if v == knots[i] {
			list[i] = 1
			break
		}
		if i+1 < len(knots) && v < knots[i+1] {
			part := (v - knots[i]) / (knots[i+1] - knots[i])
			list[i], list[i+1] = 1-part, part
			break
		}
	}
	return list
}

// nonNegative minimizes x·gram·x/2 - right·x over x ≥ 0. A little is added to the diagonal, so that terms which cannot be
// told apart share what they explain.
func nonNegative(gram [][]float64, right []float64) []float64 {
	x := make([]float64, len(right))
	largest := 0.0
	for j := range gram {
		largest = max(largest, gram[j][j])
	}
	ridge := 1e-7 * largest
	for range 4000 {
		change := 0.0
		for j := range x {
			slope := right[j]
			for k := range x {
				slope -= gram[j][k] * x[k]
			}
			next := max(0, x[j]+(slope-ridge*x[j])/(gram[j][j]+ridge))
			if gram[j][j] == 0 {
				next = 0
			}
			change = max(change, math.Abs(next-x[j])/(math.Abs(next)+1))
			x[j] = next
		}
		if change < 1e-8 {
			break
		}
	}
	return x
}

// errorsOf compares points with the terms that stand for each.
func errorsOf(points []Point, terms func(i int) Terms) Fit {
	errs := make([]float64, len(points))
	f := Fit{Points: len(points)}
	for i, p := range points {
		errs[i] = math.Abs(float64((&Profile{Terms: terms(i)}).StepNs(p.Shape))-p.Ns) / p.Ns
		f.Mean += errs[i] / float64(len(points))
	}
	f.Spread = spreadOf(points)
	for _, p := range points {
		f.Repeat += f.Spread / math.Sqrt(float64(max(p.Steps, 1))) / float64(len(points))
	}
	f.Misfit = math.Sqrt(max(0, f.Mean*f.Mean-f.Repeat*f.Repeat))
	slices.Sort(errs)
	f.Median, f.P90, f.Max = errs[len(errs)/2], errs[len(errs)*9/10], errs[len(errs)-1]
	return f
}

// spreadStepsMin is how many steps of a shape it takes to tell how much they differ.
const spreadStepsMin = 4

// spreadOf is the mean over points of how much their steps differ; 0 if none has enough of them.
func spreadOf(points []Point) float64 {
	sum, n := 0.0, 0
	for _, p := range points {
		if p.Steps >= spreadStepsMin {
			sum, n = sum+p.Spread, n+1
		}
	}
	return sum / float64(max(n, 1))
}

// folds is into how many parts points are divided to see how well the others foretell each.
const folds = 5

func heldOut(points []Point) float64 {
	byFold := make([]Terms, folds)
	for fold := range folds {
		var rest []Point
		for i, p := range points {
			if i%folds != fold {
				rest = append(rest, p)
			}
		}
		byFold[fold] = fitTerms(rest)
	}
	return errorsOf(points, func(i int) Terms { return byFold[i%folds] }).Mean
}
