package api

import "time"

// Prefix begins the path of every endpoint beyond Docker's. Its version grows by
// additions; what is there keeps its meaning.
const Prefix = "/holdfast/v1"

// PathOutdated lists images that stand on an old base: GET, []OutdatedImage.
const PathOutdated = Prefix + "/images/outdated"

// PathAnalyze reads an image's layers: POST, AnalyzeRequest, ImageAnalysis. Who
// accepts TypeMessages gets Docker's progress messages, one a line, with how much
// of each stored layer has been read; the last one holds the ImageAnalysis as
// "aux", or an error.
const PathAnalyze = Prefix + "/images/analyze"

// TypeMessages is the type of a reply that tells its progress.
const TypeMessages = "application/x-ndjson"

// AnalyzeRequest names the image to analyse.
type AnalyzeRequest struct {
	Image    string `json:"image"`
	Platform string `json:"platform,omitempty"` // as "linux/arm64"; empty: the daemon's
	Top      int    `json:"top,omitempty"`      // how many files to list, at most 1000; 0: 10
}

// ImageAnalysis is what an image's layers hold.
//
// The score is efficiency = 100 × (1 − (wasted + duplicated) / bytes).
type ImageAnalysis struct {
	ID         string           `json:"id"`
	Names      []string         `json:"names"`
	Layers     []AnalyzedLayer  `json:"layers"`     // lowest first
	Bytes      int64            `json:"bytes"`      // content of all files of all layers
	Wasted     int64            `json:"wasted"`     // of it, what later layers overwrite or delete
	Duplicated int64            `json:"duplicated"` // of it, what further layers have of what a lower one shows
	Efficiency float64          `json:"efficiency"` // percent
	TopWasted  []WastedPath     `json:"topWasted"`
	TopCopies  []CopiedContent  `json:"topCopies"`
	Shared     []SharingImage   `json:"shared"`
	Advice     []AnalysisAdvice `json:"advice"` // what saves most comes first
	TookNanos  int64            `json:"tookNanos"`
}

// AnalyzedLayer is what one layer does. Directories are not counted.
type AnalyzedLayer struct {
	Index      int       `json:"index"` // 1 is the lowest
	Digest     string    `json:"digest"`
	DiffID     string    `json:"diffId"`
	BlobSize   int64     `json:"blobSize"` // as it is stored and sent
	CreatedBy  string    `json:"createdBy"`
	Entries    int64     `json:"entries"`
	Bytes      int64     `json:"bytes"`
	Added      FileCount `json:"added"`
	Changed    FileCount `json:"changed"`
	Removed    FileCount `json:"removed"`
	Rewritten  int64     `json:"rewritten"` // bytes of changed files whose content is the same
	Wasted     int64     `json:"wasted"`
	Duplicated int64     `json:"duplicated"`
}

// FileCount is a number of files and what is in them.
type FileCount struct {
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
}

// WastedPath is a file that layers hold and the image does not show.
type WastedPath struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
	Times int    `json:"times"`
	By    int    `json:"by"`  // the last layer that did it
	How   string `json:"how"` // deleted, overwritten, rewritten: with the same content
}

// CopiedContent is content that several layers show.
type CopiedContent struct {
	Digest string   `json:"digest"` // the first half of its SHA-256
	Size   int64    `json:"size"`
	Bytes  int64    `json:"bytes"` // of the copies that need not be
	Layers []int    `json:"layers"`
	Paths  []string `json:"paths"` // one in each layer, up to five
}

// SharingImage is another image that stands on the same lowest layers.
type SharingImage struct {
	ID     string   `json:"id"`
	Names  []string `json:"names"`
	Layers int      `json:"layers"`
	Bytes  int64    `json:"bytes"`
}

// AnalysisAdvice is what could be done better.
type AnalysisAdvice struct {
	Rule   string `json:"rule"`
	Layers []int  `json:"layers"`
	Bytes  int64  `json:"bytes"` // that it would save; 0 where it saves time
	Text   string `json:"text"`
}

// OutdatedImage is an image built on another whose name has since gone to a
// newer image.
type OutdatedImage struct {
	ID         string    `json:"id"`
	Names      []string  `json:"names"` // as users write them; empty for a dangling image
	Created    time.Time `json:"created"`
	Base       string    `json:"base"`       // the name it was built on
	BaseID     string    `json:"baseId"`     // what the name meant then
	CurrentID  string    `json:"currentId"`  // what it means now
	Since      time.Time `json:"since"`      // when the name moved
	Containers []string  `json:"containers"` // IDs of those made of it, running or not
}
