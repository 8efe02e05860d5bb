package cloud

import (
	"errors"
	"fmt"
)

// Error is an answer to a user: a code from EC2's (or the service's) documented list and a sentence
// that says what to do. The front turns it into the protocol's form and status; it is never matched on text.
type Error struct {
	Code    string
	Message string
}

func (e Error) Error() string { return e.Code + ": " + e.Message }

// Errorf returns an Error with a formatted sentence.
func Errorf(code, format string, args ...any) error {
	return Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Code returns the code of an Error in err's chain, or "".
func Code(err error) string {
	var e Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// NotFound returns the error for an identifier that names nothing, in EC2's form for its kind.
func NotFound[ID ~string](code, noun string, id ID) error {
	return Errorf(code, "The %s '%s' does not exist", noun, id)
}

// Malformed returns the error for an identifier that has not the form of its kind.
func Malformed[ID ~string](code string, id ID) error {
	return Errorf(code, "Invalid id: \"%.80s\"", id)
}
