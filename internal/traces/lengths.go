package traces

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// Lengths is a distribution of token counts.
type Lengths struct {
	kind string
	a, b float64
}

// lengthForms are the forms of a distribution, with the number of their parameters.
var lengthForms = map[string]int{"fixed": 1, "uniform": 2, "normal": 2, "lognormal": 2, "exponential": 1}

// ParseLengths reads a distribution: "512" or "fixed:512", "uniform:128,1024" (both ends included),
// "normal:512,64" (mean, standard deviation), "lognormal:512,700" (mean and standard deviation of the lengths
// themselves) or "exponential:512" (mean). Lengths are rounded and at least 1.
func ParseLengths(text string) (Lengths, error) {
	bad := func(format string, args ...any) error {
		return schemas.Errorf(schemas.KindInvalid, "lengths", format, args...).
			WithHint("write 512, uniform:128,1024, normal:512,64, lognormal:512,700 or exponential:512")
	}
	kind, rest, named := strings.Cut(text, ":")
	if !named {
		kind, rest = "fixed", text
	}
	want, known := lengthForms[kind]
	if !known {
		return Lengths{}, bad("%.60q: no distribution %.20q", text, kind)
	}
	fields := strings.Split(rest, ",")
	if len(fields) != want {
		return Lengths{}, bad("%.60q: %d parameters; %s has %d", text, len(fields), kind, want)
	}
	var values [2]float64
	for i, f := range fields {
		v, err := strconv.ParseFloat(strings.TrimSpace(f), 64)
		if err != nil || !(v >= 0 && v <= TokensMax) {
			return Lengths{}, bad("%.60q: %.20q is no length; expected 0 to %d", text, f, TokensMax)
		}
		values[i] = v
	}
	d := Lengths{kind, values[0], values[1]}
	switch {
	case kind == "uniform" && d.b < d.a:
		return Lengths{}, bad("%.60q: the upper end is below the lower one", text)
	case d.a < 1:
		return Lengths{}, bad("%.60q: expected at least one token", text)
	}
	return d, nil
}

func (d Lengths) String() string {
	switch d.kind {
	case "":
		return ""
	case "fixed":
		return strconv.FormatFloat(d.a, 'f', -1, 64)
	case "exponential":
		return fmt.Sprintf("exponential:%g", d.a)
	}
	return fmt.Sprintf("%s:%g,%g", d.kind, d.a, d.b)
}

// Draw returns a length, 1 to TokensMax.
func (d Lengths) Draw(random *rand.Rand) int32 {
	v := d.a
	switch d.kind {
	case "uniform":
		low, high := math.Round(d.a), math.Round(d.b)
		v = low + float64(random.Int64N(int64(high-low)+1))
	case "normal":
		v = d.a + d.b*random.NormFloat64()
	case "lognormal":
		variance := math.Log1p(d.b * d.b / (d.a * d.a))
		v = math.Exp(math.Log(d.a) - variance/2 + math.Sqrt(variance)*random.NormFloat64())
	case "exponential":
		v = d.a * random.ExpFloat64()
	}
	return int32(min(max(math.Round(v), 1), TokensMax))
}
