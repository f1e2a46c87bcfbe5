package expr

import (
	"errors"
	"fmt"
)

// Error is a mistake in an expression or a quantity: where it is, what is
// wrong, and what to write instead.
type Error struct {
	Col    int    // 1-based byte column in the source
	Msg    string // what is wrong
	Advice string // what to write instead; may be empty

	cause error // what a Scope or Env said, for errors.Is
}

func (e *Error) Error() string {
	if e.Advice == "" {
		return fmt.Sprintf("column %d: %s", e.Col, e.Msg)
	}
	return fmt.Sprintf("column %d: %s: %s", e.Col, e.Msg, e.Advice)
}

func (e *Error) Unwrap() error { return e.cause }

func errAt(col int, advice, format string, args ...any) *Error {
	return &Error{Col: col, Msg: fmt.Sprintf(format, args...), Advice: advice}
}

// placed gives an error that a Scope or Env returned the column of the name or
// path that it was asked for. An *Error keeps its message and advice.
func placed(col int, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return &Error{Col: col, Msg: e.Msg, Advice: e.Advice, cause: e.cause}
	}
	return &Error{Col: col, Msg: err.Error(), cause: err}
}
