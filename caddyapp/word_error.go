package caddyapp

import (
	"errors"
	"strings"
)

// WordError is an error in a setting, with the words of the Caddyfile that it is about: the first must be changed, the others conflict with
// it. The Caddyfile parser adds their lines.
type WordError struct {
	Words []string
	Err   error
	// Setting is the JSON name of the first word, with which the error begins; "" if the name is the same.
	Setting string
}

func (e *WordError) Error() string { return e.Err.Error() }

func (e *WordError) Unwrap() error { return e.Err }

// About adds to an error the words that it is about. It returns nil if err is nil.
func About(err error, words ...string) error {
	if err == nil {
		return nil
	}
	return &WordError{Words: words, Err: err}
}

// InWords returns the error for users of a Caddyfile: it names the word in the Caddyfile.
func (e *WordError) InWords() error {
	rest, renamed := strings.CutPrefix(e.Error(), e.Setting)
	if e.Setting == "" || !renamed {
		return e
	}
	return errors.New(e.Words[0] + rest)
}
