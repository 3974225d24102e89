package caddyapp

// WordError is an error in a setting that a Caddyfile gives by these words: the first is the one to be changed, others are
// what it does not go with. The parser of the Caddyfile knows where they stand.
type WordError struct {
	Words []string
	Err   error
}

func (e *WordError) Error() string { return e.Err.Error() }

func (e *WordError) Unwrap() error { return e.Err }

// About says which words an error is about. Without an error there is none.
func About(err error, words ...string) error {
	if err == nil {
		return nil
	}
	return &WordError{words, err}
}
