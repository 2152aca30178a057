package analyze

// Report is what was found in an image.
type Report struct {
	Layers     []Layer // bottom first
	Bytes      int64   // content of all files in all layers
	Wasted     int64   // of it, what later layers overwrite or delete
	Duplicated int64   // of it, further copies in other layers of what is shown
	Efficiency float64 // percent; see the package
	TopWasted  []Waste // most bytes first
	TopCopies  []Copies
	Advice     []Advice // most bytes first
	Pairs      []Pair   // which layer undoes what of which; in order of layers
	Kinds      []Kind   // bytes of known kinds of files; in order of layers
}

// Layer is what one layer does to those below it. Directories are not counted.
type Layer struct {
	Index      int // 1 is the lowest
	CreatedBy  string
	Entries    int64 // of its archive, of any kind
	Bytes      int64 // content of its files
	Added      Count
	Changed    Count // replaced what was there; bytes are the new ones
	Removed    Count // bytes are those that are not shown any more
	Rewritten  int64 // of Changed: same content, so only owner, mode or times are new
	Wasted     int64 // of Bytes: overwritten or deleted by later layers
	Duplicated int64 // of Bytes: shown, and a lower layer shows the same content
}

// Count is a number of files and the bytes in them.
type Count struct {
	Files int64
	Bytes int64
}

// How a layer undoes what another brought.
type How string

// The ways.
const (
	Deleted     How = "deleted"
	Overwritten How = "overwritten"
	Rewritten   How = "rewritten"  // with the same content
	Duplicated  How = "duplicated" // nothing is undone: the content is there twice
)

// Pair sums up what one layer does to the files of a lower one.
type Pair struct {
	From, By int // indexes of layers
	How      How
	Files    int64
	Bytes    int64
}

// Waste is a path whose content is in the image more often than it is shown.
type Waste struct {
	Path  string
	Bytes int64 // not shown
	Times int   // how often it was overwritten or deleted
	By    int   // the last layer to do so
	How   How
}

// Copies is content that several layers show.
type Copies struct {
	Digest string // first half of its SHA-256
	Size   int64  // of one
	Bytes  int64  // of those that need not be: Size for each layer but the lowest
	Layers []int
	Paths  []string // one in each layer, as far as they are listed
}

// Kind sums up files of a known kind in one layer.
type Kind struct {
	Layer int
	Name  string
	Shown int64 // bytes that the image shows
}

// efficiency is the score; see the package.
func efficiency(bytes, wasted, duplicated int64) float64 {
	if bytes <= 0 {
		return 100
	}
	return 100 * (1 - float64(wasted+duplicated)/float64(bytes))
}
