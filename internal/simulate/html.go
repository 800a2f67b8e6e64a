package simulate

import (
	"fmt"
	"html/template"
	"io"
	"strings"
)

const page = `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{.Title}}</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:1000px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.3rem;margin:0}p{margin:.3rem 0 1rem;color:#555}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:1rem 0;display:block;overflow-x:auto}
th,td{text-align:right;padding:.2rem .7rem;border-bottom:1px solid #ddd;white-space:nowrap}th{color:#555;font-weight:600}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:1rem}
svg{width:100%;height:auto}text{font:12px system-ui,sans-serif;fill:#444}.t{font-size:13px;font-weight:600;fill:#111}
.k span{margin-right:1.2rem;white-space:nowrap}.k i{display:inline-block;width:1.6em;height:.25em;vertical-align:middle;margin-right:.4em}
</style>
<h1>{{.Title}}</h1>
<p>{{.Subtitle}}</p>
{{if .Legend}}<p class="k">{{range .Legend}}<span><i style="background:{{.Color}}"></i>{{.Name}}</span>{{end}}{{if .More}}and {{.More}} more runs, in the table only{{end}}</p>{{end}}
<div class="plots">{{range .Plots}}{{.}}{{end}}</div>
<table><tr>{{range .Head}}<th>{{.}}</th>{{end}}</tr>{{range .Rows}}<tr>{{range .}}<td>{{.}}</td>{{end}}</tr>{{end}}</table>
<p>Made by <code>troupe simulate</code>: virtual time, the engine's own scheduler and memory. Step costs: {{.Origin}}.</p>
</html>
`

var pageTemplate = template.Must(template.New("page").Parse(page))

type legend struct {
	Name  string
	Color template.CSS
}

// WriteHTML writes a report with plots that needs no other file.
func WriteHTML(w io.Writer, sweeps []Sweep, outcomes []Outcome) error {
	first := outcomes[0].Report
	c := &first.Config
	data := struct {
		Title, Subtitle, Origin string
		Legend                  []legend
		More                    int
		Plots                   []template.HTML
		Head                    []string
		Rows                    [][]string
	}{
		Title:    first.Trace,
		Subtitle: fmt.Sprintf("%s requests · %d × %s · %d sequences · %d tokens a step · blocks of %d", thousands(int64(first.Requests)), c.Replicas, c.Policy, c.SequencesMax, c.TokensStepMax, c.BlockSize),
		Origin:   first.Profile + ", " + c.Profile.Origin.Method,
		More:     max(0, len(outcomes)-runsPlotted),
	}
	if len(outcomes) > 1 {
		for i, o := range outcomes[:min(len(outcomes), runsPlotted)] {
			data.Legend = append(data.Legend, legend{label(sweeps, o), template.CSS(css(i))})
		}
	}
	for _, plot := range charts(sweeps, outcomes) {
		data.Plots = append(data.Plots, template.HTML(plot.svg())) // made of numbers and of text that svg escapes
	}
	for _, s := range sweeps {
		data.Head = append(data.Head, s.Name)
	}
	for _, m := range measures {
		data.Head = append(data.Head, m.name)
	}
	for _, o := range outcomes {
		row := append([]string{}, o.Values...)
		for _, m := range measures {
			text := m.form(m.value(o.Report))
			if text == "NaN" {
				text = "–"
			}
			row = append(row, text)
		}
		data.Rows = append(data.Rows, row)
	}
	return pageTemplate.Execute(w, data)
}

func css(i int) string {
	c := colors[i%len(colors)]
	return fmt.Sprintf("#%02x%02x%02x", c[0], c[1], c[2])
}

// The layout of a plot in units of its view box.
const (
	plotWidth, plotHeight                    = 480, 270
	plotLeft, plotRight, plotTop, plotBottom = 56, 24, 30, 42
	plotInnerWidth, plotInnerHeight          = plotWidth - plotLeft - plotRight, plotHeight - plotTop - plotBottom
)

// svg draws a chart.
func (c *chart) svg() string {
	var b strings.Builder
	x, y := c.axes()
	px := func(v float64) float64 { return plotLeft + x.place(v)*plotInnerWidth }
	py := func(v float64) float64 { return plotTop + (1-y.place(v))*plotInnerHeight }
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img" aria-label="%s"><text class="t" x="%d" y="18">%s</text>`, plotWidth, plotHeight,
		template.HTMLEscapeString(c.title), plotLeft, template.HTMLEscapeString(c.title))
	for _, v := range y.ticks {
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#e4e4e4"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`,
			plotLeft, plotWidth-plotRight, py(v), py(v), plotLeft-6, py(v)+4, tick(v))
	}
	fmt.Fprintf(&b, `<text x="%d" y="18" text-anchor="end">%s</text>`, plotWidth-plotRight, template.HTMLEscapeString(c.y))
	if c.bars {
		c.svgBars(&b, py)
		return b.String() + "</svg>"
	}
	for _, v := range x.ticks {
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#888"/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`,
			px(v), px(v), plotHeight-plotBottom, plotHeight-plotBottom+4, px(v), plotHeight-plotBottom+17, tick(v))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, plotWidth-plotRight, plotHeight-6, template.HTMLEscapeString(c.x))
	for i, l := range c.lines {
		fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="1.8" stroke-linejoin="round" points="`, css(i))
		for j := range l.x {
			fmt.Fprintf(&b, "%.1f,%.1f ", px(l.x[j]), py(l.y[j]))
		}
		b.WriteString(`"/>`)
	}
	return b.String() + "</svg>"
}

func (c *chart) svgBars(b *strings.Builder, py func(float64) float64) {
	width := float64(plotInnerWidth) / float64(max(1, len(c.lines)))
	for i, l := range c.lines {
		fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"><title>%s</title></rect>`,
			plotLeft+width*(float64(i)+0.15), py(l.y[0]), width*0.7, py(0)-py(l.y[0]), css(i), template.HTMLEscapeString(l.name))
	}
}
