package dashboard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"
)

// shot is a snapshot that several requests share. It is complete when done is closed.
type shot struct {
	begun time.Time
	done  chan struct{} // closed when the fields below are set
	state []byte
	err   error
	page  func() []byte // the page with the state in it, made on the first call
}

var errNoSnapshot = errors.New("no snapshot could be made")

// shots makes snapshots, at most one per period and one per change, however many requests need one. It is safe for concurrent use.
type shots struct {
	source Source

	mu     sync.Mutex // guards latest
	latest *shot      // nil if a new one must be made
}

// get returns a snapshot that is younger than age. If another call is making one, get waits for that; otherwise it makes one if needed.
func (s *shots) get(ctx context.Context, age time.Duration) *shot {
	s.mu.Lock()
	if l := s.latest; l != nil && l.usable(age) {
		s.mu.Unlock()
		select {
		case <-l.done:
			return l
		case <-ctx.Done():
			return &shot{err: ctx.Err()}
		}
	}
	made := &shot{begun: time.Now(), done: make(chan struct{}), err: errNoSnapshot}
	s.latest = made
	s.mu.Unlock()
	defer s.finish(made)
	made.state, made.err = s.source.Snapshot()
	made.page = sync.OnceValue(func() []byte { return withState(files[pageFile].content, made.state) })
	return made
}

// usable reports whether s is younger than age, or is still being made.
func (s *shot) usable(age time.Duration) bool {
	select {
	case <-s.done:
		return time.Since(s.begun) < age
	default:
		return true
	}
}

// finish releases the requests that wait for a snapshot, even if the source has panicked, and drops the snapshot after one period.
func (s *shots) finish(made *shot) {
	close(made.done)
	time.AfterFunc(period, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.latest == made {
			s.latest = nil
		}
	})
}

// invalidate makes later calls of get return a snapshot that begins after this call. It is called after a change.
func (s *shots) invalidate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = nil
}

// statePlace is replaced by the state in the page.
var statePlace = []byte("<!-- state -->")

// withState puts a state into the page, so that the page can show it before its stream begins.
func withState(page, state []byte) []byte {
	var safe bytes.Buffer
	json.HTMLEscape(&safe, state)
	return bytes.Replace(page, statePlace, slices.Concat([]byte(`<script type="application/json" id="first">`), safe.Bytes(), []byte("</script>")), 1)
}
