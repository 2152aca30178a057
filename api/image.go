package api

import "time"

// Prefix begins the path of every endpoint beyond Docker's. Its version grows by
// additions; what is there keeps its meaning.
const Prefix = "/holdfast/v1"

// PathOutdated lists images that stand on an old base: GET, []OutdatedImage.
const PathOutdated = Prefix + "/images/outdated"

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
