package dash

import (
	"cmp"
	"slices"
)

// Rect is a place on the map, in its units.
type Rect struct{ X, Y, W, H float64 }

func (r Rect) short() float64 { return min(r.W, r.H) }

// Tile gives each size a part of the rectangle in proportion to it, as square as
// that can be; the places are in the order of the sizes, which must not be
// negative. It is the squarified treemap of Bruls, Huizing and van Wijk (2000).
func Tile(sizes []float64, in Rect) []Rect {
	total := 0.0
	for _, s := range sizes {
		total += s
	}
	out := make([]Rect, len(sizes))
	if total <= 0 || in.W <= 0 || in.H <= 0 {
		return out
	}
	order := make([]int, len(sizes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(sizes[b], sizes[a]) })
	scale := in.W * in.H / total
	for len(order) > 0 && sizes[order[0]] > 0 {
		// A row takes items as long as that makes its worst one squarer.
		n, sum := 1, sizes[order[0]]*scale
		for n < len(order) && sizes[order[n]] > 0 {
			next := sizes[order[n]] * scale
			first := sizes[order[0]] * scale
			if worst(first, next, sum+next, in.short()) > worst(first, sizes[order[n-1]]*scale, sum, in.short()) {
				break
			}
			n, sum = n+1, sum+next
		}
		in = lay(out, sizes, order[:n], scale, sum, in)
		order = order[n:]
	}
	return out
}

// worst is the greatest ratio of sides in a row of the given area along side.
func worst(largest, smallest, area, side float64) float64 {
	thick := area / side
	return max(thick*thick/smallest, largest/(thick*thick))
}

// lay puts a row along the shorter side and returns what is left.
func lay(out []Rect, sizes []float64, row []int, scale, area float64, in Rect) Rect {
	if in.W >= in.H {
		w, y := area/in.H, in.Y
		for _, i := range row {
			h := sizes[i] * scale / w
			out[i] = Rect{in.X, y, w, h}
			y += h
		}
		return Rect{in.X + w, in.Y, max(in.W-w, 0), in.H}
	}
	h, x := area/in.W, in.X
	for _, i := range row {
		w := sizes[i] * scale / h
		out[i] = Rect{x, in.Y, w, h}
		x += w
	}
	return Rect{in.X, in.Y + h, in.W, max(in.H-h, 0)}
}
