package simulate

import (
	"fmt"
	"math"
	"strings"
)

// chart is one plot: lines over a common x, or bars.
type chart struct {
	title, x, y string
	logX        bool
	lines       []line
	bars        bool // each line is one bar: its only y
}

type line struct {
	name string
	x, y []float64
}

// runsPlotted bounds the lines of a chart: more cannot be told apart.
const runsPlotted = 8

// colors tell lines apart also without colour vision (Okabe and Ito, "Color Universal Design", 2008).
var colors = [runsPlotted][3]uint8{{0, 114, 178}, {213, 94, 0}, {0, 158, 115}, {204, 121, 167}, {86, 180, 233}, {230, 159, 0}, {0, 0, 0}, {120, 120, 120}}

// charts are the plots of a sweep's outcomes, of the first few if there are many.
func charts(sweeps []Sweep, outcomes []Outcome) []chart {
	outcomes = outcomes[:min(len(outcomes), runsPlotted)]
	overTime := func(title, y string, value func(Sample) float64) chart {
		c := chart{title: title, x: "s", y: y}
		for _, o := range outcomes {
			l := line{name: label(sweeps, o)}
			for _, s := range o.Report.Series {
				l.x, l.y = append(l.x, s.Seconds), append(l.y, value(s))
			}
			c.lines = append(c.lines, l)
		}
		return c
	}
	distribution := func(title string, of func(*Report) []float64) chart {
		c := chart{title: title, x: "ms", y: "% of requests", logX: true}
		for _, o := range outcomes {
			l := line{name: label(sweeps, o)}
			for i, v := range of(o.Report) {
				l.x, l.y = append(l.x, max(v, 1e-3)), append(l.y, 100*float64(i)/float64(curvePoints-1))
			}
			c.lines = append(c.lines, l)
		}
		return c
	}
	list := []chart{
		distribution("TTFT", func(r *Report) []float64 { return r.TTFT.curve }),
		distribution("TPOT", func(r *Report) []float64 { return r.TPOT.curve }),
		overTime("requests without a first token", "requests", func(s Sample) float64 { return float64(s.Queued) }),
		smooth(overTime("output", "tokens/s", func(s Sample) float64 { return s.OutputTPS })),
		overTime("KV blocks in use", "%", func(s Sample) float64 { return 100 * s.Used }),
		overTime("prompt tokens so far from the prefix cache", "%", func(s Sample) float64 { return 100 * s.HitRate }),
	}
	if len(outcomes) > 0 && outcomes[0].Report.Goodput != nil {
		c := chart{title: "goodput", y: "requests/s", bars: true}
		for _, o := range outcomes {
			c.lines = append(c.lines, line{name: label(sweeps, o), y: []float64{*o.Report.Goodput}})
		}
		list = append(list, c)
	}
	return list
}

// smoothOver is over how many samples on both sides a rate is averaged in plots.
const smoothOver = 8

// smooth averages the values of lines with their neighbours: rates between samples jump with single prompts.
func smooth(c chart) chart {
	for i := range c.lines {
		y := c.lines[i].y
		c.lines[i].y = make([]float64, len(y))
		for j := range y {
			part := y[max(0, j-smoothOver):min(len(y), j+smoothOver+1)]
			for _, v := range part {
				c.lines[i].y[j] += v / float64(len(part))
			}
		}
	}
	return c
}

func label(sweeps []Sweep, o Outcome) string {
	var parts []string
	for i, s := range sweeps {
		parts = append(parts, s.Name+"="+o.Values[i])
	}
	return strings.Join(parts, " ")
}

// axis maps values to a part of its length.
type axis struct {
	low, high float64
	log       bool
	ticks     []float64
}

// place is between 0 and 1 for values on the axis.
func (a *axis) place(v float64) float64 {
	if a.log {
		return math.Log(v/a.low) / math.Log(a.high/a.low)
	}
	return (v - a.low) / (a.high - a.low)
}

// newAxis covers values from low to high with round ticks; linear ones begin at 0.
func newAxis(low, high float64, log bool) axis {
	if log {
		a := axis{low: math.Pow(10, math.Floor(math.Log10(low))), high: math.Pow(10, math.Ceil(math.Log10(high))), log: true}
		if a.high <= a.low {
			a.high = a.low * 10
		}
		for v := a.low; v <= a.high*1.001; v *= 10 {
			a.ticks = append(a.ticks, v)
		}
		return a
	}
	if high <= 0 {
		high = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(high/4)))
	for _, times := range []float64{1, 2, 5, 10} {
		if step*times*5 >= high {
			step *= times
			break
		}
	}
	a := axis{high: step * math.Ceil(high/step*0.9999)}
	for i := 0; float64(i)*step <= a.high*1.001; i++ {
		a.ticks = append(a.ticks, float64(i)*step)
	}
	return a
}

// axes fits both axes to the lines.
func (c *chart) axes() (x, y axis) {
	lowX, highX, highY := math.Inf(1), math.Inf(-1), 0.0
	for _, l := range c.lines {
		for _, v := range l.x {
			lowX, highX = min(lowX, v), max(highX, v)
		}
		for _, v := range l.y {
			highY = max(highY, v)
		}
	}
	if math.IsInf(lowX, 0) {
		lowX, highX = 0.1, 1
	}
	return newAxis(lowX, highX, c.logX), newAxis(0, highY, false)
}

// tick writes a tick's value in few characters.
func tick(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%gM", math.Round(v/1e4)/100)
	case v >= 1e4:
		return fmt.Sprintf("%gk", math.Round(v/10)/100)
	}
	return fmt.Sprintf("%.4g", v)
}
