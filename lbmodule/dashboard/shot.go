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

// shot is a snapshot that several requests share. It is being made until done is closed.
type shot struct {
	begun time.Time
	done  chan struct{} // closed when the fields below are set
	state []byte
	err   error
	page  func() []byte // the page with the state in it; made when first asked for
}

var errNoSnapshot = errors.New("no snapshot could be made")

// shots makes snapshots, at most one per period and one per change, however many requests ask for one. It is safe for concurrent use.
type shots struct {
	source Source

	mu     sync.Mutex // guards latest
	latest *shot      // nil if a new one must be made
}

// get returns a snapshot that is at most that old. If one is being made, it waits for that one; otherwise it makes one if needed.
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

// lent reports whether a request for a snapshot of at most that age gets this one.
func (s *shot) lent(age time.Duration) bool {
	select {
	case <-s.done:
		return time.Since(s.begun) < age
	default:
		return true
	}
}

// finish releases the requests that wait for a snapshot, even if the source has panicked, and drops the snapshot after a period.
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

// outdate makes later requests get a snapshot that begins after this call. It is called after a change.
func (s *shots) outdate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = nil
}

// statePlace is where the state stands in the page.
var statePlace = []byte("<!-- state -->")

// withState puts a state into the page, so that the page shows it before its stream has begun.
func withState(page, state []byte) []byte {
	var safe bytes.Buffer
	json.HTMLEscape(&safe, state)
	return bytes.Replace(page, statePlace, slices.Concat([]byte(`<script type="application/json" id="first">`), safe.Bytes(), []byte("</script>")), 1)
}
