package bench

import (
	"fmt"
	"html"
	"math"
	"os"
	"slices"
	"strings"
)

// Curve is one line of a plot.
type Curve struct {
	Plot string // which plot it belongs to
	Name string
	X, Y []float64
}

// Plot is a drawing of curves. The x axis is logarithmic if Log is set.
type Plot struct {
	Title, XLabel, YLabel string
	Log                   bool
	Curves                []Curve
}

const (
	plotWidth, plotHeight = 760.0, 440.0
	plotLeft, plotRight   = 70.0, 190.0
	plotTop, plotBottom   = 40.0, 55.0
	plotTicks             = 5
)

var plotColours = []string{"#1b6ca8", "#d1495b", "#3c8d53", "#edae49", "#6a4c93", "#444444", "#00a6a6", "#8d6e63", "#c77dff"}

// SVG draws the plot.
func (p Plot) SVG() string {
	xlow, xhigh, ytop := math.Inf(1), math.Inf(-1), 0.0
	for _, c := range p.Curves {
		for i := range c.X {
			xlow, xhigh, ytop = min(xlow, c.X[i]), max(xhigh, c.X[i]), max(ytop, c.Y[i])
		}
	}
	if xhigh == xlow {
		xhigh = xlow + 1
	}
	if ytop <= 0 {
		ytop = 1
	}
	at := func(x, y float64) (float64, float64) {
		f := (x - xlow) / (xhigh - xlow)
		if p.Log {
			f = (math.Log(x) - math.Log(xlow)) / (math.Log(xhigh) - math.Log(xlow))
		}
		return plotLeft + f*(plotWidth-plotLeft-plotRight), plotHeight - plotBottom - y/ytop*(plotHeight-plotTop-plotBottom)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/><text x="%.0f" y="22" font-size="15">%s</text>`+"\n", plotLeft, html.EscapeString(p.Title))
	for i := range plotTicks + 1 {
		y := ytop * float64(i) / plotTicks
		x0, py := at(xlow, y)
		x1, _ := at(xhigh, y)
		fmt.Fprintf(&b, `<path d="M%.1f %.1fH%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="end">%s</text>`+"\n", x0, py, x1, x0-6, py+4, short(y))
	}
	for _, x := range p.ticks(xlow, xhigh) {
		px, py := at(x, 0)
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n", px, py+16, count(x))
	}
	for i, c := range p.Curves {
		colour := plotColours[i%len(plotColours)]
		var points []string
		for j := range c.X {
			x, y := at(c.X[j], c.Y[j])
			points = append(points, fmt.Sprintf("%.1f,%.1f", x, y))
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="2.5" fill="%s"/>`, x, y, colour)
		}
		ly := plotTop + 10 + 18*float64(i)
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.8"/><path d="M%.0f %.1fh18" stroke="%s" stroke-width="3"/><text x="%.0f" y="%.1f">%s</text>`+"\n",
			strings.Join(points, " "), colour, plotWidth-plotRight+15, ly-4, colour, plotWidth-plotRight+38, ly, html.EscapeString(c.Name))
	}
	fmt.Fprintf(&b, `<text x="%.0f" y="%.0f" text-anchor="middle">%s</text>`, (plotLeft+plotWidth-plotRight)/2, plotHeight-14, html.EscapeString(p.XLabel))
	fmt.Fprintf(&b, `<text transform="translate(18 %.0f) rotate(-90)" text-anchor="middle">%s</text></svg>`+"\n", (plotTop+plotHeight-plotBottom)/2, html.EscapeString(p.YLabel))
	return b.String()
}

// ticks are where the x axis has numbers: at every point of a logarithmic one, evenly spread on others.
func (p Plot) ticks(low, high float64) []float64 {
	var ticks []float64
	if !p.Log {
		for i := range plotTicks + 1 {
			ticks = append(ticks, math.Round(low+(high-low)*float64(i)/plotTicks))
		}
		return ticks
	}
	for _, c := range p.Curves {
		ticks = append(ticks, c.X...)
	}
	slices.Sort(ticks)
	return slices.Compact(ticks)
}

// count is a number of flows as people say it.
func count(n float64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%gM", n/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%gk", n/1e3)
	default:
		return fmt.Sprintf("%g", n)
	}
}

// WriteSVG draws the plot into a file.
func (p Plot) WriteSVG(path string) error {
	return os.WriteFile(path, []byte(p.SVG()), 0o644)
}
