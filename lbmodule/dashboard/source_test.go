package dashboard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// source is a [Source] for tests.
type source struct {
	mu       sync.Mutex // guards the fields below
	asked    int
	state    string // JSON
	problem  error
	events   []Event
	changes  []string
	answered error         // returned by Change, History and Explain
	takes    time.Duration // how long Snapshot takes
	panics   bool          // Snapshot panics after that time
}

func newSource() *source { return &source{state: `{"pools":[]}`} }

func (s *source) fail(problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problem = errors.New(problem)
}

func (s *source) happen(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		s.events = append(s.events, Event{ID: uint64(len(s.events) + 1), Name: name, Data: []byte(`{"pool":"web"}`)})
	}
}

func (s *source) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func (s *source) Snapshot() ([]byte, error) {
	s.mu.Lock()
	s.asked++
	state, err := []byte(s.state), s.problem
	s.mu.Unlock()
	time.Sleep(s.takes)
	if s.panics {
		panic("no state")
	}
	return state, err
}

func (s *source) Events(after uint64) []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	if after > uint64(len(s.events)) {
		return nil
	}
	return s.events[after:]
}

func (s *source) Change(_ context.Context, pool, backend string, change []byte, user string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes = append(s.changes, fmt.Sprintf("%s/%s %s by %s", pool, backend, change, user))
	return s.answered
}

func (s *source) History(p Past) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Appendf(nil, `%q`, fmt.Sprintf("%+v", p)), s.answered
}

func (s *source) Explain(pool, backend string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Appendf(nil, `%q`, pool+"/"+backend), s.answered
}
