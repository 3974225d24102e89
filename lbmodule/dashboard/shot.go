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

// shot is a snapshot that is being made, or was made, for all who want one at that time.
type shot struct {
	begun time.Time
	done  chan struct{} // closed when there is what follows
	state []byte
	err   error
	page  func() []byte // the page with the state in it; made when first asked for
}

var errNoSnapshot = errors.New("the state could not be told")

// shots makes one snapshot at a time and lends it for as long as it is fresh: whoever asks how often, it is made at most once a period, but for
// changes. It is safe for concurrent use.
type shots struct {
	source Source

	mu     sync.Mutex // guards what follows
	latest *shot      // nil if it must not be used any more
}

// get returns a snapshot that was begun at most age ago, or is made now. Those who come meanwhile wait for the same one.
func (s *shots) get(ctx context.Context, age time.Duration) *shot {
	s.mu.Lock()
	if l := s.latest; l != nil && l.lent(age) {
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

// lent tells whether those who want a snapshot of that age get this one.
func (s *shot) lent(age time.Duration) bool {
	select {
	case <-s.done:
		return time.Since(s.begun) < age
	default:
		return true
	}
}

// finish gives a snapshot to those who wait for it, also when the source has panicked, and lets go of it when it is not fresh any more.
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

// outdate has whoever asks from now on get a snapshot that is begun from now on: something was changed.
func (s *shots) outdate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = nil
}

// statePlace is where the state stands in the page.
var statePlace = []byte("<!-- state -->")

// withState puts a state into the page, so that it need not wait for the stream to show something.
func withState(page, state []byte) []byte {
	var safe bytes.Buffer
	json.HTMLEscape(&safe, state)
	return bytes.Replace(page, statePlace, slices.Concat([]byte(`<script type="application/json" id="first">`), safe.Bytes(), []byte("</script>")), 1)
}
