package bench

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// request is one client request of a load, encoded before the load starts.
type request struct {
	at     time.Duration // after the start of the load
	input  int           // tokens
	output int           // tokens wanted
	body   []byte        // of /v1/completions, as JSON
}

// served is what the server under load can take.
type served struct {
	model      string
	vocabulary int
	contextMax int
}

const (
	firstToken   = 4       // lower ids are special in most vocabularies
	traceRowsMax = 1 << 20 // read from a trace
)

// load prepares requests: n of them, the same for the same seed.
func (c *ServeConfig) load(s served, n int, seed uint64) ([]request, error) {
	random := rand.New(rand.NewPCG(seed, 0x74726f757065))
	var list []request
	var err error
	if c.Dataset == "trace" {
		list, err = readTrace(c.DatasetPath, n)
	} else {
		list = c.randomLengths(random, n)
	}
	if err != nil {
		return nil, err
	}
	if c.Dataset != "trace" || !math.IsInf(c.RequestRate, 1) {
		for i, at := range arrivals(random, len(list), c.RequestRate, c.Burstiness) {
			list[i].at = at
		}
	}
	for i := range list {
		if err := c.encode(&list[i], s, random); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// randomLengths draws lengths as `vllm bench serve` does: uniform within ratio of the wanted ones.
func (c *ServeConfig) randomLengths(random *rand.Rand, n int) []request {
	draw := func(length int) int {
		low := int(math.Floor(float64(length) * (1 - c.RandomRangeRatio)))
		high := int(math.Ceil(float64(length) * (1 + c.RandomRangeRatio)))
		return max(1, low+random.IntN(high-low+1))
	}
	list := make([]request, n)
	for i := range list {
		list[i] = request{input: draw(c.RandomInputLen), output: draw(c.RandomOutputLen)}
	}
	return list
}

// encode gives a request a random prompt. Nothing is shared between prompts, so no prefix is reused.
func (c *ServeConfig) encode(r *request, s served, random *rand.Rand) error {
	if s.contextMax > 0 && r.input+r.output > s.contextMax {
		if c.Dataset != "trace" {
			return schemas.Errorf(schemas.KindInvalid, "bench serve", "%d input and %d output tokens exceed the context of %d", r.input, r.output, s.contextMax).
				WithParam("random-input-len").WithHint("choose a smaller --random-input-len or --random-output-len")
		}
		r.output = min(r.output, s.contextMax/2) // a trace of a larger model: as much as fits
		r.input = min(r.input, s.contextMax-r.output)
	}
	prompt := make([]int, r.input)
	for i := range prompt {
		prompt[i] = firstToken + random.IntN(s.vocabulary-firstToken)
	}
	body := map[string]any{"model": s.model, "prompt": prompt, "max_tokens": r.output, "temperature": c.Temperature,
		"stream": true, "stream_options": map[string]bool{"include_usage": true}, "ignore_eos": c.IgnoreEOS}
	if c.Ledger {
		body["troupe"] = schemas.Wish{Ledger: true}
	}
	var err error
	r.body, err = json.Marshal(body)
	return err
}

// arrivals draws n arrival times with gamma-distributed intervals, as `vllm bench serve` does: rate in
// requests per second (infinite: all at once), burstiness is the shape, 1 is a Poisson process. As there,
// the times are scaled so that the last one is exactly (n-1)/rate.
func arrivals(random *rand.Rand, n int, rate, burstiness float64) []time.Duration {
	list := make([]time.Duration, n)
	if math.IsInf(rate, 1) || n < 2 {
		return list
	}
	sums := make([]float64, n)
	for i := 1; i < n; i++ {
		sums[i] = sums[i-1] + gamma(random, burstiness)
	}
	if sums[n-1] == 0 {
		return list
	}
	scale := float64(n-1) / rate / sums[n-1]
	for i, s := range sums {
		list[i] = time.Duration(s * scale * float64(time.Second))
	}
	return list
}

// gamma draws from the gamma distribution with the given shape and scale 1 (Marsaglia and Tsang, "A simple
// method for generating gamma variables", 2000).
func gamma(random *rand.Rand, shape float64) float64 {
	if shape < 1 {
		return gamma(random, shape+1) * math.Pow(1-random.Float64(), 1/shape)
	}
	d := shape - 1.0/3
	c := 1 / math.Sqrt(9*d)
	for {
		x := random.NormFloat64()
		v := 1 + c*x
		if v <= 0 {
			continue
		}
		v = v * v * v
		if math.Log(1-random.Float64()) < 0.5*x*x+d-d*v+d*math.Log(v) {
			return d * v
		}
	}
}

// traceTimes are the layouts of TIMESTAMP in the Azure LLM inference traces of 2023 and 2024
// (https://github.com/Azure/AzurePublicDataset).
var traceTimes = []string{"2006-01-02 15:04:05.9999999", "2006-01-02 15:04:05.999999-07:00"}

// readTrace reads the first n requests of a trace: a CSV file with TIMESTAMP, ContextTokens and
// GeneratedTokens. Requests arrive as they did then.
func readTrace(path string, n int) ([]request, error) {
	bad := func(format string, args ...any) error {
		return schemas.Errorf(schemas.KindInvalid, "bench serve", "trace: "+format, args...).WithParam("dataset-path").
			WithHint("expected a CSV file with the columns TIMESTAMP, ContextTokens and GeneratedTokens")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, bad("%v", err)
	}
	defer file.Close()
	rows := csv.NewReader(file)
	rows.ReuseRecord = true
	if header, err := rows.Read(); err != nil || len(header) != 3 {
		return nil, bad("the first line does not name three columns")
	}
	var list []request
	var first time.Time
	for len(list) < min(n, traceRowsMax) {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, bad("%v", err)
		}
		at, err := parseTime(row[0])
		input, err1 := strconv.Atoi(row[1])
		output, err2 := strconv.Atoi(row[2])
		if err = errors.Join(err, err1, err2); err != nil || input < 1 || output < 1 {
			line, _ := rows.FieldPos(0)
			return nil, bad("line %d: %.80q", line, row)
		}
		if first.IsZero() {
			first = at
		}
		list = append(list, request{at: max(0, at.Sub(first)), input: input, output: output})
	}
	if len(list) == 0 {
		return nil, bad("it has no requests")
	}
	return list, nil
}

func parseTime(text string) (t time.Time, err error) {
	for _, layout := range traceTimes {
		if t, err = time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return t, fmt.Errorf("timestamp: %w", err)
}
