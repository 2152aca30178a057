package dash

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestTileIsInProportion(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	in := Rect{10, 20, 900, 500}
	for range 300 {
		sizes := make([]float64, 1+rng.IntN(60))
		total := 0.0
		for i := range sizes {
			if rng.IntN(5) > 0 {
				sizes[i] = math.Floor(math.Exp(rng.Float64() * 20))
			}
			total += sizes[i]
		}
		got := Tile(sizes, in)
		for i, r := range got {
			want := 0.0
			if total > 0 {
				want = sizes[i] / total * in.W * in.H
			}
			if math.Abs(r.W*r.H-want) > 1e-6*in.W*in.H {
				t.Fatalf("%v: tile %d is %v, of %g", sizes, i, r, want)
			}
			if want == 0 {
				continue
			}
			if r.X < in.X-1e-6 || r.Y < in.Y-1e-6 || r.X+r.W > in.X+in.W+1e-6 || r.Y+r.H > in.Y+in.H+1e-6 {
				t.Fatalf("%v: tile %d is outside: %v", sizes, i, r)
			}
			for j, o := range got[:i] {
				if sizes[j] > 0 && min(r.X+r.W, o.X+o.W)-max(r.X, o.X) > 1e-6 && min(r.Y+r.H, o.Y+o.H)-max(r.Y, o.Y) > 1e-6 {
					t.Fatalf("%v: tiles %d and %d overlap: %v %v", sizes, i, j, r, o)
				}
			}
		}
	}
}

// The example of the paper: 6×4 and these areas.
func TestTileIsSquare(t *testing.T) {
	got := Tile([]float64{6, 6, 4, 3, 2, 2, 1}, Rect{0, 0, 6, 4})
	if got[0] != (Rect{0, 0, 3, 2}) || got[1] != (Rect{0, 2, 3, 2}) {
		t.Errorf("%v", got)
	}
	for i, r := range got {
		if ratio := max(r.W/r.H, r.H/r.W); ratio > 3.1 {
			t.Errorf("tile %d is %v", i, r)
		}
	}
	for _, r := range Tile([]float64{0, 0}, Rect{0, 0, 1, 1}) {
		if r != (Rect{}) {
			t.Errorf("nothing takes %v", r)
		}
	}
}
