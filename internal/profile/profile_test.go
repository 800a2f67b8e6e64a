package profile

import (
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

func TestShapeOf(t *testing.T) {
	got := ShapeOf(&schemas.StepPlan{Start: schemas.I32{100, 0, 10}, Count: schemas.I32{1, 4, 3}, Sample: schemas.U8{1, 0, 1}})
	want := Shape{Rows: 3, Tokens: 8, Sampled: 2, DecodeContext: 101, PrefillPairs: 1 + 2 + 3 + 4 + 11 + 12 + 13}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// truth is a device whose cost has a knee, as real ones do, with noise.
func truth(s Shape, random *rand.Rand) float64 {
	ns := 200e3 + 2e3*max(float64(s.Tokens), 32) + 300*float64(s.DecodeContext)/16 + 4*float64(s.PrefillPairs) + 9e3*float64(s.Sampled)
	if s.Resumed {
		ns += 400e3
	}
	return ns * (1 + 0.03*random.NormFloat64())
}

func someShape(random *rand.Rand) Shape {
	decodes, chunk := random.Int32N(40), random.Int32N(3)*random.Int32N(250)
	s := Shape{Rows: decodes, Tokens: decodes + chunk, Sampled: decodes, DecodeContext: int64(decodes) * random.Int64N(2000)}
	if chunk > 1 || decodes == 0 {
		chunk = max(chunk, 2)
		s.Rows, s.Tokens = decodes+1, decodes+chunk
		s.PrefillPairs = int64(chunk) * random.Int64N(1500)
		s.Sampled += random.Int32N(2)
		s = s.After(random.Int64N(2) * PauseNs)
	}
	return s
}

func TestLearnFindsWhatStepsCost(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 5))
	var steps []Observation
	for range 6000 {
		s := someShape(random)
		steps = append(steps, Observation{s, truth(s, random)})
	}
	terms, fit, points, err := Learn(steps)
	if err != nil {
		t.Fatal(err)
	}
	if fit.Mean > 0.03 || fit.HeldOut > 0.04 || fit.Points != len(points) {
		t.Errorf("fit %+v", fit)
	}
	if math.Abs(terms.ResumeNs-400e3) > 40e3 {
		t.Errorf("a step after a pause takes %.0f ns longer, want 400000", terms.ResumeNs)
	}
	p := Profile{Version: Version, Terms: terms, Fit: fit}
	sum := 0.0
	for range 1000 {
		s := someShape(random)
		want := truth(s, rand.New(rand.NewPCG(1, 1)))
		sum += math.Abs(float64(p.StepNs(s))-want) / want
	}
	if mean := sum / 1000; mean > 0.05 {
		t.Errorf("new shapes are %.1f %% off on average", 100*mean)
	}
	if _, _, _, err := Learn(steps[:3]); err == nil {
		t.Error("three steps make a profile")
	}
}

// TestAQuantileSeesThroughDisturbances: half of the steps take ten times as long.
func TestAQuantileSeesThroughDisturbances(t *testing.T) {
	random := rand.New(rand.NewPCG(6, 6))
	var steps []Observation
	for range 8000 {
		s := Shape{Rows: 1 + random.Int32N(4), Sampled: 1}
		s.Tokens, s.DecodeContext = s.Rows, int64(s.Rows)*100
		ns := truth(s, random)
		if random.IntN(2) == 0 {
			ns *= 10
		}
		steps = append(steps, Observation{s, ns})
	}
	for i := range int32(8) { // enough shapes for a fit
		s := Shape{Rows: 1, Tokens: 20 << i, PrefillPairs: 100 << i}
		steps = append(steps, Observation{s, truth(s, random)})
	}
	terms, _, _, err := LearnQuantile(steps, 0.25)
	if err != nil {
		t.Fatal(err)
	}
	s := Shape{Rows: 3, Tokens: 3, Sampled: 1, DecodeContext: 300}
	want := truth(s, rand.New(rand.NewPCG(1, 1)))
	if got := float64((&Profile{Terms: terms}).StepNs(s)); math.Abs(got-want)/want > 0.1 {
		t.Errorf("%g ns, want %g", got, want)
	}
	if _, _, _, err := LearnQuantile(steps, 1); err == nil {
		t.Error("quantile 1 is taken")
	}
}

func TestFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.json")
	p := &Profile{Version: Version, Name: "x", Terms: Terms{Tokens: Curve{X: []float64{1, 8}, Y: []float64{5, 40}}, RowNs: 2}}
	if err := p.Write(path); err != nil {
		t.Fatal(err)
	}
	again, err := Named(path)
	if err != nil || again.StepNs(Shape{Tokens: 4, Rows: 1}) != 22 {
		t.Errorf("%+v, %v", again, err)
	}
	for text, want := range map[string]string{
		"{":              "unexpected EOF",
		`{"version": 2}`: "version",
		`{"version": 1, "terms": {"row_ns": -1}}`:                         "terms.row_ns",
		`{"version": 1, "terms": {"tokens": {"x": [1, 1], "y": [1, 2]}}}`: "terms.tokens",
		`{"version": 1, "terms": {"sampled": {"x": [1], "y": []}}}`:       "terms.sampled",
		`{"version": 1, "terms": {"sampled": {"x": [1], "y": [1e300]}}}`:  "terms.sampled",
		`{"version": 1, "serving": {"request_ns": 1e20}}`:                 "serving.request_ns",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
	}
	if _, err := Named("no-such"); err == nil || !strings.Contains(err.Error(), "no-such") {
		t.Errorf("got %v", err)
	}
}

func TestCurve(t *testing.T) {
	c := Curve{X: []float64{2, 4, 8}, Y: []float64{10, 20, 60}}
	for x, want := range map[float64]float64{0: 10, 2: 10, 3: 15, 4: 20, 6: 40, 8: 60, 10: 80} {
		if got := c.At(x); got != want {
			t.Errorf("at %g: %g, want %g", x, got, want)
		}
	}
}

// FuzzParse: a profile that is taken gives every shape a cost that is a time.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version": 1, "terms": {"tokens": {"x": [1, 8], "y": [5, 40]}, "sampled": {"x": [2], "y": [3]}, "row_ns": 2}}`), int32(5), int32(900))
	f.Add(troupeTinyCPU, int32(1), int32(1<<30))
	f.Fuzz(func(t *testing.T, body []byte, rows, tokens int32) {
		p, err := Parse(body)
		if err != nil {
			return
		}
		s := Shape{Rows: max(0, rows), Tokens: max(0, tokens), Sampled: max(0, rows), DecodeContext: int64(max(0, tokens)), PrefillPairs: int64(max(0, tokens)) * 1000}
		if ns := p.StepNs(s); ns < 0 {
			t.Errorf("%+v costs %d ns", s, ns)
		}
	})
}
