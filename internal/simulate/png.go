package simulate

import (
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"math"
)

const (
	pngScale   = 2 // pixels per unit of a plot
	pngColumns = 2
)

// WritePNG draws the plots into one picture.
func WritePNG(w io.Writer, sweeps []Sweep, outcomes []Outcome) error {
	list := charts(sweeps, outcomes)
	keys := 0
	if len(outcomes) > 1 {
		keys = len(list[0].lines)
	}
	rows := (len(list) + pngColumns - 1) / pngColumns
	c := &canvas{image.NewRGBA(image.Rect(0, 0, pngColumns*plotWidth*pngScale, (rows*plotHeight+14+keys*14)*pngScale))}
	draw.Draw(c.img, c.img.Bounds(), image.White, image.Point{}, draw.Src)
	for i := range list {
		list[i].draw(c, float64(i%pngColumns*plotWidth), float64(i/pngColumns*plotHeight))
	}
	for i := range keys {
		y := float64(rows*plotHeight + 10 + i*14)
		c.line(plotLeft, y, plotLeft+24, y, ink(i), 2)
		c.text(plotLeft+32, y+4, list[0].lines[i].name, gray)
	}
	return png.Encode(w, c.img)
}

var gray, pale = color.RGBA{70, 70, 70, 255}, color.RGBA{228, 228, 228, 255}

func ink(i int) color.RGBA {
	c := colors[i%len(colors)]
	return color.RGBA{c[0], c[1], c[2], 255}
}

// draw draws a chart with its upper left corner at (left, top), as svg does.
func (c *chart) draw(to *canvas, left, top float64) {
	x, y := c.axes()
	px := func(v float64) float64 { return left + plotLeft + x.place(v)*plotInnerWidth }
	py := func(v float64) float64 { return top + plotTop + (1-y.place(v))*plotInnerHeight }
	bottom, right := top+plotHeight-plotBottom, left+plotWidth-plotRight
	to.text(left+plotLeft, top+18, c.title, color.RGBA{17, 17, 17, 255})
	to.text(right-textWidth(c.y), top+18, c.y, gray)
	for _, v := range y.ticks {
		to.line(left+plotLeft, py(v), right, py(v), pale, 0.5)
		to.text(left+plotLeft-6-textWidth(tick(v)), py(v)+4, tick(v), gray)
	}
	if c.bars {
		width := float64(plotInnerWidth) / float64(max(1, len(c.lines)))
		for i, l := range c.lines {
			to.fill(left+plotLeft+width*(float64(i)+0.15), py(l.y[0]), width*0.7, py(0)-py(l.y[0]), ink(i))
		}
		return
	}
	for _, v := range x.ticks {
		to.line(px(v), bottom, px(v), bottom+4, gray, 0.5)
		to.text(px(v)-textWidth(tick(v))/2, bottom+17, tick(v), gray)
	}
	to.text(right-textWidth(c.x), top+plotHeight-6, c.x, gray)
	for i, l := range c.lines {
		for j := 1; j < len(l.x); j++ {
			to.line(px(l.x[j-1]), py(l.y[j-1]), px(l.x[j]), py(l.y[j]), ink(i), 0.9)
		}
	}
}

// canvas draws in units of a plot.
type canvas struct{ img *image.RGBA }

// line draws a line of some units on both sides of its middle, with smooth edges.
func (c *canvas) line(x0, y0, x1, y1 float64, ink color.RGBA, half float64) {
	x0, y0, x1, y1, half = x0*pngScale, y0*pngScale, x1*pngScale, y1*pngScale, half*pngScale
	length := math.Hypot(x1-x0, y1-y0)
	box := image.Rect(int(min(x0, x1)-half-1), int(min(y0, y1)-half-1), int(max(x0, x1)+half+2), int(max(y0, y1)+half+2)).Intersect(c.img.Bounds())
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			dx, dy := float64(x)+0.5-x0, float64(y)+0.5-y0
			along := 0.0
			if length > 0 {
				along = min(max((dx*(x1-x0)+dy*(y1-y0))/length, 0), length)
				dx, dy = dx-along*(x1-x0)/length, dy-along*(y1-y0)/length
			}
			c.blend(x, y, ink, half+0.5-math.Hypot(dx, dy))
		}
	}
}

func (c *canvas) fill(x, y, width, height float64, ink color.RGBA) {
	box := image.Rect(int(x*pngScale), int(y*pngScale), int((x+width)*pngScale), int((y+height)*pngScale))
	draw.Draw(c.img, box, image.NewUniform(ink), image.Point{}, draw.Src)
}

// blend mixes ink into a pixel.
func (c *canvas) blend(x, y int, ink color.RGBA, cover float64) {
	if cover <= 0 {
		return
	}
	cover = min(cover, 1)
	at := c.img.RGBAAt(x, y)
	mixed := func(a, b uint8) uint8 { return uint8(float64(a)*(1-cover) + float64(b)*cover + 0.5) }
	c.img.SetRGBA(x, y, color.RGBA{mixed(at.R, ink.R), mixed(at.G, ink.G), mixed(at.B, ink.B), 255})
}

// text writes with its base line at y. Letters that the font lacks are left blank.
func (c *canvas) text(x, y float64, text string, ink color.RGBA) {
	left, base := int(x*pngScale), int(y*pngScale)
	for i, r := range []rune(text) {
		g := glyph(r)
		for row := range glyphHeight {
			for column := range glyphWidth {
				if g[row]>>(glyphWidth-1-column)&1 == 0 {
					continue
				}
				for p := range glyphScale * glyphScale {
					at := image.Pt(left+i*glyphAdvance+column*glyphScale+p%glyphScale, base+(row-glyphHeight+1)*glyphScale+p/glyphScale)
					if at.In(c.img.Bounds()) {
						c.img.SetRGBA(at.X, at.Y, ink)
					}
				}
			}
		}
	}
}

func textWidth(text string) float64 { return float64(len([]rune(text))*glyphAdvance) / pngScale }
