package dash

import (
	"fmt"
	"strings"
	"time"
)

// Point is what each kind took at one time.
type Point struct {
	At    time.Time
	Bytes map[string]int64
}

// The chart's size, in the units of its picture.
const (
	chartWidth  = 1000
	chartHeight = 220
)

// chart is growth over time: a band for each kind, stacked.
type chart struct {
	Width, Height int
	Bands         []band
	Top           int64 // bytes at the upper edge
	From, To      time.Time
	Rows          []chartRow // the same in words
}

type band struct {
	Class, Title string
	Path         string // of an SVG path
}

// chartRow is how a kind changed.
type chartRow struct {
	Title     string
	Then, Now int64
	Change    string
}

// drawGrowth makes the chart; nil where there is nothing to compare.
func drawGrowth(points []Point) *chart {
	if len(points) < 2 {
		return nil
	}
	first, last := points[0], points[len(points)-1]
	span := last.At.Sub(first.At)
	if span <= 0 {
		return nil
	}
	c := &chart{Width: chartWidth, Height: chartHeight, From: first.At, To: last.At}
	for _, p := range points {
		var sum int64
		for _, n := range p.Bytes {
			sum += n
		}
		c.Top = max(c.Top, sum)
	}
	if c.Top == 0 {
		return nil
	}
	x := func(p Point) float64 { return float64(p.At.Sub(first.At)) / float64(span) * chartWidth }
	y := func(n int64) float64 { return chartHeight - float64(n)/float64(c.Top)*chartHeight }
	below := make([]int64, len(points))
	for _, k := range kinds() {
		var up, down strings.Builder
		some := false
		for i, p := range points {
			top := below[i] + p.Bytes[k.Class]
			some = some || p.Bytes[k.Class] > 0
			fmt.Fprintf(&up, "%s%.1f %.1f", word(i == 0, "M", "L"), x(p), y(top))
			back := len(points) - 1 - i
			fmt.Fprintf(&down, "L%.1f %.1f", x(points[back]), y(below[back]))
		}
		for i, p := range points {
			below[i] += p.Bytes[k.Class]
		}
		if !some {
			continue
		}
		c.Bands = append(c.Bands, band{Class: k.Class, Title: k.Title, Path: up.String() + down.String() + "Z"})
		c.Rows = append(c.Rows, chartRow{
			Title: k.Title, Then: first.Bytes[k.Class], Now: last.Bytes[k.Class],
			Change: change(last.Bytes[k.Class] - first.Bytes[k.Class]),
		})
	}
	return c
}

// change is a difference for people.
func change(n int64) string {
	if n < 0 {
		return "−" + size(-n)
	}
	return "+" + size(n)
}

func word(is bool, yes, no string) string {
	if is {
		return yes
	}
	return no
}

// grew is a change of which nothing may be known.
func grew(n *int64) string {
	if n == nil {
		return "–"
	}
	return change(*n)
}
