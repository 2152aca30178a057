package catalog

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	maxName  = 100
	maxCents = 100_000_000
)

// Server is one database server, as it describes itself.
type Server struct {
	Name    string `json:"name"` // of its container
	Address string `json:"address"`
	Standby bool   `json:"standby"`
}

// Role is what the server is, in a word.
func (s Server) Role() string {
	if s.Standby {
		return "standby"
	}
	return "primary"
}

// Product is one row.
type Product struct {
	ID        int64     `json:"id"`
	Name      string    `json:"name"`
	Cents     int64     `json:"cents"`
	AddedAt   time.Time `json:"added_at"`
	WrittenOn string    `json:"written_on"` // address of the server that accepted it
	ReadFrom  Server    `json:"read_from"`  // the server that answered with it
}

// Price is the price as people write it.
func (p Product) Price() string { return fmt.Sprintf("%d.%02d", p.Cents/100, p.Cents%100) }

// Listing is an answer to a read.
type Listing struct {
	Products []Product `json:"products"`
	Server   Server    `json:"server"`
	// Note says what was not as it should be; empty if all was.
	Note string `json:"note,omitempty"`
}

// Added is an answer to a write. Mark is the place in the primary's log up to
// which a standby must have come to show the product.
type Added struct {
	Product Product `json:"product"`
	Server  Server  `json:"server"`
	Mark    string  `json:"mark"`
}

// InputError is a mistake in what somebody asked for; its text is for them.
type InputError struct{ Text string }

func (e *InputError) Error() string { return e.Text }

// ParsePrice reads a price such as 12, 12.5 or 12,50.
func ParsePrice(text string) (cents int64, err error) {
	wrong := &InputError{"The price must be a number such as 12.50."}
	whole, part, _ := strings.Cut(strings.Replace(strings.TrimSpace(text), ",", ".", 1), ".")
	if len(part) > 2 || whole+part == "" {
		return 0, wrong
	}
	for _, r := range whole + part {
		if r < '0' || r > '9' {
			return 0, wrong
		}
	}
	n, err := strconv.ParseInt(whole+(part + "00")[:2], 10, 64)
	if errors.Is(err, strconv.ErrRange) || n > maxCents {
		return 0, &InputError{"The price can be at most 1000000.00."}
	}
	if err != nil {
		return 0, wrong
	}
	return n, nil
}

// CheckName trims a name and says what is wrong with it.
func CheckName(name string) (string, error) {
	name = strings.TrimSpace(name)
	switch {
	case name == "":
		return "", &InputError{"The product needs a name."}
	case !utf8.ValidString(name) || strings.ContainsRune(name, 0):
		return "", &InputError{"The name is not valid text."}
	case utf8.RuneCountInString(name) > maxName:
		return "", &InputError{fmt.Sprintf("The name can be at most %d letters long.", maxName)}
	}
	return name, nil
}

func checkCents(cents int64) error {
	if cents < 0 || cents > maxCents {
		return &InputError{"The price must be between 0 and 1000000.00."}
	}
	return nil
}
