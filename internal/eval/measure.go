package eval

import (
	"math"
	"slices"
)

// sample is what one token's logits say.
type sample struct {
	nll, referenceNLL, kl float64
	sameTop               bool
}

// measure compares logits, [V], with the token that follows and, if it is not nil, with a reference's. Everything
// is summed in float64.
func measure(logits, reference []float32, next int32) sample {
	top, lse := logSumExp(logits)
	s := sample{nll: lse - float64(logits[next])}
	if reference == nil {
		return s
	}
	referenceTop, referenceLSE := logSumExp(reference)
	s.referenceNLL = referenceLSE - float64(reference[next])
	s.sameTop = top == referenceTop
	for i, v := range reference {
		logP := float64(v) - referenceLSE
		if p := math.Exp(logP); p != 0 { // what cannot be adds nothing, even if both say so
			s.kl += p * (logP - (float64(logits[i]) - lse))
		}
	}
	s.kl = max(s.kl, 0) // below only by rounding; NaN stays
	return s
}

// logSumExp returns the index of the largest of x, the first of equals, and log(sum(exp(x))).
func logSumExp(x []float32) (top int, lse float64) {
	for i, v := range x {
		if v > x[top] {
			top = i
		}
	}
	sum, largest := 0.0, float64(x[top])
	for _, v := range x {
		sum += math.Exp(float64(v) - largest)
	}
	return top, largest + math.Log(sum)
}

// tally gathers samples in the order of the text.
type tally struct {
	nll, referenceNLL, kl []float64
	same                  int
}

func (t *tally) add(list []sample, compared bool) {
	for _, s := range list {
		t.nll = append(t.nll, s.nll)
		if compared {
			t.referenceNLL = append(t.referenceNLL, s.referenceNLL)
			t.kl = append(t.kl, s.kl)
			if s.sameTop {
				t.same++
			}
		}
	}
}

// worst returns a number that is not finite if any of the comparison is not.
func (t *tally) worst() float64 {
	sum := 0.0
	for i := range t.kl {
		sum += t.kl[i] + t.referenceNLL[i]
	}
	return sum
}

// meanErr returns the mean of values and its standard error.
func meanErr(values []float64) (mean, stdErr float64) {
	for _, v := range values {
		mean += v
	}
	n := float64(len(values))
	mean /= n
	squares := 0.0
	for _, v := range values {
		squares += (v - mean) * (v - mean)
	}
	return mean, math.Sqrt(squares / n / max(1, n-1))
}

func score(nll []float64) Score {
	mean, stdErr := meanErr(nll)
	return Score{Perplexity: math.Exp(mean), StdErr: math.Exp(mean) * stdErr, NLL: mean}
}

// divergence compares pairs, so the error of the ratio is that of the difference: most of what makes tokens hard
// makes them hard for both.
func (t *tally) divergence() *Divergence {
	differences := make([]float64, len(t.nll))
	for i := range differences {
		differences[i] = t.nll[i] - t.referenceNLL[i]
	}
	mean, stdErr := meanErr(differences)
	d := &Divergence{Ratio: math.Exp(mean), RatioStdErr: math.Exp(mean) * stdErr, SameTop: float64(t.same) / float64(len(t.nll))}
	d.KL, d.KLStdErr = meanErr(t.kl)
	sorted := slices.Clone(t.kl)
	slices.Sort(sorted)
	d.KLP99, d.KLMax = sorted[(len(sorted)-1)*99/100], sorted[len(sorted)-1]
	return d
}
