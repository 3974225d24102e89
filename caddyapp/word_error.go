package caddyapp

import (
	"errors"
	"strings"
)

// WordError is an error in a setting that a Caddyfile gives by these words: the first is the one to be changed, others are
// what it does not go with. The parser of the Caddyfile knows where they stand.
type WordError struct {
	Words []string
	Err   error
	// Setting is what the JSON config calls the first word, with which the error begins; "" where it is called the same.
	Setting string
}

func (e *WordError) Error() string { return e.Err.Error() }

func (e *WordError) Unwrap() error { return e.Err }

// About says which words an error is about. Without an error there is none.
func About(err error, words ...string) error {
	if err == nil {
		return nil
	}
	return &WordError{Words: words, Err: err}
}

// InWords returns the error as it is to be read in a Caddyfile: it names the word that stands there.
func (e *WordError) InWords() error {
	rest, renamed := strings.CutPrefix(e.Error(), e.Setting)
	if e.Setting == "" || !renamed {
		return e
	}
	return errors.New(e.Words[0] + rest)
}
