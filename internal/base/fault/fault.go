// Package fault makes errors whose text is exactly what a client shall read
// and whose class (an errdefs value) is kept beside it.
package fault

import "fmt"

type classed struct {
	class error
	cause error
	text  string
}

func (e *classed) Error() string { return e.text }

func (e *classed) Unwrap() []error {
	if e.cause == nil {
		return []error{e.class}
	}
	return []error{e.class, e.cause}
}

// New returns an error of the class with the formatted text.
func New(class error, format string, args ...any) error {
	return &classed{class: class, text: fmt.Sprintf(format, args...)}
}

// Wrap returns an error of the class that also unwraps to cause; its text is
// "text: cause".
func Wrap(class, cause error, format string, args ...any) error {
	return &classed{class: class, cause: cause, text: fmt.Sprintf(format, args...) + ": " + cause.Error()}
}
